/** The worker itself, a browser's or Node's, by whichever of its {@link kits} can be started. */
import { relaxedSimd } from 'wasm-feature-detect';
import { kits, unavailable, type Kit, type Script } from './assets.js';
import { engineUnavailable, MobileLLMError } from './errors.js';
import { node } from './platform.js';
import type { Answer, FromWorker, ToWorker } from './protocol.js';
import type { AssetOptions } from './types.js';

export interface Listener {
  receive(message: Answer): void;
  /** The worker runs no more. */
  crashed(detail: string, cause?: unknown): void;
  /** None could be started. */
  unavailable(error: MobileLLMError): void;
}

/** What a browser's Worker and Node's have in common. */
interface Thread {
  post(message: ToWorker): void;
  terminate(): void;
  /** Node only: whether the worker keeps the process alive. */
  hold(alive: boolean): void;
}

export class Port {
  #listener: Listener;
  #thread: Thread | null = null;
  #kit: Kit | null = null;
  #held = false;
  #ended = false;
  /** Until the worker answers for the first time: another one may have to be told the same. */
  #sent: ToWorker[] | null = [];

  constructor(options: AssetOptions, listener: Listener) {
    if (!node && typeof Worker === 'undefined') {
      throw engineUnavailable('there are no workers here: the engine runs in one');
    }
    this.#listener = listener;
    this.#start(options).catch((error: unknown) => {
      if (!this.#ended) listener.unavailable(error instanceof MobileLLMError ? error : engineUnavailable(`the engine's files cannot be had: ${error}`, error));
    });
  }

  post(message: ToWorker): void {
    this.#sent?.push(message);
    this.#thread?.post(message);
  }

  hold(alive: boolean): void {
    this.#held = alive;
    this.#thread?.hold(alive);
  }

  terminate(): void {
    this.#ended = true;
    this.#thread?.terminate();
    this.#thread = null;
    this.#kit?.release();
    this.#kit = null;
  }

  async #start(options: AssetOptions): Promise<void> {
    const tried: string[] = [];
    let cause: unknown;
    for await (const kit of kits((await relaxedSimd()) ? 'relaxed' : 'simd128', options)) {
      if (this.#ended) return kit.release();
      this.#kit = kit;
      const failure = await this.#try(kit);
      if (!failure || this.#ended) return;
      kit.release();
      this.#kit = this.#thread = null;
      tried.push(`${kit.from} (${failure.detail})`);
      cause = failure.cause;
    }
    throw unavailable(tried, cause);
  }

  /** Resolves when the worker has answered, with null, or when it has failed before. */
  #try({ script, assets }: Kit): Promise<{ detail: string; cause?: unknown } | null> {
    return new Promise((resolve) => {
      const receive = (message: FromWorker) => {
        if (!('ready' in message)) return this.#listener.receive(message);
        this.#sent = null;
        resolve(null);
      };
      const crash = (detail: string, cause?: unknown) => {
        if (this.#ended) return resolve(null);
        if (this.#sent) resolve({ detail, cause });
        else this.#listener.crashed(detail, cause);
      };
      try {
        this.#thread = (node ? nodeThread : browserThread)(script, receive, crash);
      } catch (error) {
        return crash(String(error), error);
      }
      this.#thread.hold(this.#held);
      this.#thread.post({ script, assets });
      for (const message of this.#sent ?? []) this.#thread.post(message);
    });
  }
}

type Receive = (message: FromWorker) => void;
type Crash = (detail: string, cause?: unknown) => void;

function browserThread({ url, type }: Script, receive: Receive, crash: Crash): Thread {
  const worker = new Worker(url, { type, name: 'mobilellm' });
  worker.onmessage = (event: MessageEvent<FromWorker>) => receive(event.data);
  worker.onmessageerror = () => crash('a message could not be read');
  worker.onerror = (event) => {
    event.preventDefault();
    crash(event.message || 'its script could not be loaded', event.error);
  };
  return { post: (message) => worker.postMessage(message), terminate: () => worker.terminate(), hold: () => {} };
}

function nodeThread({ url }: Script, receive: Receive, crash: Crash): Thread {
  // The flags that this process was started with are not for the worker.
  const worker = new node!.threads.Worker(new URL(url), { execArgv: [] });
  worker.on('message', receive);
  worker.on('error', (error) => crash(error.message, error));
  worker.on('exit', (code) => crash(`it exited with code ${code}`));
  return {
    post: (message) => worker.postMessage(message),
    terminate: () => void worker.terminate(),
    hold: (alive) => (alive ? worker.ref() : worker.unref()),
  };
}

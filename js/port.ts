/** The worker itself, a browser's or Node's, by whichever of its {@link kits} can be started. */
import { relaxedSimd } from 'wasm-feature-detect';
import { kits, unavailable, type Kit, type Script } from './assets.js';
import { cspBlocked, engineUnavailable, MobileLLMError, said } from './errors.js';
import { node } from './platform.js';
import { forbidden, untrusted, watchPolicy } from './policy.js';
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
      if (!this.#ended)
        listener.unavailable(
          error instanceof MobileLLMError ? error : engineUnavailable(`the engine's files cannot be had: ${error}`, error),
        );
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
    if (typeof WebAssembly === 'undefined')
      throw engineUnavailable('there is no WebAssembly here (Lockdown Mode of Apple devices turns it off)');
    watchPolicy();
    const tried: string[] = [];
    let needed: string | null = null;
    let cause: unknown;
    for await (const kit of kits((await relaxedSimd()) ? 'relaxed' : 'simd128', options)) {
      if (this.#ended) return kit.release();
      this.#kit = kit;
      const failure = await this.#try(kit);
      if (!failure || this.#ended) return;
      needed ??= untrusted(failure.cause) ?? (await forbidden(kit.script.url, ['worker-src']));
      tried.push(`${kit.from} (${failure.silent ? await whyNot(kit.script.url) : failure.detail})`);
      kit.release();
      this.#kit = this.#thread = null;
      cause = failure.cause;
    }
    if (needed) throw cspBlocked(`the engine's worker (${tried.join(', ')})`, needed, cause);
    throw unavailable(tried, cause);
  }

  /** Resolves when the worker has answered, with null, or when it has failed before. */
  #try({ script, assets, from }: Kit): Promise<Failure | null> {
    return new Promise((resolve) => {
      const receive = (message: FromWorker) => {
        if (!('ready' in message)) return this.#listener.receive(message);
        this.#sent = null;
        resolve(null);
      };
      const crash = (detail: string, cause?: unknown) => {
        if (this.#ended) return resolve(null);
        if (this.#sent) resolve({ detail, cause, silent: detail === '' });
        else this.#listener.crashed(`${from}: ${detail || 'without a word, as where the browser has no memory left'}`, cause);
      };
      try {
        this.#thread = (node ? nodeThread : browserThread)(script, receive, crash);
      } catch (error) {
        return crash(said(error), error);
      }
      this.#thread.hold(this.#held);
      this.#thread.post({ script, assets });
      for (const message of this.#sent ?? []) this.#thread.post(message);
    });
  }
}

interface Failure {
  detail: string;
  cause?: unknown;
  /** The browser says no more than that there was an error: its script could not be had. */
  silent: boolean;
}

/** Why the browser could not load a worker's script: what asking for it again shows. */
async function whyNot(script: string): Promise<string> {
  let response: Response;
  try {
    response = await fetch(script, { signal: AbortSignal.timeout(3000) });
  } catch {
    return 'its script could not be loaded: no connection, or something in between blocks it';
  }
  const type = response.headers.get('content-type') ?? 'no type';
  if (!response.ok) return `its script could not be loaded: HTTP ${response.status}`;
  if (!/javascript|ecmascript/.test(type))
    return `its script is ${type}, not JavaScript: another file, or the host's own page, is at that address`;
  if (
    globalThis.crossOriginIsolated &&
    !/require-corp|credentialless/.test(response.headers.get('cross-origin-embedder-policy') ?? 'require-corp')
  ) {
    return 'its script is served without Cross-Origin-Embedder-Policy, which this page demands';
  }
  return 'its script is there and could not be started: it is cut off, or one of its own imports or headers keeps it from running';
}

type Receive = (message: FromWorker) => void;
type Crash = (detail: string, cause?: unknown) => void;

function browserThread({ url, type }: Script, receive: Receive, crash: Crash): Thread {
  const worker = new Worker(url, { type, name: 'mobilellm' });
  worker.onmessage = (event: MessageEvent<FromWorker>) => receive(event.data);
  worker.onmessageerror = () => crash('a message could not be read');
  worker.onerror = (event) => {
    event.preventDefault();
    crash(event.message ?? '', event.error);
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

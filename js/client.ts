/** The page's end of the worker: one call in flight, the others wait in order. */
import { relaxedSimd } from 'wasm-feature-detect';
import { closedError, crashedError, MobileLLMError } from './errors.js';
import type { Call, Calls, FromWorker, ToWorker } from './protocol.js';
import type { Chunk, EventDetail, LoadProgress } from './types.js';
import { node } from './platform.js';

/** What a browser's Worker and Node's have in common. */
interface Port {
  post(message: ToWorker): void;
  terminate(): void;
  /** Node only: whether the worker keeps the process alive. */
  hold(alive: boolean): void;
}

interface Job {
  start(): void;
  fail(error: unknown): void;
}

export interface CallHooks<R, T> {
  /** Aborting takes a call out of the queue; one that is under way is asked to stop. */
  signal?: AbortSignal | undefined;
  /** Runs when the call's turn has come; what it returns is sent. May throw. */
  prepare: () => unknown;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  onChunk?: (chunk: Chunk) => void;
  /** Maps the result, before the next call's turn. May throw. */
  finish: (result: R) => T;
  /** Sees a failure of a call that had its turn, before the next call's. */
  onFailure?: () => void;
}

/** A call that may be waiting or under way. */
export interface Pending<T> {
  result: Promise<T>;
  /** Asks for an early end. */
  stop(): void;
}

/** A worker with its own engine. */
export class Client {
  #port: Port;
  #nextId = 1;
  #waiting: Job[] = [];
  #running: { id: number; answered(message: FromWorker): void; fail(error: unknown): void } | null = null;
  /** Why nothing more can be asked. */
  #ended: MobileLLMError | null = null;
  #onEvent: (event: string, detail: EventDetail) => void;

  private constructor(open: typeof browserPort, relaxed: boolean, onEvent: (event: string, detail: EventDetail) => void) {
    this.#onEvent = onEvent;
    this.#port = open(
      relaxed,
      (message) => this.#receive(message),
      // The worker's own words, if it had any left, are on their way and say more.
      (detail, cause) => void setTimeout(() => this.end(crashedError(detail, cause)), 20),
    );
    this.#port.hold(false);
  }

  static async start(onEvent: (event: string, detail: EventDetail) => void = () => {}): Promise<Client> {
    const relaxed = await relaxedSimd();
    return new Client(node ? nodePort : browserPort, relaxed, onEvent);
  }

  /** Asks, in order, and resolves with the answer. */
  call<C extends Call>(call: C, args: Calls[C][0], onProgress?: (progress: LoadProgress) => void): Promise<Calls[C][1]> {
    return this.enqueue(call, { prepare: () => args, finish: (result: Calls[C][1]) => result, onProgress }).result;
  }

  enqueue<C extends Call, T>(call: C, hooks: CallHooks<Calls[C][1], T>): Pending<T> {
    const { signal } = hooks;
    const id = this.#nextId++;
    let stopped = false;
    const stop = () => {
      stopped = true;
      if (this.#running?.id === id) this.#port.post({ id, stop: true });
    };
    const result = new Promise<T>((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      if (signal?.aborted) return reject(signal.reason);
      const abort = () => {
        const place = this.#waiting.indexOf(job);
        if (place < 0) return stop();
        this.#waiting.splice(place, 1);
        reject(signal!.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
      const settle = (how: () => void) => {
        signal?.removeEventListener('abort', abort);
        try {
          how();
        } catch (error) {
          reject(error);
        }
      };
      const fail = (error: unknown) =>
        settle(() => {
          hooks.onFailure?.();
          reject(error);
        });
      const next = () => {
        this.#running = null;
        this.#port.hold(false);
        this.#next();
      };
      const answered = (message: FromWorker) => {
        if ('progress' in message) return hooks.onProgress?.(message.progress);
        if ('chunk' in message) return hooks.onChunk?.(message.chunk);
        if ('error' in message) fail(MobileLLMError.fromWire(message.error));
        else if ('result' in message) settle(() => resolve(hooks.finish(message.result as Calls[C][1])));
        next();
      };
      const job: Job = {
        fail: (error) => settle(() => reject(error)),
        start: () => {
          this.#running = { id, answered, fail };
          try {
            this.#port.hold(true);
            this.#port.post({ id, call, args: hooks.prepare() } as ToWorker);
            if (stopped) stop();
          } catch (error) {
            fail(error);
            next();
          }
        },
      };
      this.#waiting.push(job);
      if (!this.#running) this.#next();
    });
    return { result, stop };
  }

  /** Ends the worker; every call that is not answered yet, and every later one, fails with `error`. */
  end(error: MobileLLMError): void {
    if (this.#ended) return;
    this.#ended = error;
    this.#port.terminate();
    const jobs = [this.#running, ...this.#waiting.splice(0)];
    this.#running = null;
    for (const job of jobs) job?.fail(error);
  }

  /** Lets the worker free the GPU, then ends it. A worker that is deep in a computation is not waited for longer than a moment. */
  async close(): Promise<void> {
    if (this.#ended) return;
    const jobs = [this.#running, ...this.#waiting.splice(0)];
    const error = closedError('the model');
    this.#ended = error;
    const freed = new Promise<void>((resolve) => {
      const id = this.#nextId++;
      this.#running = { id, answered: () => resolve(), fail: () => resolve() };
      this.#port.hold(true);
      this.#port.post({ id, call: 'close', args: null });
      setTimeout(resolve, 1000);
    });
    for (const job of jobs) job?.fail(error);
    await freed;
    this.#running = null;
    this.#port.terminate();
  }

  #next(): void {
    if (!this.#running) this.#waiting.shift()?.start();
  }

  #receive(message: FromWorker): void {
    if ('event' in message) this.#onEvent(message.event, message.detail);
    else if ('crashed' in message) this.end(crashedError(message.crashed));
    else if (message.id === this.#running?.id) this.#running.answered(message);
  }
}

type Receive = (message: FromWorker) => void;
type Crash = (detail: string, cause?: unknown) => void;

function browserPort(relaxed: boolean, receive: Receive, crash: Crash): Port {
  // Bundlers look for exactly this form.
  const worker = relaxed
    ? new Worker(new URL('./wasm/relaxed/worker.js', import.meta.url), { type: 'module', name: 'mobilellm' })
    : new Worker(new URL('./wasm/simd128/worker.js', import.meta.url), { type: 'module', name: 'mobilellm' });
  worker.onmessage = (event: MessageEvent<FromWorker>) => receive(event.data);
  worker.onmessageerror = () => crash('a message could not be read');
  worker.onerror = (event) => {
    event.preventDefault();
    crash(event.message || 'its script could not be loaded', event.error);
  };
  return { post: (message) => worker.postMessage(message), terminate: () => worker.terminate(), hold: () => {} };
}

function nodePort(relaxed: boolean, receive: Receive, crash: Crash): Port {
  const script = `./wasm/${relaxed ? 'relaxed' : 'simd128'}/worker.js`;
  // The flags that this process was started with are not for the worker.
  const worker = new node!.threads.Worker(new URL(/* @vite-ignore */ /* webpackIgnore: true */ script, import.meta.url), { execArgv: [] });
  worker.on('message', receive);
  worker.on('error', (error) => crash(error.message, error));
  worker.on('exit', (code) => crash(`it exited with code ${code}`));
  return {
    post: (message) => worker.postMessage(message),
    terminate: () => void worker.terminate(),
    hold: (alive) => (alive ? worker.ref() : worker.unref()),
  };
}

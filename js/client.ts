/** The page's end of the worker: one call in flight, the others wait in order. */
import { closedError, crashedError, MobileLLMError, outward } from './errors.js';
import { Port } from './port.js';
import type { Answer, Call, Calls, ToWorker } from './protocol.js';
import type { AssetOptions, Chunk, EventDetail, LoadProgress } from './types.js';

interface Job {
  start(): void;
  fail(error: unknown): void;
}

interface Running {
  id: number;
  answered(message: Answer): void;
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

/** Those that are waiting for an answer: nothing else may hold them meanwhile. */
const busy = new Set<Client>();
/** Ends the worker of a client that nobody holds any more, as that of a module which a development server replaced. */
const abandoned = new FinalizationRegistry<Port>((port) => port.terminate());

/** A worker with its own engine. */
export class Client {
  #port: Port;
  #nextId = 1;
  #waiting: Job[] = [];
  #running: Running | null = null;
  /** Why nothing more can be asked. */
  #ended: MobileLLMError | null = null;
  #onEvent: (event: string, detail: EventDetail) => void;

  /** @throws MobileLLMError `engine-unavailable` where there are no workers. */
  constructor(options: AssetOptions, onEvent: (event: string, detail: EventDetail) => void = () => {}) {
    this.#onEvent = onEvent;
    // A worker that runs would keep what hears it.
    const self = new WeakRef(this);
    this.#port = new Port(options, {
      receive: (message) => self.deref()?.receive(message),
      // The worker's own words, if it had any left, are on their way and say more.
      crashed: (detail, cause) => void setTimeout(() => self.deref()?.end(crashedError(detail, cause)), 20),
      unavailable: (error) => self.deref()?.end(error),
    });
    abandoned.register(this, this.#port, this);
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
          reject(outward(error, signal));
        }
      };
      const fail = (error: unknown) =>
        settle(() => {
          hooks.onFailure?.();
          reject(outward(error, signal));
        });
      const next = () => {
        this.#turn(null);
        this.#next();
      };
      const answered = (message: Answer) => {
        if ('progress' in message) return hooks.onProgress?.(message.progress);
        if ('chunk' in message) return hooks.onChunk?.(message.chunk);
        if ('error' in message) fail(MobileLLMError.fromWire(message.error));
        else if ('result' in message) settle(() => resolve(hooks.finish(message.result as Calls[C][1])));
        next();
      };
      const job: Job = {
        fail: (error) => settle(() => reject(error)),
        start: () => {
          this.#turn({ id, answered, fail });
          try {
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
    this.#turn(null);
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
      this.#turn({ id, answered: () => resolve(), fail: () => resolve() });
      this.#port.post({ id, call: 'close', args: null });
      setTimeout(resolve, 1000);
    });
    for (const job of jobs) job?.fail(error);
    await freed;
    this.#turn(null);
    this.#port.terminate();
  }

  #turn(running: Running | null): void {
    this.#running = running;
    if (running) busy.add(this);
    else busy.delete(this);
    this.#port.hold(running !== null);
  }

  #next(): void {
    if (!this.#running) this.#waiting.shift()?.start();
  }

  /** @internal */
  receive(message: Answer): void {
    if ('event' in message) this.#onEvent(message.event, message.detail);
    else if ('crashed' in message) this.end(crashedError(message.crashed));
    else if (message.id === this.#running?.id) this.#running.answered(message);
  }
}

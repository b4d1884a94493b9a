/**
 * CPU threads: each is a worker with a wasm instance and weights of its own. What they hand each other lies in one
 * SharedArrayBuffer; they meet by counters in it. See `src/backend/cpu/team.rs`.
 */
import type { Script } from './assets.js';
import { node } from './platform.js';

/** Int32 indices of the shared head; the counters lie a cache line apart. */
const FAILED = 0;
const SLEEPERS = 1;
const LENGTH = 2;
const ARRIVED = 16;
/** Bytes kept for the message of a failure. */
const TEXT = 1024;
/** Looks at a counter before sleeping on it: some tens of microseconds. */
const SPINS = 1 << 14;
/** Milliseconds of a sleep; whoever wakes looks whether another thread failed. */
const NAP = 500;
/** Milliseconds without a sign of another thread after which it counts as lost. */
const LOST = 15_000;

/** One thread's place at the meetings. Rank 0 leads. Methods of the `Exchange` of `src/web/exchange.rs`. */
export class Exchange {
  readonly rank: number;
  readonly count: number;
  readonly #head: Int32Array;
  readonly #text: Uint8Array;
  /** Of even and odd meetings, so that one may be read while the next is filled. */
  readonly #slots: [Uint32Array, Uint32Array];
  #round = 0;
  /** Whether this thread is a meeting ahead. */
  #posted = false;
  /** Milliseconds. */
  #waited = 0;

  constructor(shared: SharedArrayBuffer, rank: number, count: number, words: number) {
    const data = 4 * ARRIVED * (1 + count) + TEXT;
    this.rank = rank;
    this.count = count;
    this.#head = new Int32Array(shared, 0, ARRIVED * (1 + count));
    this.#text = new Uint8Array(shared, data - TEXT, TEXT);
    this.#slots = [new Uint32Array(shared, data, words), new Uint32Array(shared, data + 4 * words, words)];
  }

  static bytes(count: number, words: number): number {
    return 4 * ARRIVED * (1 + count) + TEXT + 8 * words;
  }

  gather(own: Uint32Array, offset: number, all: Uint32Array): void {
    this.#catchUp();
    const slot = this.#slots[(this.#round & 1) as 0 | 1];
    slot.set(own, offset);
    this.#meet();
    all.set(slot.subarray(0, all.length));
  }

  send(message: Uint32Array): void {
    this.#catchUp();
    const side = (this.#round & 1) as 0 | 1;
    this.#slots[side].set(message);
    Atomics.store(this.#head, LENGTH + side, message.length);
    this.#meet();
  }

  /** The same without waiting; the next meeting begins only when every follower has it. */
  post(message: Uint32Array): void {
    this.#catchUp();
    const side = (this.#round & 1) as 0 | 1;
    this.#slots[side].set(message);
    Atomics.store(this.#head, LENGTH + side, message.length);
    this.#arrive();
    this.#posted = true;
  }

  /** Whether every follower has what was posted. */
  met(): boolean {
    for (let rank = 0; rank < this.count; rank++) {
      if (((Atomics.load(this.#head, ARRIVED * (1 + rank)) - this.#round) | 0) < 0) return false;
    }
    return true;
  }

  /** Words of the next message, which {@link copy} then gives. */
  receive(): number {
    const side = this.#round & 1;
    this.#meet();
    return Atomics.load(this.#head, LENGTH + side);
  }

  copy(into: Uint32Array): void {
    into.set(this.#slots[((this.#round - 1) & 1) as 0 | 1].subarray(0, into.length));
  }

  /** Every thread's next meeting throws `message`; the first failure stays. */
  fail(message: string): void {
    if (Atomics.load(this.#head, FAILED) !== 0) return;
    const { written } = new TextEncoder().encodeInto(message, new Uint8Array(TEXT).subarray(0, TEXT));
    const bytes = new TextEncoder().encode(message).subarray(0, written);
    this.#text.set(bytes);
    Atomics.compareExchange(this.#head, FAILED, 0, Math.max(1, bytes.length));
    for (let rank = 0; rank < this.count; rank++) Atomics.notify(this.#head, ARRIVED * (1 + rank));
  }

  /** Milliseconds waited for other threads since this was last asked. */
  waited(): number {
    const waited = this.#waited;
    this.#waited = 0;
    return waited;
  }

  #meet(): void {
    this.#arrive();
    this.#awaitAll();
  }

  /** After {@link post}: the slot that is filled next may still be read from the meeting before. */
  #catchUp(): void {
    if (this.#posted) this.#awaitAll();
    this.#posted = false;
  }

  #arrive(): void {
    const own = ARRIVED * (1 + this.rank);
    Atomics.store(this.#head, own, (this.#round = (this.#round + 1) | 0));
    // The order of these two and of a sleeper's two (count itself, compare the counter) leaves no sleeper behind.
    if (Atomics.load(this.#head, SLEEPERS) > 0) Atomics.notify(this.#head, own);
  }

  #awaitAll(): void {
    for (let rank = 0; rank < this.count; rank++) {
      if (rank !== this.rank) this.#await(ARRIVED * (1 + rank), this.#round);
    }
    if (Atomics.load(this.#head, FAILED) !== 0) this.#throw();
  }

  #await(counter: number, round: number): void {
    if (((Atomics.load(this.#head, counter) - round) | 0) >= 0) return;
    const start = performance.now();
    this.#sleep(counter, round);
    this.#waited += performance.now() - start;
  }

  /** Looks for a while, then sleeps. */
  #sleep(counter: number, round: number): void {
    const head = this.#head;
    for (let spin = 0; spin < SPINS; spin++) {
      if (((Atomics.load(head, counter) - round) | 0) >= 0) return;
    }
    let waited = 0;
    for (;;) {
      const seen = Atomics.load(head, counter);
      if (((seen - round) | 0) >= 0) return;
      if (Atomics.load(head, FAILED) !== 0) this.#throw();
      Atomics.add(head, SLEEPERS, 1);
      const result = Atomics.wait(head, counter, seen, NAP);
      Atomics.sub(head, SLEEPERS, 1);
      // A follower may wait for its leader for ever: the next command comes when the user asks.
      if (result === 'timed-out' && this.rank === 0 && (waited += NAP) >= LOST) {
        this.fail('a thread stopped without a word');
      }
    }
  }

  #throw(): never {
    const bytes = this.#text.slice(0, Atomics.load(this.#head, FAILED));
    throw new Error(new TextDecoder().decode(bytes));
  }
}

/** What a worker is told that is to be a thread. */
export interface FollowRequest {
  module: WebAssembly.Module;
  shared: SharedArrayBuffer;
  rank: number;
  count: number;
  words: number;
  config: string;
  precision: string;
}

interface Thread {
  post(message: { follow: FollowRequest }): void;
  terminate(): void;
}

/** The threads that follow this one. */
export class Team {
  readonly #threads: Thread[] = [];

  /**
   * Starts `count - 1` workers from `script` (this worker's own) and waits until each has its instance.
   *
   * @throws what kept a worker from starting; those that did start are ended.
   */
  async start(
    script: Script,
    module: WebAssembly.Module,
    count: number,
    words: number,
    config: string,
    precision: string,
  ): Promise<Exchange> {
    const shared = new SharedArrayBuffer(Exchange.bytes(count, words));
    const exchange = new Exchange(shared, 0, count, words);
    try {
      const starts = Array.from({ length: count - 1 }, (_, i) =>
        this.#spawn(script, { module, shared, rank: i + 1, count, words, config, precision }, (why) => exchange.fail(why)),
      );
      await Promise.all(starts);
    } catch (error) {
      this.end();
      throw error;
    }
    return exchange;
  }

  end(): void {
    for (const thread of this.#threads.splice(0)) thread.terminate();
  }

  /** `lost` hears of a thread that ends after it started: the next meeting fails. */
  #spawn({ url, type }: Script, follow: FollowRequest, lost: (why: string) => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const ended = (why: string) => {
        reject(new Error(why));
        lost(why);
      };
      const heard = (message: { following?: true; failed?: string }) =>
        message.following ? resolve() : reject(new Error(message.failed ?? 'unexpected answer of a CPU thread'));
      if (node) {
        const worker = new node.threads.Worker(new URL(url), { execArgv: [] });
        worker
          .on('message', heard)
          .on('error', (error) => ended(error.message))
          .on('exit', () => ended('a CPU thread ended'));
        this.#threads.push({ post: (m) => worker.postMessage(m), terminate: () => void worker.terminate() });
      } else {
        const worker = new Worker(url, { type });
        worker.onmessage = ({ data }) => heard(data);
        worker.onerror = (event) => {
          // The team goes on without it; unhandled it would end the engine's worker.
          event.preventDefault();
          ended(event.message || 'a CPU thread could not start');
        };
        this.#threads.push({ post: (m) => worker.postMessage(m), terminate: () => worker.terminate() });
      }
      this.#threads.at(-1)!.post({ follow });
    });
  }
}

/** The most threads there can be, and why not more; `wanted` null: all cores. */
export function threadCount(wanted: number | null): { threads: number; reason: string | null } {
  if (!node && !globalThis.crossOriginIsolated) {
    if (wanted === 1) return { threads: 1, reason: null };
    return {
      threads: 1,
      reason:
        'one CPU thread: the page is not cross-origin isolated (serve it with COOP: same-origin and COEP: require-corp, or use sw-helper)',
    };
  }
  const cores = node ? node.os.availableParallelism() : navigator.hardwareConcurrency || 1;
  return { threads: wanted ?? cores, reason: null };
}

import type { Chunk, GenerateResult, Run } from './types.js';
import type { Pending } from './client.js';

/** Chunks of a run, for any number of loops; each sees all of them. */
export class ChunkLog {
  #chunks: Chunk[] = [];
  #ended = false;
  #wake: (() => void)[] = [];

  push(chunk: Chunk): void {
    this.#chunks.push(chunk);
    this.#wakeAll();
  }

  run(pending: Pending<GenerateResult>): Run {
    const { result, stop } = pending;
    const end = () => {
      this.#ended = true;
      this.#wakeAll();
    };
    // Handled here too, so that a failure seen in the loop alone is no unhandled rejection.
    result.then(end, end);
    return { result, stop, [Symbol.asyncIterator]: () => this.#loop(pending) };
  }

  async *#loop({ result, stop }: Pending<GenerateResult>): AsyncGenerator<Chunk, undefined, undefined> {
    let left = true;
    try {
      for (let at = 0; ; ) {
        if (at < this.#chunks.length) yield this.#chunks[at++]!;
        else if (this.#ended) break;
        else await new Promise<void>((resolve) => this.#wake.push(resolve));
      }
      left = false;
      await result;
    } finally {
      if (left) stop();
    }
  }

  #wakeAll(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

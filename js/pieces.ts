/**
 * Stored pieces, read and hashed in a worker of their own while the engine's lays weights out: what `IdbStore::piece` of
 * `src/web/store.rs` does by itself where this fails.
 */
import { openDB, type IDBPDatabase } from 'idb';
import type { Script } from './assets.js';

export interface PieceRequest {
  id: number;
  database: string;
  store: string;
  key: string;
  /** Bytes of each block that is to be hashed, the last may be shorter; 0: none. */
  block: number;
}

export interface FoundPiece {
  bytes: ArrayBuffer;
  /** What it was stored with. */
  sha256: string;
  /** SHA-256 of each block, one behind the other. */
  digests: Uint8Array;
}

type Answer = { reading: true } | ({ id: number } & ({ found: FoundPiece | null } | { failed: string }));

/** Milliseconds after which a read counts as one that will never answer. */
const PATIENCE = 30_000;

/** The engine's side. Nothing waits for the worker to start, which the network may delay: until then every read fails. */
export class PieceReader {
  #worker: Worker | null = null;
  #started = false;
  readonly #waiting = new Map<number, { resolve(found: FoundPiece | null): void; reject(error: Error): void }>();
  #last = 0;
  /** By key. */
  readonly #expected = new Map<string, Promise<FoundPiece | null>>();

  /** `script` is this worker's own. */
  constructor({ url, type }: Script) {
    try {
      this.#worker = new Worker(url, { type });
    } catch {
      return;
    }
    this.#worker.onerror = (event) => {
      // The engine goes on without it.
      event.preventDefault();
      this.end();
    };
    this.#worker.postMessage({ read: null });
    this.#worker.onmessage = ({ data }: { data: Answer }) => {
      if ('reading' in data) {
        this.#started = true;
        return;
      }
      const waiting = this.#waiting.get(data.id);
      this.#waiting.delete(data.id);
      if ('found' in data) waiting?.resolve(data.found);
      else waiting?.reject(new Error(data.failed));
    };
  }

  /** Begins to read a piece that {@link read} will be asked for. */
  expect(database: string, store: string, key: string, block: number): void {
    if (!this.#started) return;
    const found = this.#ask(database, store, key, block);
    // Where it is never asked for, nobody needs to know that it failed.
    found.catch(() => undefined);
    this.#expected.set(key, found);
  }

  /** The piece of `key`, null where there is none of this form. */
  read(database: string, store: string, key: string, block: number): Promise<FoundPiece | null> {
    const expected = this.#expected.get(key);
    this.#expected.delete(key);
    return expected ?? this.#ask(database, store, key, block);
  }

  #ask(database: string, store: string, key: string, block: number): Promise<FoundPiece | null> {
    return new Promise((resolve, reject) => {
      if (!this.#started) {
        reject(new Error('there is no worker that reads pieces'));
        return;
      }
      const id = ++this.#last;
      this.#waiting.set(id, { resolve, reject });
      const read: PieceRequest = { id, database, store, key, block };
      this.#worker?.postMessage({ read });
      // Its own connection to the database may never open.
      setTimeout(() => {
        if (this.#waiting.has(id)) this.end();
      }, PATIENCE);
    });
  }

  /** Ends the worker; reads under way fail, and those to come. */
  end(): void {
    this.#worker?.terminate();
    this.#worker = null;
    this.#started = false;
    for (const { reject } of this.#waiting.values()) reject(new Error('the worker that reads pieces ended'));
    this.#waiting.clear();
  }
}

let opened: Promise<IDBPDatabase> | null = null;

/** The worker's side: answers with a {@link FoundPiece}, or that it is there. */
export async function servePiece(request: PieceRequest | null): Promise<void> {
  const post = (answer: Answer, transfer: Transferable[] = []) => self.postMessage(answer, { transfer });
  if (!request) {
    post({ reading: true });
    return;
  }
  const { id } = request;
  try {
    const found = await readPiece(request);
    post({ id, found }, found ? [found.bytes] : []);
  } catch (error) {
    post({ id, failed: String(error) });
  }
}

async function readPiece({ database, store, key, block }: PieceRequest): Promise<FoundPiece | null> {
  opened ??= openDB(database, undefined, {
    // The database was there a moment ago; it is not made here.
    upgrade: (_database, _old, _new, transaction) => transaction.abort(),
    blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
  });
  const stored: unknown = await (await opened).get(store, key);
  const { bytes: kept, sha256 } = (stored ?? {}) as { bytes?: unknown; sha256?: unknown };
  if (typeof sha256 !== 'string') return null;
  // A blob that lost its file is as good as none. Where the browser stores no Blobs, it is an ArrayBuffer.
  const bytes = kept instanceof Blob ? await kept.arrayBuffer().catch(() => null) : kept;
  if (!(bytes instanceof ArrayBuffer)) return null;
  const digests = new Uint8Array(block ? 32 * Math.ceil(bytes.byteLength / block) : 0);
  const blocks = Array.from({ length: digests.length / 32 }, async (_, i) => {
    const part = new Uint8Array(bytes, i * block, Math.min(block, bytes.byteLength - i * block));
    digests.set(new Uint8Array(await crypto.subtle.digest('SHA-256', part)), 32 * i);
  });
  await Promise.all(blocks);
  return { bytes, sha256, digests };
}

// @ts-check
import { openDB } from './vendor/idb.js';

/**
 * The page's own database; models are in the library's. In private windows IndexedDB may be forbidden: then everything lives in memory.
 * @typedef {{ get(key: string): Promise<any>, set(key: string, value: unknown): Promise<void>, disk: import('./tools/things.js').Disk, lasting: boolean }} Store
 * @returns {Promise<Store>}
 */
export async function openStore() {
  try {
    const db = await openDB('mobilellm-page', 1, {
      upgrade(db) {
        db.createObjectStore('values');
        db.createObjectStore('things', { keyPath: 'id' });
      },
    });
    return {
      lasting: true,
      get: (key) => db.get('values', key),
      set: async (key, value) => void (await db.put('values', value, key)),
      disk: { all: () => db.getAll('things'), put: (thing) => db.put('things', thing), delete: (id) => db.delete('things', id) },
    };
  } catch {
    const values = new Map();
    return {
      lasting: false,
      get: async (key) => values.get(key),
      set: async (key, value) => void values.set(key, value),
      disk: { all: async () => [], put: async () => {}, delete: async () => {} },
    };
  }
}

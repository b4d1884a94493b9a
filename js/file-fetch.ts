import { node } from './platform.js';

/** For an extension's or an app's own scheme, which no network can fail, a browser's `fetch` has an error where a server would say 404. */
function installOwnFetch(): void {
  const fetchWeb = globalThis.fetch;
  globalThis.fetch = async (input, options) => {
    try {
      return await fetchWeb(input, options);
    } catch (error) {
      const { protocol } = new URL(input instanceof Request ? input.url : input, location.href);
      if (/^(https?|blob|data):$/.test(protocol) || !(error instanceof TypeError)) throw error;
      return new Response(null, { status: 404 });
    }
  };
}

/** Node's `fetch` refuses file: addresses; this one reads them, byte ranges included, as a web server would answer. */
export function installFileFetch(): void {
  if (!node) {
    installOwnFetch();
    return;
  }
  const { fs } = node;
  const fetchWeb = globalThis.fetch;
  globalThis.fetch = async (input, options) => {
    const url = new URL(input instanceof Request ? input.url : input);
    if (url.protocol !== 'file:') return fetchWeb(input, options);
    let file: import('node:fs/promises').FileHandle;
    try {
      file = await fs.promises.open(url);
    } catch {
      return new Response(null, { status: 404 });
    }
    try {
      const stat = await file.stat();
      if (!stat.isFile()) return new Response(null, { status: 404 });
      const { size, mtimeMs } = stat;
      const headers = new Headers(input instanceof Request ? input.headers : options?.headers);
      const range = /^bytes=(\d+)-(\d*)$/.exec(headers.get('range') ?? '');
      const start = range ? Number(range[1]) : 0;
      const end = Math.min(range?.[2] ? Number(range[2]) + 1 : size, size);
      if (range && start >= size) return new Response(null, { status: 416, headers: { 'content-range': `bytes */${size}` } });
      const head = (input instanceof Request ? input.method : options?.method) === 'HEAD';
      const bytes = new Uint8Array(end - start);
      if (!head) await file.read(bytes, 0, bytes.length, start);
      return new Response(head ? null : bytes, {
        status: range ? 206 : 200,
        headers: {
          'content-length': String(bytes.length),
          'accept-ranges': 'bytes',
          etag: `"${size}-${mtimeMs}"`,
          ...(range ? { 'content-range': `bytes ${start}-${end - 1}/${size}` } : {}),
        },
      });
    } finally {
      await file.close();
    }
  };
}

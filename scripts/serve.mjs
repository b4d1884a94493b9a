// A static server for the page: www/ at the root, the built package at /pkg/; isolated, so that wasm threads work.
import { createServer } from 'node:http';
import { join } from 'node:path';
import sirv from 'sirv';
import { root } from './lib.mjs';

export const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
};

/** Serves folders by path prefix, longest first, after `intercept` had its chance; returns the server's address once it listens. */
export function serve(mounts, { port = 0, host = '127.0.0.1', headers = ISOLATION, intercept = () => false } = {}) {
  const handlers = Object.entries(mounts)
    .sort(([a], [b]) => b.length - a.length)
    .map(([prefix, folder]) => {
      const setHeaders = (response) => {
        for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
        response.setHeader('Cache-Control', 'no-cache');
      };
      return { prefix, handle: sirv(folder, { dev: true, etag: true, setHeaders }) };
    });
  const server = createServer((request, response) => {
    if (intercept(request, response)) return;
    const { prefix, handle } = handlers.find(({ prefix }) => request.url.startsWith(prefix)) ?? {};
    const missing = () => response.writeHead(404, { ...headers, 'Content-Type': 'text/plain' }).end('not found');
    if (!handle) return missing();
    request.url = request.url.slice(prefix.length - 1);
    handle(request, response, missing);
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => resolve({ server, url: `http://localhost:${server.address().port}/` }));
  });
}

if (import.meta.filename === process.argv[1]) {
  const port = Number(process.env.PORT ?? 8080);
  const mounts = { '/': join(root, 'www'), '/pkg/': join(root, 'pkg') };
  const host = process.env.HOST ?? '127.0.0.1';
  const { url } = await serve(mounts, { port, host }).catch((error) => {
    // Somebody else has the usual port: any free one will do.
    if (error.code === 'EADDRINUSE' && !process.env.PORT) return serve(mounts, { host });
    throw error;
  });
  console.log(`The page is at ${url}`);
}

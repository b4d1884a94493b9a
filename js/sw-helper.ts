/**
 * The app shell of a page that uses this package, offline: a service worker calls {@link installShell} and every file of the shell is
 * cached under the SHA-256 of its content. Model weights are none of its business: the library keeps those in IndexedDB.
 *
 * - Install fetches only what no earlier version has cached, and fails (so the old version stays) when a file is not what the list says:
 *   a half-finished deployment is never kept.
 * - An open tab keeps the version it was loaded with. The new one takes over at the next navigation with no other tab open, or when the
 *   page posts `'update'` to the waiting worker.
 * - `isolate` adds COOP and COEP to the answers, so that a static host without such headers is cross-origin isolated (wasm threads) from
 *   the second navigation on.
 */
export interface Shell {
  /** Changes whenever `files` does; also keeps an unchanged worker script from hiding a new list. */
  version: string;
  /** Path relative to the worker's scope -> SHA-256 of the content, lower-case hex. `index.html` also answers for its folder. */
  files: Record<string, string>;
  /** Serve COOP `same-origin` and COEP `require-corp`. Default true. */
  isolate?: boolean;
}

/** The parts of ServiceWorkerGlobalScope that are used: the `webworker` and `dom` libraries of TypeScript exclude each other. */
interface ShellScope {
  readonly registration: { readonly scope: string; readonly waiting: object | null; readonly active: ServiceWorker | null };
  readonly clients: { matchAll(options?: { type: 'window' }): Promise<readonly unknown[]>; claim(): Promise<void> };
  skipWaiting(): Promise<void>;
  // biome-ignore lint/suspicious/noExplicitAny: the type of the event depends on its name
  addEventListener(type: string, listener: (event: any) => void): void;
}
interface Extendable {
  waitUntil(promise: Promise<unknown>): void;
}
interface FetchLike extends Extendable {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}

const CACHE = 'mobilellm-shell';

/** What a tab shows while the new version takes over. It loads its address again once that is done: until then the old one would answer. */
const HANDOVER = `<!doctype html><meta charset="utf-8"><title>Updating</title>Updating …<script>
navigator.serviceWorker.getRegistration().then((registration) => {
  const next = registration && registration.waiting;
  if (!next) return location.reload();
  next.onstatechange = () => { if (next.state === 'activated' || next.state === 'redundant') location.reload(); };
  next.postMessage('update');
});
</script>`;

/** Registers the install, activate, fetch and message handlers: call it while the worker script first runs. */
export function installShell(scope: ShellScope, { files, isolate = true }: Shell): void {
  const base = new URL(scope.registration.scope);
  const key = (hash: string) => new URL(`.shell/${hash}`, base).href;
  const hashOf = (address: string) => {
    const url = new URL(address);
    if (url.origin !== base.origin || !url.pathname.startsWith(base.pathname)) return undefined;
    let path = url.pathname.slice(base.pathname.length);
    try {
      path = decodeURIComponent(path);
    } catch {
      // A percent sign that begins no escape: no file of the shell is called so.
    }
    const name = path === '' || path.endsWith('/') ? `${path}index.html` : path;
    return Object.hasOwn(files, name) ? files[name] : undefined;
  };

  const fill = async (name: string, hash: string, cache: Cache) => {
    if (await cache.match(key(hash))) return;
    const response = await fetch(new URL(name, base), { cache: 'no-cache' });
    if (!response.ok) throw new Error(`${name}: HTTP ${response.status}`);
    const bytes = await response.arrayBuffer();
    const got = [...new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))].map((b) => b.toString(16).padStart(2, '0')).join('');
    if (got !== hash) throw new Error(`${name}: expected SHA-256 ${hash}, got ${got}`);
    await cache.put(
      key(hash),
      new Response(bytes, { headers: { 'content-type': response.headers.get('content-type') ?? 'application/octet-stream' } }),
    );
  };

  const isolated = (response: Response) => {
    // An opaque or redirected answer cannot be rebuilt, and needs no headers of ours.
    if (!isolate || response.type === 'opaque' || response.type === 'opaqueredirect') return response;
    const headers = new Headers(response.headers);
    headers.set('cross-origin-opener-policy', 'same-origin');
    headers.set('cross-origin-embedder-policy', 'require-corp');
    headers.set('cross-origin-resource-policy', 'same-origin');
    const { status, statusText } = response;
    return new Response([101, 204, 205, 304].includes(status) ? null : response.body, { status, statusText, headers });
  };

  const answer = async (request: Request, hash: string | undefined) => {
    if (request.mode === 'navigate' && scope.registration.waiting && (await scope.clients.matchAll({ type: 'window' })).length < 2) {
      // This tab is the only one and is being left: let the new version take over, then load from it.
      return new Response(HANDOVER, { headers: { 'content-type': 'text/html' } });
    }
    const cached = hash && (await (await caches.open(CACHE)).match(key(hash)));
    return isolated(cached || (await fetch(request)));
  };

  scope.addEventListener('install', (event: Extendable) => {
    event.waitUntil(caches.open(CACHE).then((cache) => Promise.all(Object.entries(files).map(([name, hash]) => fill(name, hash, cache)))));
  });

  scope.addEventListener('activate', (event: Extendable) => {
    const wanted = new Set(Object.values(files).map(key));
    const clean = async () => {
      const cache = await caches.open(CACHE);
      for (const request of await cache.keys()) if (!wanted.has(request.url)) await cache.delete(request);
      await scope.clients.claim();
    };
    event.waitUntil(clean());
  });

  scope.addEventListener('fetch', (event: FetchLike) => {
    const { request } = event;
    if (request.method !== 'GET') return;
    const hash = hashOf(request.url);
    const document = request.mode === 'navigate' || request.destination === 'worker' || request.destination === 'sharedworker';
    // Anything else (weights, other origins) goes its way without us.
    if (hash || (document && new URL(request.url).origin === base.origin)) event.respondWith(answer(request, hash));
  });

  // Chromium (seen in 156) often keeps an active worker for minutes if it is idle when it is asked to go, but lets one go that becomes
  // idle thereafter. So the next version has the active one keep itself busy while it asks.
  const takeOver = async () => {
    const { port1, port2 } = new MessageChannel();
    const busy = new Promise((resolve) => {
      port1.onmessage = resolve;
    });
    scope.registration.active?.postMessage('yield', [port2]);
    await Promise.race([busy, pause(1000)]);
    await scope.skipWaiting();
  };

  scope.addEventListener('message', (event: Extendable & { data: unknown; ports: readonly MessagePort[] }) => {
    if (event.data === 'update') event.waitUntil(takeOver());
    if (event.data === 'yield') {
      event.ports[0]?.postMessage('busy');
      event.waitUntil(pause(500));
    }
  });
}

const pause = (ms: number) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
  });

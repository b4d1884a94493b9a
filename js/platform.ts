/**
 * Node's modules, or null in a browser. Taken by `getBuiltinModule` and not by `import`, so that bundlers for the browser
 * meet nothing they cannot resolve.
 */
export const node =
  typeof process === 'object' && typeof process.versions?.node === 'string' && typeof process.getBuiltinModule === 'function'
    ? {
        fs: process.getBuiltinModule('node:fs'),
        os: process.getBuiltinModule('node:os'),
        url: process.getBuiltinModule('node:url'),
        threads: process.getBuiltinModule('node:worker_threads'),
      }
    : null;

/** What relative addresses are relative to: the page, a worker's script, the process's folder. */
export const base = (): string =>
  node ? node.url.pathToFileURL('./').href : typeof document === 'object' ? document.baseURI : location.href;

// Lists what the page needs to start offline, with hashes, in www/shell.js (generated, not tracked) for www/sw.js. Run after the package
// and www/vendor/ are built. Paths are relative to where the page is served: www/ at the root, pkg/ under it.
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { filesUnder, root } from './lib.mjs';

/** What the page may need, with where it is. @param {string} www @param {string} pkg folders @returns {[string, string][]} */
export function shellFiles(www, pkg) {
  const under = (folder, prefix, wanted) =>
    filesUnder(folder)
      .map((path) => /** @type {[string, string]} */ ([prefix + relative(folder, path).split(sep).join('/'), path]))
      .filter(([name]) => wanted(name));
  return [
    // The worker and its list are the browser's to keep, weights the library's.
    ...under(
      www,
      '',
      (name) => !/^(sw|shell)\.js$|\.LICENSE$|\.d\.ts$|^\./.test(name) && (!name.startsWith('models/') || name.endsWith('/tools.json')),
    ),
    // Copies for bundlers are nothing to this page.
    ...under(pkg, 'pkg/', (name) => /\.(js|wasm)$/.test(name) && !name.startsWith('pkg/embedded/')),
  ];
}

/** @param {string} www @param {string} pkg folders @returns {{ version: string, files: Record<string, string> }} what was written to www/shell.js */
export function writeShell(www, pkg) {
  const files = Object.fromEntries(
    shellFiles(www, pkg).map(([name, path]) => [name, createHash('sha256').update(readFileSync(path)).digest('hex')]),
  );
  const version = createHash('sha256').update(JSON.stringify(files)).digest('hex').slice(0, 16);
  writeFileSync(join(www, 'shell.js'), `export const shell = ${JSON.stringify({ version, files }, null, 1)};\n`);
  return { version, files };
}

if (import.meta.filename === process.argv[1]) writeShell(join(root, 'www'), join(root, 'pkg'));

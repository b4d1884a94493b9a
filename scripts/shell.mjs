// Lists what the page needs to start offline, with hashes, in www/shell.js (generated, not tracked) for www/sw.js. Run after the package
// and www/vendor/ are built. Paths are relative to where the page is served: www/ at the root, pkg/ under it.
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

async function* walk(dir) {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else yield path;
  }
}

const files = {};
async function add(dir, prefix, wanted) {
  for await (const path of walk(join(root, dir))) {
    const name = prefix + relative(join(root, dir), path).split(sep).join('/');
    if (wanted(name)) files[name] = createHash('sha256').update(await readFile(path)).digest('hex');
  }
}
// The worker and its list are the browser's to keep; weights are the library's; Node's entry is not for browsers.
await add('www', '', (name) => !/^(sw|shell)\.js$|\.LICENSE$|^icons\/.*\.src\.svg$/.test(name) && (!name.startsWith('models/') || name.endsWith('/tools.json')));
await add('pkg', 'pkg/', (name) => /\.(js|wasm)$/.test(name) && !/\bnode\b/.test(name));

const sorted = Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)));
const version = createHash('sha256').update(JSON.stringify(sorted)).digest('hex').slice(0, 16);
await writeFile(join(root, 'www/shell.js'), `export const shell = ${JSON.stringify({ version, files: sorted }, null, 1)};\n`);
console.log(`shell ${version}: ${Object.keys(sorted).length} files`);

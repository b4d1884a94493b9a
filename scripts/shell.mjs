// Lists what the page needs to start offline, with hashes, in www/shell.js (generated, not tracked) for www/sw.js. Run after the package
// and www/vendor/ are built. Paths are relative to where the page is served: www/ at the root, pkg/ under it.
import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

async function* walk(dir) {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else yield path;
  }
}

/** @param {string} www @param {string} pkg folders @returns {Promise<{ version: string, files: Record<string, string> }>} what was written to www/shell.js */
export async function writeShell(www, pkg) {
  const files = {};
  async function add(dir, prefix, wanted) {
    for await (const path of walk(dir)) {
      const name = prefix + relative(dir, path).split(sep).join('/');
      if (wanted(name)) files[name] = createHash('sha256').update(await readFile(path)).digest('hex');
    }
  }
  // The worker and its list are the browser's to keep, weights the library's.
  await add(www, '', (name) => !/^(sw|shell)\.js$|\.LICENSE$|^\./.test(name) && (!name.startsWith('models/') || name.endsWith('/tools.json')));
  await add(pkg, 'pkg/', (name) => /\.(js|wasm)$/.test(name));

  const sorted = Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)));
  const version = createHash('sha256').update(JSON.stringify(sorted)).digest('hex').slice(0, 16);
  await writeFile(join(www, 'shell.js'), `export const shell = ${JSON.stringify({ version, files: sorted }, null, 1)};\n`);
  return { version, files: sorted };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const root = join(dirname(fileURLToPath(import.meta.url)), '..');
  const { version, files } = await writeShell(join(root, 'www'), join(root, 'pkg'));
  console.log(`shell ${version}: ${Object.keys(files).length} files`);
}

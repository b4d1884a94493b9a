// Copies the page's third-party modules, as published, from node_modules to www/vendor/ (generated, not tracked): the page has no
// bundler and asks no other origin for anything.
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { root } from './lib.mjs';

const modules = join(root, 'node_modules');
const out = join(root, 'www/vendor');

/** [package, file in it, file in www/vendor]. Beside each lies a declaration, so that the page is checked against the package's own types. */
const FILES = [
  ['marked', 'lib/marked.esm.js', 'marked.js'],
  ['dompurify', 'dist/purify.es.mjs', 'purify.js'],
  ['idb', 'build/index.js', 'idb.js'],
];

export async function vendor() {
  await rm(out, { recursive: true, force: true });
  await mkdir(join(out, 'json-schema'), { recursive: true });
  for (const [name, from, to] of FILES) {
    // Source maps are not shipped, so their links would only be failed requests.
    await writeFile(join(out, to), (await readFile(join(modules, name, from), 'utf8')).replace(/^\/\/# sourceMappingURL=.*$/m, ''));
    await declare(name, to);
  }
  await declare('@cfworker/json-schema', 'json-schema/index.js');

  const schema = join(modules, '@cfworker/json-schema/dist/esm');
  for (const file of await readdir(schema)) {
    if (file.endsWith('.js'))
      await writeFile(
        join(out, 'json-schema', file),
        (await readFile(join(schema, file), 'utf8')).replace(/^\/\/# sourceMappingURL=.*$/m, ''),
      );
  }

  const zones = JSON.parse(await readFile(join(modules, '@vvo/tzdb/raw-time-zones.json'), 'utf8'));
  const kept = zones.map(({ name, alternativeName, group, countryName, countryCode, mainCities, abbreviation }) => ({
    name,
    alternativeName,
    group,
    countryName,
    countryCode,
    mainCities,
    abbreviation,
  }));
  await writeFile(join(out, 'zones.json'), JSON.stringify(kept));

  for (const name of ['marked', 'dompurify', 'idb', '@cfworker/json-schema', '@vvo/tzdb']) {
    const dir = join(modules, name);
    const target = join(out, `${name.replace(/^@/, '').replace('/', '-')}.LICENSE`);
    const licence = (await readdir(dir)).find((f) => /^licen[cs]e/i.test(f));
    if (licence) await cp(join(dir, licence), target);
    else {
      const { version, license, author, homepage } = JSON.parse(await readFile(join(dir, 'package.json'), 'utf8'));
      await writeFile(target, `${name} ${version}, ${license} licence, ${author?.name ?? author}, ${homepage}\n`);
    }
  }
}

/** @param {string} name of the package @param {string} file in www/vendor */
async function declare(name, file) {
  const again = name === 'dompurify' ? `export { default } from '${name}';` : `export * from '${name}';`;
  await writeFile(join(out, file.replace(/\.js$/, '.d.ts')), `${again}\n`);
}

if (import.meta.filename === process.argv[1]) await vendor();

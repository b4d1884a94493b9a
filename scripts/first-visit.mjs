// What a first visit downloads before its first answer: www/first-visit.json (generated, not tracked), which the page shows. Run after the
// package and www/vendor/ are built, before www/shell.js is written. `node scripts/first-visit.mjs` also renews the table in README.md.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { filesUnder, root, TIERS } from './lib.mjs';
import { shellFiles } from './shell.mjs';

const SELF = 'first-visit.json';
/** Of the shell's files, what no page asks for: pictures for installing it, the service worker's own part, and what only other models need. */
const NOT_ASKED = /^icons\/icon-|^manifest\.webmanifest$|^pkg\/sw-helper\.js$|^pkg\/wasm\/splitter_bg\.wasm$/;
/** What is read of a model's folder. */
const OF_MODEL = /\/(config|generation_config|tokenizer|tokenizer_config)\.json$|\.safetensors(\.index\.json)?$/;

/** Paths as the page asks for them, for a browser that takes this build of the engine. @param {string} tier */
export function firstVisit(tier) {
  const files = shellFiles(join(root, 'www'), join(root, 'pkg')).map(([name]) => name);
  const others = Object.keys(TIERS).filter((other) => other !== tier);
  const asked = files.filter((name) => !NOT_ASKED.test(name) && !others.some((other) => name.startsWith(`pkg/wasm/${other}/`)));
  const models = filesUnder(join(root, 'www/models/demo')).map(
    (path) => `models/demo/${path.slice(join(root, 'www/models/demo/').length)}`,
  );
  return {
    engine: asked.filter((name) => name.startsWith('pkg/')),
    page: [...new Set([...asked.filter((name) => !name.startsWith('pkg/')), SELF])],
    model: models.filter((name) => OF_MODEL.test(name)),
  };
}

/** @param {string[]} names @returns {{ files: number, bytes: number, gzip: number }} */
function sizes(names) {
  const contents = names
    .filter((name) => name !== SELF)
    .map((name) => readFileSync(join(root, name.startsWith('pkg/') ? '' : 'www', name)));
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  return { files: names.length, bytes: sum(contents.map((c) => c.length)), gzip: sum(contents.map((c) => gzipSync(c).length)) };
}

/** Writes www/first-visit.json; of the engine's builds it counts the larger one. */
export function writeFirstVisit() {
  const builds = Object.keys(TIERS).map(firstVisit);
  const [engine] = builds.map((build) => sizes(build.engine)).sort((a, b) => b.bytes - a.bytes);
  const parts = { engine, page: sizes(builds[0].page), model: sizes(builds[0].model) };
  writeFileSync(join(root, 'www', SELF), `${JSON.stringify(parts)}\n`);
  return parts;
}

if (import.meta.filename === process.argv[1]) {
  const parts = Object.entries(writeFirstVisit());
  const sum = (field) => parts.reduce((total, [, part]) => total + part[field], 0);
  const names = { engine: 'engine and wrapper', page: 'the demo page', model: 'the demo model' };
  const number = (n) => n.toLocaleString('en');
  const rows = [...parts, ['together', { files: sum('files'), bytes: sum('bytes'), gzip: sum('gzip') }]];
  const table = rows.map(([name, { files, bytes, gzip }]) => `| ${names[name] ?? name} | ${files} | ${number(bytes)} | ${number(gzip)} |`);
  const text = ['| before the first answer | files | bytes | with gzip |', '| --- | --- | --- | --- |', ...table].join('\n');
  const path = join(root, 'README.md');
  const between = /(<!-- first visit -->\n)[\s\S]*?(<!-- \/first visit -->)/;
  writeFileSync(
    path,
    readFileSync(path, 'utf8').replace(between, (_, before, after) => `${before}${text}\n${after}`),
  );
  console.log(text);
}

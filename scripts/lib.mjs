// What the scripts share.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));
export const target = process.env.CARGO_TARGET_DIR ?? join(root, 'target');

/** What all code for wasm is compiled with; the same everywhere, so that dependencies are compiled once. */
export const WASM_FLAGS = '-C target-feature=+simd128';

/** Folder in pkg/wasm -> what the crate itself may use besides what its dependencies are built with. */
export const TIERS = { simd128: '', relaxed: '+relaxed-simd' };

/** Runs a program in the project's folder with its output shown; ends this process if it fails. */
export function run(program, args, { env = {}, ...options } = {}) {
  const { status, error } = spawnSync(program, args, {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
    ...options,
  });
  if (error || status !== 0) {
    console.error(`failed: ${program} ${args.join(' ')}${error ? `: ${error.message}` : ''}`);
    process.exit(status || 1);
  }
}

/** Output of a program, or null if it cannot be run. */
export function output(program, args) {
  const { status, stdout } = spawnSync(program, args, { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}

/** Every file under a folder, in a fixed order. */
export function filesUnder(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
    .sort();
}

/** SHA-256 of files' names and contents. */
export function fingerprint(paths, ...more) {
  const hash = createHash('sha256');
  for (const path of paths) hash.update(path).update('\0').update(readFileSync(path)).update('\0');
  for (const text of more) hash.update(text).update('\0');
  return hash.digest('hex');
}

/** Prints rows as a table, numbers with four digits. */
export function show(rows) {
  const short = (value) => (typeof value === 'number' ? Number(value.toPrecision(4)) : value);
  if (rows.length > 0)
    console.table(rows.map((row) => Object.fromEntries(Object.entries(row).map(([name, value]) => [name, short(value)]))));
}

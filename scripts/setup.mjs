// Sees to it that a machine with rustup and Node has what the build needs; does nothing that is already done.
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { output, root } from './lib.mjs';
import { start } from './steps.mjs';

/** Has the target's standard library installed. Without rustup (a distribution's Rust) the distribution has it: cargo will say so. */
export async function addTarget(name) {
  if (output('rustup', ['--version']) !== null && !output('rustup', ['target', 'list', '--installed'])?.split('\n').includes(name)) {
    await start('rustup', ['target', 'add', name], { live: true });
  }
}

export async function setupRust() {
  if (output('cargo', ['--version']) === null) {
    throw new Error('Rust is missing: install it with rustup (https://rustup.rs) and run this again.');
  }
  await addTarget('wasm32-unknown-unknown');
}

/** The packages of package-lock.json. */
export async function setupNode() {
  const installed = join(root, 'node_modules', '.package-lock.json');
  const isStale = () => statSync(join(root, 'package-lock.json')).mtimeMs > statSync(installed).mtimeMs;
  if (!existsSync(installed) || isStale()) await start('npm', ['ci', '--no-audit', '--no-fund'], { live: true });
}

if (import.meta.filename === process.argv[1]) await Promise.all([setupNode(), setupRust()]);

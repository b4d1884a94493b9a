// Sees to it that a machine with rustup and Node has what the build needs; does nothing that is already done.
import { existsSync, readFileSync, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { output, root, run } from './lib.mjs';

const tools = join(root, 'target', 'tools');

/** Version of wasm-bindgen in Cargo.lock: the command line tool must be exactly that one. */
export function bindgenVersion() {
  const lock = readFileSync(join(root, 'Cargo.lock'), 'utf8');
  return /name = "wasm-bindgen"\nversion = "([^"]+)"/.exec(lock)[1];
}

/** Path of the wasm-bindgen tool of the right version, or null. */
export function bindgen() {
  const wanted = `wasm-bindgen ${bindgenVersion()}`;
  const folders = [...(process.env.PATH ?? '').split(delimiter), join(tools, 'bin')];
  return folders.map((folder) => join(folder, 'wasm-bindgen')).find((path) => existsSync(path) && output(path, ['--version']) === wanted) ?? null;
}

/** Without rustup (a distribution's Rust) the target must come from the distribution: cargo will say so. */
export function addTarget(name) {
  if (output('rustup', ['--version']) !== null && !output('rustup', ['target', 'list', '--installed'])?.split('\n').includes(name)) {
    run('rustup', ['target', 'add', name]);
  }
}

export function setup() {
  if (output('cargo', ['--version']) === null) {
    console.error('Rust is missing: install it with rustup (https://rustup.rs) and run this again.');
    process.exit(1);
  }
  addTarget('wasm32-unknown-unknown');
  if (bindgen() === null) {
    // Not --locked: the tool's own lock file names crate versions that have been withdrawn from some registries.
    run('cargo', ['install', 'wasm-bindgen-cli', '--version', bindgenVersion(), '--root', tools, '--bin', 'wasm-bindgen']);
  }
  const installed = join(root, 'node_modules', '.package-lock.json');
  const stale = () => statSync(join(root, 'package-lock.json')).mtimeMs > statSync(installed).mtimeMs;
  if (!existsSync(installed) || stale()) run('npm', ['ci', '--no-audit', '--no-fund']);
}

if (import.meta.filename === process.argv[1]) setup();

// Runs a Rust test program for wasm32-wasip1 in Node, with what SIMD Node has.
import { readFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { WASI } from 'node:wasi';
import { relaxedSimd } from 'wasm-feature-detect';

// Node 20 keeps relaxed SIMD behind a flag.
if (!(await relaxedSimd())) setFlagsFromString('--experimental-wasm-relaxed-simd');
const [program, ...args] = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: [program, ...args], env: process.env });
const imports = wasi.getImportObject();
// Node 20 damages its stack where wasm calls these directly, the fast way of native functions: behind JavaScript they are slow and sound.
for (const [name, native] of Object.entries(imports.wasi_snapshot_preview1)) {
  imports.wasi_snapshot_preview1[name] = (...values) => native(...values);
}
process.exitCode = wasi.start(await WebAssembly.instantiate(await WebAssembly.compile(readFileSync(program)), imports));

// Runs a Rust test program for wasm32-wasip1 in Node, with what SIMD Node has.
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';
import { setFlagsFromString } from 'node:v8';
import { relaxedSimd } from 'wasm-feature-detect';

// Node 20 keeps relaxed SIMD behind a flag.
if (!(await relaxedSimd())) setFlagsFromString('--experimental-wasm-relaxed-simd');
const [program, ...args] = process.argv.slice(2);
const wasi = new WASI({ version: 'preview1', args: [program, ...args], env: process.env });
const module = await WebAssembly.compile(readFileSync(program));
process.exitCode = wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));

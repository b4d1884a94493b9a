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
// Optimised code that ran long cannot be unwound or called back from here in Node 20: it ends in a segmentation fault.
imports.wasi_snapshot_preview1.proc_exit = (code) => process.reallyExit(code);
wasi.start(await WebAssembly.instantiate(await WebAssembly.compile(readFileSync(program)), imports));

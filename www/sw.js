import { installShell } from './pkg/sw-helper.js';
import { shell } from './shell.js';

// The smallest module with a relaxed SIMD instruction (i8x16.relaxed_swizzle, as in wasm-feature-detect): of the package's two builds
// this browser will load one, and the other need not be kept.
const relaxed = WebAssembly.validate(
  new Uint8Array([
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2, 11,
  ]),
);
const unused = `pkg/wasm/${relaxed ? 'simd128' : 'relaxed'}/`;
const files = Object.fromEntries(Object.entries(shell.files).filter(([name]) => !name.startsWith(unused)));

installShell(/** @type {any} */ (self), { ...shell, files });

//! Four f32 or i32 side by side: the few operations that the kernels are written in, once for every instruction set.
//!
//! | file | when | multiply-add |
//! | --- | --- | --- |
//! | `scalar` | no wasm SIMD (natively LLVM vectorises it) | two roundings |
//! | `vector` + `simd128` | wasm SIMD | two roundings |
//! | `vector` + `relaxed` | wasm relaxed SIMD | one rounding where the CPU has FMA, else two |
//!
//! The relaxed 8-bit dot products are left out: their second operand has 7 bits, so activations would take two or three of them, and
//! for 4-bit codes their sums were not the exact ones in Node 20. The plain 16-bit products are exact.

#[cfg(not(target_feature = "simd128"))]
mod scalar;
#[cfg(not(target_feature = "simd128"))]
pub use scalar::*;

#[cfg(target_feature = "simd128")]
mod vector;
#[cfg(target_feature = "simd128")]
pub use vector::*;

#[cfg(all(target_feature = "simd128", not(target_feature = "relaxed-simd")))]
mod simd128;
#[cfg(all(target_feature = "simd128", not(target_feature = "relaxed-simd")))]
pub use simd128::*;

#[cfg(target_feature = "relaxed-simd")]
mod relaxed;
#[cfg(target_feature = "relaxed-simd")]
pub use relaxed::*;

//! Four f32 or i32 side by side: the few operations that the kernels are written in, once for every instruction set.
//!
//! | file | when | multiply-add | 8-bit dot product |
//! | --- | --- | --- | --- |
//! | `scalar` | no wasm SIMD (natively LLVM vectorises it) | two roundings | i32 |
//! | `vector` + `simd128` | wasm SIMD | two roundings | widened to 16 bit |
//! | `vector` + `relaxed` | wasm relaxed SIMD | one rounding where the CPU has FMA, else two | VNNI, SDOT or what the CPU has |

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

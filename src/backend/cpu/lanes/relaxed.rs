//! What the relaxed instructions do in one step.

use super::vector::F4;
use std::arch::wasm32::*;

/// What [`madd`] is compiled to.
pub const NAME: &str = "relaxed-simd";

/// a * b + c.
#[inline(always)]
pub fn madd(a: F4, b: F4, c: F4) -> F4 {
    F4(f32x4_relaxed_madd(a.0, b.0, c.0))
}

//! What wasm SIMD without the relaxed instructions does in more than one step.

use super::vector::F4;

/// What [`madd`] is compiled to.
pub const NAME: &str = "simd128";

/// a * b + c.
#[inline(always)]
pub fn madd(a: F4, b: F4, c: F4) -> F4 {
    a.mul(b).add(c)
}

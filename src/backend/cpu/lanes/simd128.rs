//! What wasm SIMD without the relaxed instructions does in more than one step.

use super::vector::{Dot, F4, I4};
use std::arch::wasm32::*;

/// What [`madd`] is compiled to.
pub const NAME: &str = "simd128";

/// a * b + c.
#[inline(always)]
pub fn madd(a: F4, b: F4, c: F4) -> F4 {
    a.mul(b).add(c)
}

/// Four columns of x, as [`Dot4`] reads them: the values.
pub type Columns = [i16; 4];

/// `x` as [`Dot4`] reads it; at most 2^14 - 1 in size.
#[inline(always)]
pub fn columns(x: [i16; 4]) -> Columns {
    x
}

/// Sums of products of 4-bit codes, four rows side by side.
#[derive(Debug, Clone, Copy)]
pub struct Dot4(Dot);

impl Dot4 {
    pub const ZERO: Self = Dot4(Dot::ZERO);

    /// Adds eight products for each row: the low halves of its word's bytes times the first columns, the high ones times the
    /// others. At most 128 such steps fit.
    #[inline(always)]
    pub fn add(&mut self, words: &[u32; 4], x: &[Columns; 2]) {
        let words = I4::load(words).0;
        self.0.add_bytes(v128_and(words, u8x16_splat(15)), &x[0]);
        self.0.add_bytes(u8x16_shr(words, 4), &x[1]);
    }

    /// The nearest f32 of each row's sum.
    #[inline(always)]
    pub fn sums(self) -> F4 {
        self.0.sums()
    }
}

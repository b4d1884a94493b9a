//! What the relaxed instructions do in one step.

use super::vector::{F4, I4};
use std::arch::wasm32::*;

/// What [`madd`] is compiled to.
pub const NAME: &str = "relaxed-simd";

/// a * b + c.
#[inline(always)]
pub fn madd(a: F4, b: F4, c: F4) -> F4 {
    F4(f32x4_relaxed_madd(a.0, b.0, c.0))
}

/// Four columns of x, as [`Dot4`] reads them: each is 128 times a byte of the first word, and the byte of the second.
pub type Columns = [u32; 2];

/// `x` as [`Dot4`] reads it; at most 2^14 - 1 in size.
#[inline(always)]
pub fn columns(x: [i16; 4]) -> Columns {
    [x.map(|v| (v >> 7) as u8), x.map(|v| (v & 127) as u8)].map(u32::from_le_bytes)
}

/// Sums of products of 4-bit codes, four rows side by side: of the bytes that count 128-fold, and of the others. The relaxed
/// dot product is exact, and the same on every machine, where its second operand has no more than 7 bits.
#[derive(Debug, Clone, Copy)]
pub struct Dot4(v128, v128);

impl Dot4 {
    pub const ZERO: Self = Dot4(i32x4(0, 0, 0, 0), i32x4(0, 0, 0, 0));

    /// Adds eight products for each row: the low halves of its word's bytes times the first columns, the high ones times the
    /// others. At most 128 such steps fit.
    #[inline(always)]
    pub fn add(&mut self, words: &[u32; 4], x: &[Columns; 2]) {
        let words = I4::load(words).0;
        for (codes, [high, low]) in [v128_and(words, u8x16_splat(15)), u8x16_shr(words, 4)].into_iter().zip(*x) {
            self.0 = i32x4_relaxed_dot_i8x16_i7x16_add(u32x4_splat(high), codes, self.0);
            self.1 = i32x4_relaxed_dot_i8x16_i7x16_add(u32x4_splat(low), codes, self.1);
        }
    }

    /// The nearest f32 of each row's sum.
    #[inline(always)]
    pub fn sums(self) -> F4 {
        I4(self.0).shl::<7>().add(I4(self.1)).to_f32()
    }
}

//! The operations that wasm SIMD has whether relaxed or not.

use std::arch::wasm32::*;

/// Four f32.
#[derive(Debug, Clone, Copy)]
pub struct F4(pub(super) v128);

/// Four i32 (or u32 bit patterns).
#[derive(Debug, Clone, Copy)]
pub struct I4(pub(super) v128);

impl F4 {
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        F4(f32x4_splat(value))
    }

    #[inline(always)]
    pub fn load(from: &[f32; 4]) -> Self {
        // SAFETY: 16 readable bytes; wasm loads need no alignment.
        F4(unsafe { v128_load(from.as_ptr().cast()) })
    }

    #[inline(always)]
    pub fn store(self, to: &mut [f32; 4]) {
        // SAFETY: 16 writable bytes; wasm stores need no alignment.
        unsafe { v128_store(to.as_mut_ptr().cast(), self.0) }
    }

    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        F4(f32x4_add(self.0, other.0))
    }

    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        F4(f32x4_sub(self.0, other.0))
    }

    #[inline(always)]
    pub fn mul(self, other: Self) -> Self {
        F4(f32x4_mul(self.0, other.0))
    }

    #[inline(always)]
    pub fn div(self, other: Self) -> Self {
        F4(f32x4_div(self.0, other.0))
    }

    /// The larger of each pair; `other` where either is NaN.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        F4(f32x4_pmax(other.0, self.0))
    }

    /// The smaller of each pair; `other` where either is NaN.
    #[inline(always)]
    pub fn min(self, other: Self) -> Self {
        F4(f32x4_pmin(other.0, self.0))
    }

    #[inline(always)]
    pub fn bits(self) -> I4 {
        I4(self.0)
    }
}

impl I4 {
    #[inline(always)]
    pub fn splat(value: u32) -> Self {
        I4(u32x4_splat(value))
    }

    #[inline(always)]
    pub fn load(from: &[u32; 4]) -> Self {
        // SAFETY: 16 readable bytes; wasm loads need no alignment.
        I4(unsafe { v128_load(from.as_ptr().cast()) })
    }

    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        I4(i32x4_add(self.0, other.0))
    }

    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        I4(v128_and(self.0, other.0))
    }

    #[inline(always)]
    pub fn shl<const N: u32>(self) -> Self {
        I4(i32x4_shl(self.0, N))
    }

    /// Arithmetic shift.
    #[inline(always)]
    pub fn shr<const N: u32>(self) -> Self {
        I4(i32x4_shr(self.0, N))
    }

    /// The nearest f32 of each.
    #[inline(always)]
    pub fn to_f32(self) -> F4 {
        F4(f32x4_convert_i32x4(self.0))
    }

    /// The same bits.
    #[inline(always)]
    pub fn as_f32(self) -> F4 {
        F4(self.0)
    }
}

/// Sums of products of 8-bit weights, four rows side by side: rows 0 and 1, rows 2 and 3, each in two parts.
#[derive(Debug, Clone, Copy)]
pub struct Dot(v128, v128);

impl Dot {
    pub const ZERO: Self = Dot(i32x4(0, 0, 0, 0), i32x4(0, 0, 0, 0));

    /// Adds four products for each row: bytes of its word times x. At most 128 such steps fit.
    #[inline(always)]
    pub fn add(&mut self, words: &[u32; 4], x: &[i16; 4]) {
        self.add_bytes(I4::load(words).0, x);
    }

    #[inline(always)]
    pub(super) fn add_bytes(&mut self, words: v128, x: &[i16; 4]) {
        // SAFETY: 8 readable bytes; wasm loads need no alignment.
        let x = unsafe { v128_load64_splat(x.as_ptr().cast()) };
        self.0 = i32x4_add(self.0, i32x4_dot_i16x8(i16x8_extend_low_i8x16(words), x));
        self.1 = i32x4_add(self.1, i32x4_dot_i16x8(i16x8_extend_high_i8x16(words), x));
    }

    /// The nearest f32 of each row's sum.
    #[inline(always)]
    pub fn sums(self) -> F4 {
        let even = i32x4_shuffle::<0, 2, 4, 6>(self.0, self.1);
        let odd = i32x4_shuffle::<1, 3, 5, 7>(self.0, self.1);
        I4(i32x4_add(even, odd)).to_f32()
    }
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

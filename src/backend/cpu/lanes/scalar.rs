//! Plain arrays: portable, and simple enough for LLVM to vectorise.

/// Four f32.
#[derive(Debug, Clone, Copy)]
pub struct F4([f32; 4]);

/// Four i32 (or u32 bit patterns).
#[derive(Debug, Clone, Copy)]
pub struct I4([i32; 4]);

/// What [`madd`] is compiled to.
pub const NAME: &str = "scalar";

#[inline(always)]
fn each<A: Copy, B: Copy, C>(a: [A; 4], b: [B; 4], f: impl Fn(A, B) -> C) -> [C; 4] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// a * b + c.
#[inline(always)]
pub fn madd(a: F4, b: F4, c: F4) -> F4 {
    a.mul(b).add(c)
}

impl F4 {
    #[inline(always)]
    pub fn splat(value: f32) -> Self {
        F4([value; 4])
    }

    #[inline(always)]
    pub fn load(from: &[f32; 4]) -> Self {
        F4(*from)
    }

    #[inline(always)]
    pub fn store(self, to: &mut [f32; 4]) {
        *to = self.0;
    }

    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        F4(each(self.0, other.0, |a, b| a + b))
    }

    #[inline(always)]
    pub fn sub(self, other: Self) -> Self {
        F4(each(self.0, other.0, |a, b| a - b))
    }

    #[inline(always)]
    pub fn mul(self, other: Self) -> Self {
        F4(each(self.0, other.0, |a, b| a * b))
    }

    #[inline(always)]
    pub fn div(self, other: Self) -> Self {
        F4(each(self.0, other.0, |a, b| a / b))
    }

    /// The larger of each pair; `other` where either is NaN.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        F4(each(self.0, other.0, |a, b| if a > b { a } else { b }))
    }

    /// The smaller of each pair; `other` where either is NaN.
    #[inline(always)]
    pub fn min(self, other: Self) -> Self {
        F4(each(self.0, other.0, |a, b| if a < b { a } else { b }))
    }

    #[inline(always)]
    pub fn bits(self) -> I4 {
        I4(self.0.map(|v| v.to_bits() as i32))
    }
}

impl I4 {
    #[inline(always)]
    pub fn splat(value: u32) -> Self {
        I4([value as i32; 4])
    }

    #[inline(always)]
    pub fn load(from: &[u32; 4]) -> Self {
        I4(from.map(|v| v as i32))
    }

    #[inline(always)]
    pub fn add(self, other: Self) -> Self {
        I4(each(self.0, other.0, |a, b| a.wrapping_add(b)))
    }

    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        I4(each(self.0, other.0, |a, b| a & b))
    }

    #[inline(always)]
    pub fn shl<const N: u32>(self) -> Self {
        I4(self.0.map(|v| v << N))
    }

    /// Arithmetic shift.
    #[inline(always)]
    pub fn shr<const N: u32>(self) -> Self {
        I4(self.0.map(|v| v >> N))
    }

    /// The nearest f32 of each.
    #[inline(always)]
    pub fn to_f32(self) -> F4 {
        F4(self.0.map(|v| v as f32))
    }

    /// The same bits.
    #[inline(always)]
    pub fn as_f32(self) -> F4 {
        F4(self.0.map(|v| f32::from_bits(v as u32)))
    }
}

/// Sums of products of 8-bit weights, four rows side by side.
#[derive(Debug, Clone, Copy)]
pub struct Dot([i32; 4]);

impl Dot {
    pub const ZERO: Self = Dot([0; 4]);

    /// Adds four products for each row: bytes of its word times x. At most 128 such steps fit.
    #[inline(always)]
    pub fn add(&mut self, words: &[u32; 4], x: &[i16; 4]) {
        for (sum, word) in self.0.iter_mut().zip(words) {
            let q = word.to_le_bytes();
            *sum += q.iter().zip(x).map(|(q, x)| i32::from(*q as i8) * i32::from(*x)).sum::<i32>();
        }
    }

    /// The nearest f32 of each row's sum.
    #[inline(always)]
    pub fn sums(self) -> F4 {
        I4(self.0).to_f32()
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
pub struct Dot4([i32; 4]);

impl Dot4 {
    pub const ZERO: Self = Dot4([0; 4]);

    /// Adds eight products for each row: the low halves of its word's bytes times the first columns, the high ones times the
    /// others. At most 128 such steps fit.
    #[inline(always)]
    pub fn add(&mut self, words: &[u32; 4], x: &[Columns; 2]) {
        for (sum, word) in self.0.iter_mut().zip(words) {
            for (k, byte) in word.to_le_bytes().into_iter().enumerate() {
                *sum += i32::from(byte & 15) * i32::from(x[0][k]) + i32::from(byte >> 4) * i32::from(x[1][k]);
            }
        }
    }

    /// The nearest f32 of each row's sum.
    #[inline(always)]
    pub fn sums(self) -> F4 {
        I4(self.0).to_f32()
    }
}

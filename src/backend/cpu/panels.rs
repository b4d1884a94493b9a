//! A matrix in the layout in which it is read, and its products.
//!
//! Rows lie in panels of [`ROWS`], padded with zero rows. A panel is a run of blocks, one for each pair of columns; word `r`
//! of a block holds row r: the even column in its low half, the odd one in its high half.
//!
//! ```text
//! one row of x:    gemv: the matrix is one stream from end to end, as prefetchers want it; x[c] is splat over 16 rows
//! more rows of x:  gemm: a tile of a panel is widened to f32 once and multiplies every row of x, 8 rows x 4 tokens in registers
//! ```
//! Both add the products of an output in the order of the columns, so they give the same bits.
//!
//! A word's half becomes an f32 by moving its bits to where f32 has them, which leaves the value times 2^-112. To keep f16
//! subnormals (down to 2^-24) from becoming f32 subnormals, slow on many CPUs, each row is scaled at load by the power of two
//! that brings its largest value to f16's top binade: exact, and no subnormal is left in a row whose largest value is
//! below 64. The row's factor undoes both scalings once a product.

use super::lanes::{F4, I4, madd};
use crate::error::{Error, Result};
use half::f16;
use std::ops::Range;

/// Rows of a panel.
pub const ROWS: usize = 16;
/// Rows of x that are multiplied together.
pub const TOKENS: usize = 4;
/// Columns of a tile: 16 KB of f32, half of a small first-level cache.
const DEPTH: usize = 256;

type Block = [[u32; 4]; ROWS / 4];

/// (rows, cols) of weights; cols is a multiple of 32.
pub struct Panels {
    rows: usize,
    cols: usize,
    blocks: Vec<Block>,
    /// Of each row, padding included.
    factors: Vec<f32>,
}

/// Rows of x: (tokens, cols), in the forms that the products read.
#[derive(Default)]
pub struct Inputs {
    cols: usize,
    rows: Vec<f32>,
    /// With more than one token: (token groups, cols) of TOKENS values.
    groups: Vec<[f32; TOKENS]>,
}

impl Inputs {
    /// Room for `tokens` rows of `cols`, to be filled and then [`Inputs::prepare`]d.
    pub fn resize(&mut self, tokens: usize, cols: usize) -> &mut [f32] {
        self.cols = cols;
        self.rows.resize(tokens * cols, 0.0);
        &mut self.rows
    }

    pub fn tokens(&self) -> usize {
        self.rows.len() / self.cols
    }

    pub fn row(&self, token: usize) -> &[f32] {
        &self.rows[token * self.cols..][..self.cols]
    }

    /// Lays the rows out for products; call after the last change.
    pub fn prepare(&mut self) {
        self.groups.clear();
        if self.tokens() > 1 {
            self.groups.resize(self.tokens().div_ceil(TOKENS) * self.cols, [0.0; TOKENS]);
            for (token, row) in self.rows.chunks_exact(self.cols).enumerate() {
                let group = &mut self.groups[token / TOKENS * self.cols..][..self.cols];
                group.iter_mut().zip(row).for_each(|(group, x)| group[token % TOKENS] = *x);
            }
        }
    }
}

/// Where a product goes: column `column` and on of rows of `stride` values.
pub struct Output<'a> {
    pub values: &'a mut [f32],
    pub stride: usize,
    pub column: usize,
}

impl Output<'_> {
    fn panel(&mut self, token: usize, first: usize, rows: usize, values: &[f32; ROWS]) {
        let count = ROWS.min(rows - first);
        self.values[token * self.stride + self.column + first..][..count].copy_from_slice(&values[..count]);
    }
}

/// Working memory of [`Panels::multiply`].
#[derive(Default)]
pub struct Scratch {
    /// Two halves of a panel, (columns, 8 rows) each.
    tile: [Vec<[f32; 8]>; 2],
    /// (token groups, halves): sums of the columns before the tile.
    sums: Vec<[Sums; 2]>,
}

/// 8 rows x TOKENS.
type Sums = [[F4; 2]; TOKENS];

const ZERO: Block = [[0; 4]; ROWS / 4];

impl Panels {
    pub fn new(rows: usize, cols: usize) -> Result<Self> {
        let panels = rows.div_ceil(ROWS);
        let blocks = super::filled(panels * (cols / 2), ZERO, "weights")?;
        Ok(Panels { rows, cols, blocks, factors: vec![1.0; panels * ROWS] })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Stores one row.
    ///
    /// # Errors
    /// [`Error::Tensor`] without the tensor's name if a value is infinite or NaN.
    pub fn write_row(&mut self, row: usize, values: &[f16]) -> Result<()> {
        let (blocks, at) = self.place(row);
        let largest = values.iter().map(|v| v.to_bits() & 0x7fff).max().unwrap_or(0);
        if largest >= 0x7c00 {
            return Err(Error::tensor("", "holds a value that is not finite"));
        }
        let shift = 30 - (largest >> 10).min(30);
        let (vector, lane) = (at / 4, at % 4);
        for (block, pair) in self.blocks[blocks].iter_mut().zip(values.as_chunks::<2>().0) {
            let [low, high] = pair.map(|v| u32::from(raise(v.to_bits(), shift)));
            block[vector][lane] = low | high << 16;
        }
        self.factors[row] = f32::from_bits((127 + 112 - u32::from(shift)) << 23);
        Ok(())
    }

    /// Reads one row back.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let (blocks, at) = self.place(row);
        let factor = self.factors[row];
        for (block, pair) in self.blocks[blocks].iter().zip(out.as_chunks_mut::<2>().0) {
            let [low, high] = widen(&block[at / 4]);
            for (value, out) in [low, high].into_iter().zip(pair) {
                let mut lanes = [0.0; 4];
                value.store(&mut lanes);
                *out = lanes[at % 4] * factor;
            }
        }
    }

    /// The blocks of a row's panel, and the row's place in them.
    fn place(&self, row: usize) -> (Range<usize>, usize) {
        let count = self.cols / 2;
        let first = row / ROWS * count;
        (first..first + count, row % ROWS)
    }

    /// out = W . x for every row of x.
    pub fn multiply(&self, x: &Inputs, mut out: Output, scratch: &mut Scratch) {
        if x.tokens() == 1 { self.gemv(x.row(0), &mut out) } else { self.gemm(x, &mut out, scratch) }
    }

    fn gemv(&self, x: &[f32], out: &mut Output) {
        let size = self.cols / 2;
        let panels = self.blocks.chunks_exact(size).zip(self.factors.as_chunks::<ROWS>().0);
        for (panel, (blocks, factors)) in panels.enumerate() {
            out.panel(0, panel * ROWS, self.rows, &scaled(dot(blocks, x), factors));
        }
    }

    fn gemm(&self, x: &Inputs, out: &mut Output, scratch: &mut Scratch) {
        let Scratch { tile, sums } = scratch;
        let size = self.cols / 2;
        for (panel, (blocks, factors)) in
            self.blocks.chunks_exact(size).zip(self.factors.as_chunks::<ROWS>().0).enumerate()
        {
            sums.clear();
            sums.resize(x.groups.len() / x.cols, [[[F4::splat(0.0); 2]; TOKENS]; 2]);
            for (start, blocks) in (0..).step_by(DEPTH).zip(blocks.chunks(DEPTH / 2)) {
                fill(tile, blocks);
                let depth = 2 * blocks.len();
                for (group, sums) in x.groups.chunks_exact(x.cols).zip(sums.iter_mut()) {
                    for (half, sums) in tile.iter().zip(sums) {
                        *sums = outer(half, &group[start..start + depth], *sums);
                    }
                }
            }
            for (token, sums) in (0..x.tokens()).map(|token| (token, &sums[token / TOKENS])) {
                let [[a, b], [c, d]] = [sums[0][token % TOKENS], sums[1][token % TOKENS]];
                out.panel(token, panel * ROWS, self.rows, &scaled([a, b, c, d], factors));
            }
        }
    }
}

/// The f16 with 2^shift times the value; no overflow by the choice of `shift`.
fn raise(bits: u16, shift: u16) -> u16 {
    let (sign, magnitude) = (bits & 0x8000, bits & 0x7fff);
    if magnitude >= 0x400 {
        return sign | (magnitude + (shift << 10));
    }
    // m * 2^-24 with m < 2^10: the leading bit moves up to the implicit one as far as the shift reaches.
    let lift = (magnitude.leading_zeros() as u16).saturating_sub(5).min(shift);
    if magnitude == 0 {
        return sign;
    }
    let exponent = shift - lift;
    let lifted = magnitude << lift;
    sign | if lifted >= 0x400 { lifted + (exponent << 10) } else { lifted }
}

/// Even and odd column of four rows, times 2^-112.
#[inline(always)]
fn widen(words: &[u32; 4]) -> [F4; 2] {
    let mask = I4::splat(0x8fff_e000);
    let words = I4::load(words);
    [words.shl::<16>().shr::<3>().and(mask).as_f32(), words.shr::<3>().and(mask).as_f32()]
}

fn scaled(sums: [F4; 4], factors: &[f32; ROWS]) -> [f32; ROWS] {
    let mut values = [0.0; ROWS];
    let quads = values.as_chunks_mut::<4>().0.iter_mut().zip(factors.as_chunks::<4>().0);
    for ((out, factor), sum) in quads.zip(sums) {
        sum.mul(F4::load(factor)).store(out);
    }
    values
}

/// 16 rows of W . x, unscaled.
fn dot(panel: &[Block], x: &[f32]) -> [F4; 4] {
    let mut sums = [F4::splat(0.0); 4];
    for (block, pair) in panel.iter().zip(x.as_chunks::<2>().0) {
        let x = pair.map(F4::splat);
        for (words, sum) in block.iter().zip(&mut sums) {
            let [even, odd] = widen(words);
            *sum = madd(odd, x[1], madd(even, x[0], *sum));
        }
    }
    sums
}

fn fill(tile: &mut [Vec<[f32; 8]>; 2], blocks: &[Block]) {
    for (half, rows) in tile.iter_mut().enumerate() {
        rows.resize(2 * blocks.len(), [0.0; 8]);
        for (block, columns) in blocks.iter().zip(rows.as_chunks_mut::<2>().0) {
            for (quad, words) in block[2 * half..][..2].iter().enumerate() {
                for (value, column) in widen(words).into_iter().zip(columns.iter_mut()) {
                    value.store(&mut column.as_chunks_mut::<4>().0[quad]);
                }
            }
        }
    }
}

/// sums += tile . group: 8 rows x TOKENS, column by column.
fn outer(tile: &[[f32; 8]], group: &[[f32; TOKENS]], mut sums: Sums) -> Sums {
    for (w, x) in tile.iter().zip(group) {
        let w = w.as_chunks::<4>().0;
        let w = [F4::load(&w[0]), F4::load(&w[1])];
        for (sums, x) in sums.iter_mut().zip(x) {
            let x = F4::splat(*x);
            *sums = [madd(w[0], x, sums[0]), madd(w[1], x, sums[1])];
        }
    }
    sums
}

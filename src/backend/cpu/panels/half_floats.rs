//! f16 weights: word r of a block holds two columns of row r, the even one in its low half.
//!
//! A half becomes an f32 by moving its bits to where f32 has them, which leaves the value times 2^-112. To keep f16
//! subnormals (down to 2^-24) from becoming f32 subnormals, slow on many CPUs, each row is scaled at load by the power of
//! two that brings its largest value to f16's top binade: exact, and no subnormal is left in a row whose largest value is
//! below 64. The row's factor undoes both scalings once a product. What is lost: a product below 2^-52 of the row's largest
//! weight is rounded to a multiple of that.
//!
//! One row of x or many, the products of an output are added in the order of the columns: the same bits either way.

use super::{Block, DEPTH, Form, Inputs, ROWS, Sums, Tile, largest};
use crate::backend::cpu::filled;
use crate::backend::cpu::lanes::{F4, I4, madd};
use crate::error::Result;
use half::f16;
use std::ops::Range;

pub struct Weights {
    /// Blocks of a panel.
    size: usize,
    blocks: Vec<Block>,
    /// Of each row, padding included.
    factors: Vec<f32>,
}

impl Weights {
    pub fn new(panels: usize, cols: usize) -> Result<Self> {
        let size = cols / 2;
        let blocks = filled(panels * size, [[0; 4]; ROWS / 4], "weights")?;
        Ok(Weights { size, blocks, factors: vec![1.0; panels * ROWS] })
    }

    fn panel(&self, panel: usize) -> &[Block] {
        &self.blocks[panel * self.size..][..self.size]
    }
}

impl Form for Weights {
    fn write_row(&mut self, row: usize, values: &[f16]) {
        let shift = 30 - (largest(values) >> 10);
        let at = row % ROWS;
        let blocks = &mut self.blocks[row / ROWS * self.size..][..self.size];
        let pairs = blocks.iter_mut().zip(values.as_chunks::<2>().0);
        let put =
            |block: &mut Block, [low, high]: [u16; 2]| block[at / 4][at % 4] = u32::from(low) | u32::from(high) << 16;
        let subnormal = |v: &f16| (v.to_bits() & 0x7fff).wrapping_sub(1) < 0x3ff;
        if values.iter().fold(false, |any, v| any | subnormal(v)) {
            pairs.for_each(|(block, pair)| put(block, pair.map(|v| raise(v.to_bits(), shift))));
        } else {
            // Without branches: loading 125M weights spends half as long here.
            pairs.for_each(|(block, pair)| put(block, pair.map(|v| raise_normal(v.to_bits(), shift))));
        }
        self.factors[row] = f32::from_bits((127 + 112 - u32::from(shift)) << 23);
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        let at = row % ROWS;
        for (block, pair) in self.panel(row / ROWS).iter().zip(out.as_chunks_mut::<2>().0) {
            for (value, out) in widen(&block[at / 4]).into_iter().zip(pair) {
                let mut lanes = [0.0; 4];
                value.store(&mut lanes);
                *out = lanes[at % 4] * self.factors[row];
            }
        }
    }

    fn dot<const N: usize>(&self, panels: [usize; N], x: &Inputs) -> [Sums; N] {
        let mut sums = [[F4::splat(0.0); ROWS / 4]; N];
        let streams = panels.map(|panel| self.panel(panel));
        for (i, pair) in x.rows.as_chunks::<2>().0.iter().enumerate() {
            let x = pair.map(F4::splat);
            for (stream, sums) in streams.iter().zip(&mut sums) {
                for (words, sum) in stream[i].iter().zip(sums) {
                    let [even, odd] = widen(words);
                    *sum = madd(odd, x[1], madd(even, x[0], *sum));
                }
            }
        }
        std::array::from_fn(|i| self.unscale(panels[i], sums[i]))
    }

    fn fill(&self, panel: usize, columns: Range<usize>, tile: &mut Tile) {
        const { assert!(DEPTH.is_multiple_of(2)) }
        let blocks = &self.panel(panel)[columns.start / 2..columns.end / 2];
        for (half, rows) in tile.iter_mut().enumerate() {
            rows.resize(columns.len(), [0.0; 8]);
            for (block, columns) in blocks.iter().zip(rows.as_chunks_mut::<2>().0) {
                for (quad, words) in block[2 * half..][..2].iter().enumerate() {
                    for (value, column) in widen(words).into_iter().zip(columns.iter_mut()) {
                        value.store(&mut column.as_chunks_mut::<4>().0[quad]);
                    }
                }
            }
        }
    }

    fn unscale(&self, panel: usize, sums: Sums) -> Sums {
        let factors = self.factors[panel * ROWS..].as_chunks::<4>().0;
        std::array::from_fn(|i| sums[i].mul(F4::load(&factors[i])))
    }
}

/// The f16 with 2^shift times the value; no overflow by the choice of `shift`.
fn raise(bits: u16, shift: u16) -> u16 {
    let (sign, magnitude) = (bits & 0x8000, bits & 0x7fff);
    if magnitude >= 0x400 {
        return sign | (magnitude + (shift << 10));
    }
    if magnitude == 0 {
        return sign;
    }
    // m * 2^-24 with m < 2^10: the leading bit moves up to the implicit one as far as the shift reaches.
    let lift = (magnitude.leading_zeros() as u16 - 5).min(shift);
    let lifted = magnitude << lift;
    sign | if lifted >= 0x400 { lifted + ((shift - lift) << 10) } else { lifted }
}

/// [`raise`] of what is not subnormal.
fn raise_normal(bits: u16, shift: u16) -> u16 {
    let normal = u16::from(bits & 0x7fff != 0);
    bits + normal * (shift << 10)
}

/// Even and odd column of four rows, times 2^-112.
#[inline(always)]
fn widen(words: &[u32; 4]) -> [F4; 2] {
    let mask = I4::splat(0x8fff_e000);
    let words = I4::load(words);
    [words.shl::<16>().shr::<3>().and(mask).as_f32(), words.shr::<3>().and(mask).as_f32()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_are_raised_without_branches() {
        for bits in (0..=u16::MAX).filter(|bits| matches!(bits & 0x7fff, 0 | 0x400..0x7c00)) {
            for shift in 0..=30 - (bits >> 10 & 0x1f) {
                assert_eq!(raise_normal(bits, shift), raise(bits, shift), "{bits:#06x}, {shift}");
            }
        }
    }
}

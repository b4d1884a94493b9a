//! f16 weights: word r of a block holds two columns of row r, the even one in its low half.
//!
//! A half becomes an f32 by moving its bits to where f32 has them, which leaves the value times 2^-112. To keep f16
//! subnormals (down to 2^-24) from becoming f32 subnormals, slow on many CPUs, each row is scaled at load by the power of
//! two that brings its largest value to f16's top binade: exact, and no subnormal is left in a row whose largest value is
//! below 64. The row's factor undoes both scalings once a product. What is lost: a product below 2^-52 of the row's largest
//! weight is rounded to a multiple of that.
//!
//! One row of x or many, the products of an output are added in the order of the columns: the same bits either way.

use super::{Block, DEPTH, Form, Inputs, ROWS, Sums, Tile, largest, put};
use crate::backend::cpu::lanes::{F4, madd};
use crate::backend::cpu::math::widen;
use crate::backend::cpu::{fill_up, reserved};
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
        let blocks = reserved(panels * size, "weights")?;
        Ok(Weights { size, blocks, factors: vec![1.0; panels * ROWS] })
    }

    fn panel(&self, panel: usize) -> &[Block] {
        &self.blocks[panel * self.size..][..self.size]
    }
}

impl Form for Weights {
    fn write_rows<const K: usize>(&mut self, row: usize, values: [&[f16]; K]) {
        let shifts = values.map(|values| 30 - u32::from(largest(values) >> 10));
        let panel = fill_up(&mut self.blocks, row / ROWS, self.size, [[0; 4]; ROWS / 4]);
        for (i, blocks) in panel.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let words = std::array::from_fn(|r| raise(&values[r].as_chunks().0[i], shifts[r]));
            put::<K, 16>(blocks, row % ROWS, &words);
        }
        for (factor, shift) in self.factors[row..].iter_mut().zip(shifts) {
            *factor = f32::from_bits((127 + 112 - shift) << 23);
        }
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

/// The words of 2^shift times the values; no overflow by the choice of `shift`. As f32, times 2^-112, every f16 is exact,
/// subnormals included, and so is the product: there is no case to tell apart.
fn raise(values: &[f16; 32], shift: u32) -> [u32; 16] {
    let factor = f32::from_bits((127 + shift) << 23);
    let raised = values.map(|value| {
        let bits = u32::from(value.to_bits());
        let magnitude = (f32::from_bits((bits & 0x7fff) << 13) * factor).to_bits() >> 13;
        bits & 0x8000 | magnitude
    });
    std::array::from_fn(|i| raised[2 * i] | raised[2 * i + 1] << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_raised_exactly() {
        for value in (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()) {
            for shift in 0..=30 - u32::from(value.to_bits() >> 10 & 0x1f) {
                let [word, ..] = raise(&[value; 32], shift);
                let raised = f16::from_bits(word as u16);
                assert_eq!(word >> 16, word & 0xffff);
                assert_eq!(
                    raised.to_f32().to_bits(),
                    (value.to_f32() * (1u32 << shift) as f32).to_bits(),
                    "{value:?}, {shift}"
                );
            }
        }
    }
}

//! f16 weights: word r of a block holds two columns of row r, the even one in its low half.
//!
//! Each row is raised to f16's top binade (see [`super::raised`]). What is lost: a product below 2^-52 of the row's largest
//! weight is rounded to a multiple of that.
//!
//! One row of x or many, the products of an output are added in the order of the columns: the same bits either way.

use super::{Block, DEPTH, Form, Inputs, ROWS, Sums, Tile, export, import, largest, put, raised, scaled, shift, undo};
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
    fn write_rows<const K: usize>(&mut self, row: usize, rows: [&[u8]; K]) {
        let shifts = rows.map(|row| shift(largest(row.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes)))));
        let panel = fill_up(&mut self.blocks, row / ROWS, self.size, [[0; 4]; ROWS / 4]);
        for (i, blocks) in panel.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let words = std::array::from_fn(|r| raise(&rows[r].as_chunks().0[i], shifts[r]));
            put::<K, 16>(blocks, row % ROWS, &words);
        }
        for (factor, shift) in self.factors[row..].iter_mut().zip(shifts) {
            *factor = undo(shift);
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
        scaled(sums, &self.factors[panel * ROWS..])
    }

    fn panel_words(&self) -> usize {
        self.size * size_of::<Block>() / 4 + ROWS
    }

    fn export(&self, panel: usize, words: &mut Vec<u32>) {
        export(self.panel(panel), &self.factors[panel * ROWS..], words);
    }

    fn import(&mut self, panel: usize, words: &[u32]) {
        let held = fill_up(&mut self.blocks, panel, self.size, [[0; 4]; ROWS / 4]);
        import(held, &mut self.factors[panel * ROWS..], words);
    }
}

/// The words of 2^shift times the values.
fn raise(values: &[u8; 64], shift: u32) -> [u32; 16] {
    let values = values.as_chunks().0;
    let raised = |i: usize| raised(f16::from_le_bytes(values[i]), shift);
    std::array::from_fn(|i| raised(2 * i) | raised(2 * i + 1) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_raised_exactly() {
        for value in (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()) {
            for shift in 0..=30 - u32::from(value.to_bits() >> 10 & 0x1f) {
                let mut bytes = [0; 64];
                bytes.as_chunks_mut().0.fill(value.to_le_bytes());
                let [word, ..] = raise(&bytes, shift);
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

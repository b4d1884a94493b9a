//! 4-bit weights ([`crate::packed::q4`]): word r of a block holds eight columns of row r, the first four in the low halves of its
//! bytes and the others in the high ones.
//!
//! One row of x becomes integers as it does for 8-bit weights ([`super::q8`]): codes and integers make exact sums, and the minimum
//! takes the sum of the integers. Every build gives the same bits. More rows of x meet weights that were widened to f32.

use super::{
    Block, DEPTH, Form, Inputs, ROWS, Step, Sums, Tile, export, import, largest, put, raised, scaled, shift, undo,
};
use crate::backend::cpu::lanes::{Columns, Dot4, F4, I4};
use crate::backend::cpu::math::widen;
use crate::backend::cpu::{fill_up, reserved};
use crate::error::Result;
use crate::packed::{GROUP, q4};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// One group of 16 rows: what belongs together lies together, so that a panel is one stream.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Group {
    /// f16: the scale in the low half, the minimum in the high one.
    scales: Block,
    blocks: [Block; GROUP / 8],
}

const EMPTY: Group = Group { scales: [[0; 4]; ROWS / 4], blocks: [[[0; 4]; ROWS / 4]; GROUP / 8] };

impl Group {
    #[inline(always)]
    fn add_products(&self, x: &[Columns; GROUP / 4], step: Step, sums: &mut Sums) {
        let mut dots = [Dot4::ZERO; ROWS / 4];
        for (block, x) in self.blocks.iter().zip(x.as_chunks::<2>().0) {
            for (words, dot) in block.iter().zip(&mut dots) {
                dot.add(words, x);
            }
        }
        let (size, all) = (F4::splat(step.size), F4::splat(step.size * step.sum));
        for ((sum, dot), words) in sums.iter_mut().zip(dots).zip(&self.scales) {
            let [scale, minimum] = widen(words);
            *sum = sum.add(dot.sums().mul(size).mul(scale).add(all.mul(minimum)));
        }
    }
}

pub struct Weights {
    /// Groups of a panel.
    size: usize,
    groups: Vec<Group>,
    /// Of each row, padding included.
    factors: Vec<f32>,
}

impl Weights {
    pub fn new(panels: usize, cols: usize) -> Result<Self> {
        let size = cols / GROUP;
        Ok(Weights { size, groups: reserved(panels * size, "weights")?, factors: vec![1.0; panels * ROWS] })
    }

    fn panel(&self, panel: usize) -> &[Group] {
        &self.groups[panel * self.size..][..self.size]
    }
}

impl Form for Weights {
    fn write_rows<const K: usize>(&mut self, row: usize, rows: [&[u8]; K]) {
        let group = |r: usize, i: usize| q4::Group::from_bytes(&rows[r].as_chunks().0[i]);
        let most = |r: usize, i: usize| {
            let q4::Group { scale, minimum, .. } = group(r, i);
            largest([scale, minimum].into_iter())
        };
        let shifts: [u32; K] = std::array::from_fn(|r| shift((0..self.size).map(|i| most(r, i)).max().unwrap_or(0)));
        let panel = fill_up(&mut self.groups, row / ROWS, self.size, EMPTY);
        for (i, held) in panel.iter_mut().enumerate() {
            let words = std::array::from_fn(|r| {
                let q4::Group { scale, minimum, q } = group(r, i);
                let at = row % ROWS + r;
                held.scales[at / 4][at % 4] = raised(scale, shifts[r]) | raised(minimum, shifts[r]) << 16;
                std::array::from_fn(|j| {
                    u32::from_le_bytes(std::array::from_fn(|k| q[8 * j + k] | q[8 * j + 4 + k] << 4))
                })
            });
            put::<K, { GROUP / 8 }>(&mut held.blocks, row % ROWS, &words);
        }
        for (factor, shift) in self.factors[row..].iter_mut().zip(shifts) {
            *factor = undo(shift);
        }
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        let at = row % ROWS;
        for (group, out) in self.panel(row / ROWS).iter().zip(out.as_chunks_mut::<GROUP>().0) {
            let [scale, minimum] = widen(&group.scales[at / 4]).map(|lanes| {
                let mut values = [0.0; 4];
                lanes.store(&mut values);
                values[at % 4] * self.factors[row]
            });
            for (block, out) in group.blocks.iter().zip(out.as_chunks_mut::<8>().0) {
                let bytes = block[at / 4][at % 4].to_le_bytes();
                for (k, byte) in bytes.into_iter().enumerate() {
                    out[k] = f32::from(byte & 15) * scale + minimum;
                    out[4 + k] = f32::from(byte >> 4) * scale + minimum;
                }
            }
        }
    }

    fn dot<const N: usize>(&self, panels: [usize; N], x: &Inputs) -> [Sums; N] {
        let mut sums = [[F4::splat(0.0); ROWS / 4]; N];
        let streams = panels.map(|panel| self.panel(panel));
        for (i, (x, step)) in x.columns.as_chunks::<{ GROUP / 4 }>().0.iter().zip(&x.steps).enumerate() {
            for (stream, sums) in streams.iter().zip(&mut sums) {
                stream[i].add_products(x, *step, sums);
            }
        }
        std::array::from_fn(|i| self.unscale(panels[i], sums[i]))
    }

    fn fill(&self, panel: usize, columns: Range<usize>, tile: &mut Tile) {
        const { assert!(DEPTH.is_multiple_of(GROUP)) }
        let groups = &self.panel(panel)[columns.start / GROUP..columns.end / GROUP];
        for (half, rows) in tile.iter_mut().enumerate() {
            rows.resize(columns.len(), [0.0; 8]);
            for (group, columns) in groups.iter().zip(rows.as_chunks_mut::<GROUP>().0) {
                for (quad, words) in group.scales[2 * half..][..2].iter().enumerate() {
                    let [scale, minimum] = widen(words);
                    for (block, columns) in group.blocks.iter().zip(columns.as_chunks_mut::<8>().0) {
                        for (code, column) in spread(&block[2 * half + quad]).into_iter().zip(columns) {
                            let value = code.to_f32().mul(scale).add(minimum);
                            value.store(&mut column.as_chunks_mut::<4>().0[quad]);
                        }
                    }
                }
            }
        }
    }

    fn unscale(&self, panel: usize, sums: Sums) -> Sums {
        scaled(sums, &self.factors[panel * ROWS..])
    }

    fn panel_words(&self) -> usize {
        self.size * size_of::<Group>() / 4 + ROWS
    }

    fn export(&self, panel: usize, words: &mut Vec<u32>) {
        export(self.panel(panel), &self.factors[panel * ROWS..], words);
    }

    fn import(&mut self, panel: usize, words: &[u32]) {
        let held = fill_up(&mut self.groups, panel, self.size, EMPTY);
        import(held, &mut self.factors[panel * ROWS..], words);
    }
}

/// The eight columns of four rows.
#[inline(always)]
fn spread(words: &[u32; 4]) -> [I4; 8] {
    let (words, mask) = (I4::load(words), I4::splat(15));
    [
        words.and(mask),
        words.shr::<8>().and(mask),
        words.shr::<16>().and(mask),
        words.shr::<24>().and(mask),
        words.shr::<4>().and(mask),
        words.shr::<12>().and(mask),
        words.shr::<20>().and(mask),
        words.shr::<28>().and(mask),
    ]
}

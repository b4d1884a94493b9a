//! 8-bit weights ([`crate::packed::q8`]): word r of a block holds four columns of row r, the first in its lowest byte.
//!
//! One row of x becomes 15-bit integers with a step for each group (error at most 1/32766 of the group's largest, far below
//! that of the weights), so that a group's products and their sum are exact integers. What follows is added with two roundings
//! whatever the instructions: every build gives the same bits. More rows of x meet weights that were widened to f32, which is as
//! fast there and needs no integers. Rows of scales are raised as those of f16 weights are.

use super::{
    Block, DEPTH, Form, Inputs, ROWS, Step, Sums, Tile, export, import, largest, put, raised, scaled, shift, undo,
};
use crate::backend::cpu::lanes::{Dot, F4, I4};
use crate::backend::cpu::math::widen;
use crate::backend::cpu::{fill_up, reserved};
use crate::error::Result;
use crate::packed::{GROUP, q8};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// One scale group of 16 rows: what belongs together lies together, so that a panel is one stream.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Group {
    /// f16, rows r (low half) and r + 4 (high half) of each 8.
    scales: [[u32; 4]; ROWS / 8],
    blocks: [Block; GROUP / 4],
}

const EMPTY: Group = Group { scales: [[0; 4]; ROWS / 8], blocks: [[[0; 4]; ROWS / 4]; GROUP / 4] };

impl Group {
    #[inline(always)]
    fn scales(&self) -> Sums {
        let [[a, b], [c, d]] = [widen(&self.scales[0]), widen(&self.scales[1])];
        [a, b, c, d]
    }

    #[inline(always)]
    fn add_products(&self, x: &[[i16; 4]; GROUP / 4], step: Step, sums: &mut Sums) {
        let mut dots = [Dot::ZERO; ROWS / 4];
        for (block, x) in self.blocks.iter().zip(x) {
            for (words, dot) in block.iter().zip(&mut dots) {
                dot.add(words, x);
            }
        }
        let step = F4::splat(step.size);
        for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(self.scales()) {
            *sum = sum.add(dot.sums().mul(step).mul(scale));
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
        let group = |r: usize, i: usize| q8::Group::from_bytes(&rows[r].as_chunks().0[i]);
        let shifts: [u32; K] = std::array::from_fn(|r| {
            shift((0..self.size).map(|i| largest(std::iter::once(group(r, i).scale))).max().unwrap_or(0))
        });
        let panel = fill_up(&mut self.groups, row / ROWS, self.size, EMPTY);
        for (i, held) in panel.iter_mut().enumerate() {
            let words = std::array::from_fn(|r| {
                let q8::Group { scale, q } = group(r, i);
                let at = row % ROWS + r;
                let (word, half) = (&mut held.scales[at / 8][at % 4], at % 8 / 4 * 16);
                *word = *word & !(0xffff << half) | raised(scale, shifts[r]) << half;
                std::array::from_fn(|j| u32::from_le_bytes(std::array::from_fn(|k| q[4 * j + k] as u8)))
            });
            put::<K, { GROUP / 4 }>(&mut held.blocks, row % ROWS, &words);
        }
        for (factor, shift) in self.factors[row..].iter_mut().zip(shifts) {
            *factor = undo(shift);
        }
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        let at = row % ROWS;
        for (group, out) in self.panel(row / ROWS).iter().zip(out.as_chunks_mut::<GROUP>().0) {
            let mut scale = [0.0; 4];
            group.scales()[at / 4].store(&mut scale);
            for (block, out) in group.blocks.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = block[at / 4][at % 4]
                    .to_le_bytes()
                    .map(|q| f32::from(q as i8) * (scale[at % 4] * self.factors[row]));
            }
        }
    }

    fn dot<const N: usize>(&self, panels: [usize; N], x: &Inputs) -> [Sums; N] {
        let mut sums = [[F4::splat(0.0); ROWS / 4]; N];
        let streams = panels.map(|panel| self.panel(panel));
        for (i, (x, step)) in x.integers.as_chunks::<{ GROUP / 4 }>().0.iter().zip(&x.steps).enumerate() {
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
                let scales = &group.scales()[2 * half..][..2];
                for (block, columns) in group.blocks.iter().zip(columns.as_chunks_mut::<4>().0) {
                    for (quad, (words, scale)) in block[2 * half..][..2].iter().zip(scales).enumerate() {
                        for (value, column) in spread(words).into_iter().zip(columns.iter_mut()) {
                            value.to_f32().mul(*scale).store(&mut column.as_chunks_mut::<4>().0[quad]);
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

/// The four columns of four rows.
#[inline(always)]
fn spread(words: &[u32; 4]) -> [I4; 4] {
    let words = I4::load(words);
    [words.shl::<24>().shr::<24>(), words.shl::<16>().shr::<24>(), words.shl::<8>().shr::<24>(), words.shr::<24>()]
}

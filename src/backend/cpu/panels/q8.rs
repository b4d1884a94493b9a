//! 8-bit weights ([`crate::backend::q8`]): word r of a block holds four columns of row r, the first in its lowest byte.
//!
//! One row of x becomes 16-bit integers with one step for all (error at most max|x| / 65534, far below that of the
//! weights), so that a group's products and their sum are exact integers whatever the instructions: every build gives the
//! same bits. More rows of x meet weights that were widened to f32, which is as fast there and needs no integers.

use super::{Block, DEPTH, Form, Inputs, ROWS, Sums, Tile, put};
use crate::backend::cpu::lanes::{Dot, F4, I4, madd};
use crate::backend::cpu::{fill_up, reserved};
use crate::backend::q8::{GROUP, quantise};
use crate::error::Result;
use half::f16;
use std::ops::Range;

/// One scale group of 16 rows: what belongs together lies together, so that a panel is one stream.
#[derive(Clone, Copy)]
#[repr(C)]
struct Group {
    /// bf16, rows r (low half) and r + 4 (high half) of each 8.
    scales: [[u32; 4]; ROWS / 8],
    blocks: [Block; GROUP / 4],
}

const EMPTY: Group = Group { scales: [[0; 4]; ROWS / 8], blocks: [[[0; 4]; ROWS / 4]; GROUP / 4] };

impl Group {
    #[inline(always)]
    fn scales(&self) -> Sums {
        let [[a, b], [c, d]] = self.scales.map(|words| {
            let words = I4::load(&words);
            [words.shl::<16>().as_f32(), words.and(I4::splat(0xffff_0000)).as_f32()]
        });
        [a, b, c, d]
    }

    #[inline(always)]
    fn add_products(&self, x: &[[i16; 4]; GROUP / 4], sums: &mut Sums) {
        let mut dots = [Dot::ZERO; ROWS / 4];
        for (block, x) in self.blocks.iter().zip(x) {
            for (words, dot) in block.iter().zip(&mut dots) {
                dot.add(words, x);
            }
        }
        for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(self.scales()) {
            *sum = madd(dot.sums(), scale, *sum);
        }
    }
}

pub struct Weights {
    /// Groups of a panel.
    size: usize,
    groups: Vec<Group>,
}

impl Weights {
    pub fn new(panels: usize, cols: usize) -> Result<Self> {
        let size = cols / GROUP;
        Ok(Weights { size, groups: reserved(panels * size, "weights")? })
    }

    fn panel(&self, panel: usize) -> &[Group] {
        &self.groups[panel * self.size..][..self.size]
    }
}

impl Form for Weights {
    fn write_rows<const K: usize>(&mut self, row: usize, values: [&[f16]; K]) {
        let panel = fill_up(&mut self.groups, row / ROWS, self.size, EMPTY);
        for (i, group) in panel.iter_mut().enumerate() {
            let words = std::array::from_fn(|r| {
                let (scale, q) = quantise(&values[r].as_chunks().0[i]);
                let at = row % ROWS + r;
                let (word, shift) = (&mut group.scales[at / 8][at % 4], at % 8 / 4 * 16);
                *word = *word & !(0xffff << shift) | u32::from(scale.to_bits()) << shift;
                std::array::from_fn(|j| u32::from_le_bytes(std::array::from_fn(|k| q[4 * j + k] as u8)))
            });
            put::<K, { GROUP / 4 }>(&mut group.blocks, row % ROWS, &words);
        }
    }

    fn read_row(&self, row: usize, out: &mut [f32]) {
        let at = row % ROWS;
        for (group, out) in self.panel(row / ROWS).iter().zip(out.as_chunks_mut::<GROUP>().0) {
            let mut scale = [0.0; 4];
            group.scales()[at / 4].store(&mut scale);
            for (block, out) in group.blocks.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = block[at / 4][at % 4].to_le_bytes().map(|q| f32::from(q as i8) * scale[at % 4]);
            }
        }
    }

    fn dot<const N: usize>(&self, panels: [usize; N], x: &Inputs) -> [Sums; N] {
        let mut sums = [[F4::splat(0.0); ROWS / 4]; N];
        let streams = panels.map(|panel| self.panel(panel));
        for (i, x) in x.integers.as_chunks::<{ GROUP / 4 }>().0.iter().enumerate() {
            for (stream, sums) in streams.iter().zip(&mut sums) {
                stream[i].add_products(x, sums);
            }
        }
        sums.map(|sums| sums.map(|sum| sum.mul(F4::splat(x.step))))
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

    fn unscale(&self, _: usize, sums: Sums) -> Sums {
        sums
    }
}

/// The four columns of four rows.
#[inline(always)]
fn spread(words: &[u32; 4]) -> [I4; 4] {
    let words = I4::load(words);
    [words.shl::<24>().shr::<24>(), words.shl::<16>().shr::<24>(), words.shl::<8>().shr::<24>(), words.shr::<24>()]
}

/// x = step * integers, the largest at +-32767; returns the step.
pub fn to_integers(x: &[f32], integers: &mut Vec<[i16; 4]>) -> f32 {
    let quads = x.as_chunks::<4>().0;
    let mut largest = [0.0; 4];
    let zero = F4::splat(0.0);
    let magnitude = |v: F4| v.max(zero.sub(v));
    quads.iter().fold(zero, |max, quad| magnitude(F4::load(quad)).max(max)).store(&mut largest);
    let largest = largest.into_iter().fold(0.0, f32::max);
    let inverse = if largest > 0.0 { 32767.0 / largest } else { 0.0 };
    integers.clear();
    integers.extend(quads.iter().map(|quad| quad.map(|v| (v * inverse).round_ties_even() as i16)));
    largest / 32767.0
}

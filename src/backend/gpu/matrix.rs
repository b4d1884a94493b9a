//! Weights on the device: how a matrix is split over bindings, how its rows are packed, written and read back.

use super::Gpu;
use super::device::{Buffer, Device};
use super::kernels::Span;
use super::recorder::Launches;
use crate::backend::{Packing, Role};
use crate::bytes::Bytes;
use crate::error::{Error, Result};
use crate::packed::{self, GROUP, q4, q8};
use half::f16;
use std::collections::HashMap;
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// Whole rows that fit one binding.
pub(super) struct Part {
    pub span: Span,
    /// f16; or 8-bit integers and their scales; or 4-bit codes and their scales and minima.
    pub buffers: Vec<Buffer>,
    /// Words of `scales` that two writes share.
    edges: HashMap<usize, u32>,
}

/// (rows, cols).
pub struct Matrix {
    pub(super) number: usize,
    pub(super) packing: Packing,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) parts: Vec<Part>,
    pub(super) launches: Launches,
}

/// (hidden) f32.
pub struct Gain {
    pub(super) number: usize,
    pub(super) buffer: Buffer,
}

/// How the rows of a matrix are split over bindings. Only these can exceed one in models of the sizes that a browser holds.
pub(super) fn spans(device: &Device, packing: Packing, role: Role, rows: usize, cols: usize) -> Vec<Span> {
    let row_bytes = match packing {
        Packing::F16 => 2 * cols as u64,
        Packing::Q8 => cols as u64,
        Packing::Q4 => cols as u64 / 2,
    };
    let may_split = matches!(role, Role::Embedding | Role::Head);
    let most = if may_split { (device.max_table_binding() / row_bytes) as usize } else { rows };
    // an even number of groups of scales before each part
    let most = (most / 2 * 2).max(1);
    (0..rows).step_by(most).map(|first| Span { first, rows: most.min(rows - first) }).collect()
}

impl Matrix {
    pub(super) fn new(
        device: &Device,
        number: usize,
        packing: Packing,
        role: Role,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let buffer = |bytes: usize| device.buffer("weights", bytes as u64, Usage::STORAGE);
        let parts = spans(device, packing, role, rows, cols)
            .into_iter()
            .map(|span| {
                let elements = span.rows * cols;
                let buffers = match packing {
                    Packing::F16 => vec![buffer(2 * elements)?],
                    Packing::Q8 => vec![buffer(elements)?, buffer(2 * elements / GROUP)?],
                    Packing::Q4 => vec![buffer(elements / 2)?, buffer(4 * elements / GROUP)?],
                };
                Ok(Part { span, buffers, edges: HashMap::new() })
            })
            .collect::<Result<_>>()?;
        Ok(Matrix { number, packing, rows, cols, parts, launches: Launches::default() })
    }

    /// Rows of the whole matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes whole rows from row `first` on, that come packed in any way.
    pub(super) fn write_rows(
        &mut self,
        queue: &wgpu::Queue,
        first: usize,
        packing: Packing,
        bytes: &dyn Bytes,
        range: Range<usize>,
    ) -> Result<()> {
        let row_bytes = packing.row_bytes(self.cols);
        let end = first + range.len() / row_bytes;
        for part in &mut self.parts {
            let Span { first: begin, rows } = part.span;
            let (from, to) = (first.max(begin), end.min(begin + rows));
            if from < to {
                let source = range.start + (from - first) * row_bytes;
                let source = source..source + (to - from) * row_bytes;
                let at = (from - begin) * self.cols;
                if (packing, self.packing) == (Packing::F16, Packing::F16) {
                    bytes.upload(source, queue, &part.buffers[0], 2 * at as u64);
                    continue;
                }
                let mut raw = vec![0; source.len()];
                bytes.read(source.start, &mut raw);
                let packed = packed::repack(packing, self.packing, &raw);
                let packed = packed.map_err(|problem| Error::tensor("", problem))?;
                match self.packing {
                    Packing::F16 => queue.write_buffer(&part.buffers[0], 2 * at as u64, &packed),
                    Packing::Q8 => part.write_q8(queue, at, &packed),
                    Packing::Q4 => part.write_q4(queue, at, &packed),
                }
            }
        }
        Ok(())
    }
}

impl Part {
    /// Writes groups of 8 bits from element `at` on.
    fn write_q8(&mut self, queue: &wgpu::Queue, at: usize, groups: &[u8]) {
        let groups = groups.as_chunks::<{ q8::BYTES }>().0;
        // Scales go by pairs: the neighbour of a first or last odd one comes from an earlier write, or from a later one.
        let (first, end) = (at / GROUP, at / GROUP + groups.len());
        let mut words = vec![0u32; end.div_ceil(2) - first / 2];
        for (number, group) in (first..).zip(groups) {
            words[number / 2 - first / 2] |= u32::from(u16::from_le_bytes([group[0], group[1]])) << (number % 2 * 16);
        }
        for (odd, scale) in [(first % 2 == 1, first), (end % 2 == 1, end - 1)] {
            if odd {
                let word = &mut words[scale / 2 - first / 2];
                *word |= *self.edges.entry(scale / 2).and_modify(|known| *known |= *word).or_insert(*word);
            }
        }
        let integers: Vec<u8> = groups.iter().flat_map(|group| &group[2..]).copied().collect();
        queue.write_buffer(&self.buffers[0], at as u64, &integers);
        queue.write_buffer(&self.buffers[1], (first / 2 * 4) as u64, bytemuck::cast_slice(&words));
    }

    /// Writes groups of 4 bits from element `at` on; on the device, neighbouring columns lie in neighbouring bits.
    fn write_q4(&mut self, queue: &wgpu::Queue, at: usize, groups: &[u8]) {
        let groups = groups.as_chunks::<{ q4::BYTES }>().0;
        let mut codes = Vec::with_capacity(groups.len() * GROUP / 2);
        let mut scales = Vec::with_capacity(groups.len() * 4);
        for group in groups {
            scales.extend_from_slice(&group[..4]);
            let q = q4::Group::from_bytes(group).q;
            codes.extend(q.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
        }
        queue.write_buffer(&self.buffers[0], (at / 2) as u64, &codes);
        queue.write_buffer(&self.buffers[1], (at / GROUP * 4) as u64, &scales);
    }
}

impl Gpu {
    /// Rows (first, count) of matrices as f32, one list for each matrix.
    pub async fn read_rows<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a (&'a Matrix, Vec<(usize, usize)>)>,
    ) -> Result<Vec<Vec<f32>>> {
        self.recorder.flush()?;
        // (source, its first byte, bytes), in the order in which they are read below
        let mut copies = Vec::new();
        let mut lists = Vec::new();
        for (matrix, runs) in wanted {
            let mut list = Vec::new();
            for &(first, count) in runs {
                for part in &matrix.parts {
                    let (begin, end) =
                        (first.max(part.span.first), (first + count).min(part.span.first + part.span.rows));
                    if begin >= end {
                        continue;
                    }
                    let (at, elements) = ((begin - part.span.first) * matrix.cols, (end - begin) * matrix.cols);
                    let scale = at / GROUP;
                    match matrix.packing {
                        Packing::F16 => copies.push((&part.buffers[0], 2 * at, 2 * elements)),
                        Packing::Q8 => {
                            copies.push((&part.buffers[0], at, elements));
                            // whole words
                            let bytes = (2 * (scale % 2 + elements / GROUP)).next_multiple_of(4);
                            copies.push((&part.buffers[1], scale / 2 * 4, bytes));
                        }
                        Packing::Q4 => {
                            copies.push((&part.buffers[0], at / 2, elements / 2));
                            copies.push((&part.buffers[1], scale * 4, elements / GROUP * 4));
                        }
                    }
                    list.push((elements, scale % 2));
                }
            }
            lists.push((matrix.packing, list));
        }
        let bytes = self.recorder.read_all(&copies).await?;
        let mut at = 0;
        let mut take = |count: usize| {
            at += count;
            &bytes[at - count..at]
        };
        let mut all = Vec::new();
        for (packing, list) in lists {
            let mut values = Vec::new();
            for (elements, odd) in list {
                let groups = elements / GROUP;
                match packing {
                    Packing::F16 => values.extend(packed::unpack(packing, take(2 * elements))),
                    Packing::Q8 => {
                        let integers = take(elements);
                        let scales = take((2 * (odd + groups)).next_multiple_of(4)).as_chunks::<2>().0;
                        for (q, scale) in integers.as_chunks::<GROUP>().0.iter().zip(&scales[odd..]) {
                            let scale = f16::from_le_bytes(*scale);
                            values.extend(q8::Group { scale, q: q.map(|q| q as i8) }.values());
                        }
                    }
                    Packing::Q4 => {
                        let codes = take(elements / 2);
                        let scales = take(4 * groups).as_chunks::<4>().0;
                        for (codes, [a, b, c, d]) in codes.as_chunks::<{ GROUP / 2 }>().0.iter().zip(scales) {
                            let q = std::array::from_fn(|i| codes[i / 2] >> (i % 2 * 4) & 15);
                            let (scale, minimum) = (f16::from_le_bytes([*a, *b]), f16::from_le_bytes([*c, *d]));
                            values.extend(q4::Group { scale, minimum, q }.values());
                        }
                    }
                }
            }
            all.push(values);
        }
        Ok(all)
    }

    /// Gains as they were given.
    pub async fn read_gains(&mut self, gains: &[&Gain]) -> Result<Vec<Vec<f32>>> {
        let copies: Vec<_> = gains.iter().map(|gain| (&gain.buffer, 0, gain.buffer.size() as usize)).collect();
        let bytes = self.recorder.read_all(&copies).await?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        Ok(values.chunks_exact(self.config.hidden_size).map(<[f32]>::to_vec).collect())
    }
}

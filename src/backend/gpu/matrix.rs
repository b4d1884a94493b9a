//! Weights on the device: how a matrix is split over bindings, how its rows are packed, written and read back.

use super::Gpu;
use super::device::{Buffer, Device};
use super::kernels::Span;
use super::recorder::Launches;
use crate::backend::{Precision, Role, q8};
use crate::bytes::Bytes;
use crate::error::Result;
use half::{bf16, f16};
use std::collections::HashMap;
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// Whole rows that fit one binding.
pub(super) struct Part {
    pub span: Span,
    /// f16, or 8-bit integers and their scales.
    pub buffers: Vec<Buffer>,
    /// Words of `scales` that two writes share.
    edges: HashMap<usize, u32>,
}

impl Part {
    pub fn buffers(&self) -> Vec<&wgpu::Buffer> {
        self.buffers.iter().map(|b| &**b).collect()
    }
}

/// (rows, cols).
pub struct Matrix {
    pub(super) number: usize,
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
pub(super) fn spans(device: &Device, precision: Precision, role: Role, rows: usize, cols: usize) -> Vec<Span> {
    let row_bytes = cols as u64 * if precision == Precision::Q8 { 1 } else { 2 };
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
        precision: Precision,
        role: Role,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        let buffer = |bytes: usize| device.buffer("weights", bytes as u64, Usage::STORAGE);
        let parts = spans(device, precision, role, rows, cols)
            .into_iter()
            .map(|span| {
                let elements = span.rows * cols;
                let buffers = match precision {
                    Precision::F16 => vec![buffer(2 * elements)?],
                    Precision::Q8 => vec![buffer(elements)?, buffer(2 * elements / q8::GROUP)?],
                };
                Ok(Part { span, buffers, edges: HashMap::new() })
            })
            .collect::<Result<_>>()?;
        Ok(Matrix { number, rows, cols, parts, launches: Launches::default() })
    }

    /// Rows of the whole matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Writes whole rows of f16 from row `first` on.
    pub(super) fn write_rows(
        &mut self,
        queue: &wgpu::Queue,
        precision: Precision,
        first: usize,
        bytes: &dyn Bytes,
        range: Range<usize>,
    ) {
        let row_bytes = self.cols * 2;
        let end = first + range.len() / row_bytes;
        for part in &mut self.parts {
            let Span { first: begin, rows } = part.span;
            let (from, to) = (first.max(begin), end.min(begin + rows));
            if from < to {
                let source = range.start + (from - first) * row_bytes;
                let source = source..source + (to - from) * row_bytes;
                match precision {
                    Precision::F16 => {
                        let at = ((from - begin) * row_bytes) as u64;
                        bytes.upload(source, queue, &part.buffers[0], at);
                    }
                    Precision::Q8 => {
                        let mut raw = vec![0; source.len()];
                        bytes.read(source.start, &mut raw);
                        part.write_q8(queue, (from - begin) * self.cols, &raw);
                    }
                }
            }
        }
    }
}

impl Part {
    /// Quantises f16 and writes it from element `at` on.
    fn write_q8(&mut self, queue: &wgpu::Queue, at: usize, f16_bytes: &[u8]) {
        let elements = f16_bytes.len() / 2;
        let mut integers = Vec::with_capacity(elements);
        let mut group = [f16::ZERO; q8::GROUP];
        // Scales go by pairs: the neighbour of a first or last odd one comes from an earlier write, or from a later one.
        let first = at / q8::GROUP;
        let mut words = vec![0u32; (first + elements / q8::GROUP).div_ceil(2) - first / 2];
        let shift = |scale: usize| 16 * (scale % 2) as u32;
        for (number, raw) in (first..).zip(f16_bytes.chunks_exact(2 * q8::GROUP)) {
            for (value, pair) in group.iter_mut().zip(raw.chunks_exact(2)) {
                *value = f16::from_le_bytes([pair[0], pair[1]]);
            }
            let (scale, q) = q8::quantise(&group);
            integers.extend(q.map(|q| q as u8));
            words[number / 2 - first / 2] |= u32::from(scale.to_bits()) << shift(number);
        }
        let end = first + elements / q8::GROUP;
        for (odd, scale) in [(first % 2 == 1, first), (end % 2 == 1, end - 1)] {
            if odd {
                let word = &mut words[scale / 2 - first / 2];
                *word |= *self.edges.entry(scale / 2).and_modify(|known| *known |= *word).or_insert(*word);
            }
        }
        queue.write_buffer(&self.buffers[0], at as u64, &integers);
        queue.write_buffer(&self.buffers[1], (first / 2 * 4) as u64, bytemuck::cast_slice(&words));
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
                    let scale = at / q8::GROUP;
                    match self.precision {
                        Precision::F16 => copies.push((&part.buffers[0], 2 * at, 2 * elements)),
                        Precision::Q8 => {
                            copies.push((&part.buffers[0], at, elements));
                            // whole words
                            let bytes = (2 * (scale % 2 + elements / q8::GROUP)).next_multiple_of(4);
                            copies.push((&part.buffers[1], scale / 2 * 4, bytes));
                        }
                    }
                    list.push((elements, scale % 2));
                }
            }
            lists.push(list);
        }
        let bytes = self.recorder.read_all(&copies).await?;
        let mut at = 0;
        let mut take = |count: usize| {
            at += count;
            &bytes[at - count..at]
        };
        let of_pair = |pair: &[u8]| u16::from_le_bytes([pair[0], pair[1]]);
        let mut all = Vec::new();
        for list in lists {
            let mut values = Vec::new();
            for (elements, odd) in list {
                match self.precision {
                    Precision::F16 => {
                        values
                            .extend(take(2 * elements).chunks_exact(2).map(|p| q8::widen(f16::from_bits(of_pair(p)))));
                    }
                    Precision::Q8 => {
                        let integers = take(elements);
                        let groups = elements / q8::GROUP;
                        let scales = take((2 * (odd + groups)).next_multiple_of(4)).chunks_exact(2).skip(odd);
                        for (group, scale) in integers.chunks_exact(q8::GROUP).zip(scales) {
                            let scale = bf16::from_bits(of_pair(scale)).to_f32();
                            values.extend(group.iter().map(|&q| scale * f32::from(q as i8)));
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

//! The verbs as plain loops: the oracle that every faster path is checked against. Nothing here is clever.

use crate::backend::sampler::{Sampler, Sampling};
use crate::backend::{Activation, Backend, Input, Packing, Precision, Role};
use crate::bytes::Bytes;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::packed::{repack, unpack};
use crate::rope::Rope;
use std::ops::Range;

/// (rows, cols): the f32 that each packed weight stands for.
pub struct Matrix {
    packing: Packing,
    cols: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// Of rows of `cols` values.
    pub fn new(cols: usize, values: Vec<f32>) -> Self {
        Matrix { packing: Packing::F16, cols, values }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// One executed layer's keys and values, (capacity, kv_width) f32 each.
#[derive(Clone)]
struct Layer {
    keys: Vec<f32>,
    values: Vec<f32>,
}

pub struct Cache {
    layers: Vec<Layer>,
}

/// Plain loops over one model's shapes; activations of the pass under way.
pub struct Naive {
    config: Config,
    precision: Precision,
    start: usize,
    rows: usize,
    x: Vec<f32>,
    q: Vec<f32>,
    a: Vec<f32>,
    f: Vec<f32>,
    logits: Vec<f32>,
    sampler: Sampler,
    chosen: u32,
}

impl Naive {
    pub fn new(config: &Config) -> Self {
        Self::with_precision(config, Precision::F16)
    }

    /// With weights in fewer bits: each is the f32 that it stands for.
    pub fn with_precision(config: &Config, precision: Precision) -> Self {
        Naive {
            precision,
            sampler: Sampler::new(&Sampling::default(), config.vocab_size, &[], &[]),
            config: config.clone(),
            start: 0,
            rows: 0,
            x: Vec::new(),
            q: Vec::new(),
            a: Vec::new(),
            f: Vec::new(),
            logits: Vec::new(),
            chosen: 0,
        }
    }

    fn norm(&self, row: usize, gain: &[f32]) -> Vec<f32> {
        rms_norm(&self.x[row * self.config.hidden_size..][..self.config.hidden_size], gain, self.config.rms_norm_eps)
    }
}

/// x / rms(x) * gain (Zhang & Sennrich 2019).
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32) -> Vec<f32> {
    let mean = x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(gain).map(|(v, g)| v * scale * g).collect()
}

/// Rotates the pairs (j, j + head_dim/2) of one head (Su et al. 2021, half-split layout).
pub fn rotate(head: &mut [f32], position: usize, rope: &Rope) {
    let half = head.len() / 2;
    for (j, (sin, cos)) in rope.rotation(position).enumerate() {
        let (a, b) = (head[j], head[j + half]);
        head[j] = a * cos - b * sin;
        head[j + half] = b * cos + a * sin;
    }
}

fn matvec(w: &Matrix, x: &[f32]) -> Vec<f32> {
    let rows = w.values.len() / w.cols;
    (0..rows).map(|r| dot(w.row(r), x)).collect()
}

/// Eight partial sums, so that the compiler may use vectors; nothing else depends on the order of addition.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *sum += a * b;
    }
    sums.iter().sum()
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

impl Backend for Naive {
    type Matrix = Matrix;
    type Gain = Vec<f32>;
    type Cache = Cache;
    type Ticket = u32;

    fn precision(&self) -> Precision {
        self.precision
    }

    fn new_matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<Matrix> {
        Ok(Matrix { packing: role.packing(self.precision), cols, values: vec![0.0; rows * cols] })
    }

    fn write_rows(
        &mut self,
        matrix: &mut Matrix,
        first: usize,
        packing: Packing,
        bytes: &dyn Bytes,
        range: Range<usize>,
    ) -> Result<()> {
        let mut raw = vec![0; range.len()];
        bytes.read(range.start, &mut raw);
        let packed = repack(packing, matrix.packing, &raw).map_err(|problem| Error::tensor("", problem))?;
        let values = unpack(matrix.packing, &packed);
        matrix.values[first * matrix.cols..][..values.len()].copy_from_slice(&values);
        Ok(())
    }

    fn new_gain(&mut self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn new_cache(&mut self, layers: usize, capacity: usize) -> Result<Cache> {
        let size = capacity * self.config.kv_width();
        Ok(Cache { layers: vec![Layer { keys: vec![0.0; size], values: vec![0.0; size] }; layers] })
    }

    fn fork(&mut self, cache: &Cache, _: usize) -> Result<Cache> {
        Ok(Cache { layers: cache.layers.clone() })
    }

    fn max_rows(&self) -> usize {
        64
    }

    fn embed(&mut self, table: &Matrix, input: Input, start: usize) -> Result<()> {
        let chosen = [self.chosen];
        let ids = match input {
            Input::Tokens(ids) => ids,
            Input::Chosen => &chosen,
        };
        self.start = start;
        self.rows = ids.len();
        self.x = ids.iter().flat_map(|&id| table.row(id as usize)).copied().collect();
        Ok(())
    }

    fn qkv(&mut self, gain: &Vec<f32>, weight: &Matrix, cache: &mut Cache, layer: usize) -> Result<()> {
        let (dim, kv, rope) = (self.config.head_dim, self.config.kv_width(), self.config.rope());
        let width = self.config.attention_width();
        let layer = &mut cache.layers[layer];
        self.q.clear();
        for row in 0..self.rows {
            let position = self.start + row;
            let mut out = matvec(weight, &self.norm(row, gain));
            for head in out[..width + kv].chunks_exact_mut(dim) {
                rotate(head, position, &rope);
            }
            self.q.extend_from_slice(&out[..width]);
            layer.keys[position * kv..][..kv].copy_from_slice(&out[width..width + kv]);
            layer.values[position * kv..][..kv].copy_from_slice(&out[width + kv..]);
        }
        Ok(())
    }

    fn attend(&mut self, cache: &Cache, layer: usize) -> Result<()> {
        let c = &self.config;
        let (dim, kv, group) = (c.head_dim, c.kv_width(), c.num_heads / c.num_kv_heads);
        let layer = &cache.layers[layer];
        self.a.clear();
        for (row, q) in self.q.chunks_exact(c.attention_width()).enumerate() {
            let context = self.start + row + 1;
            for (head, q) in q.chunks_exact(dim).enumerate() {
                let offset = head / group * dim;
                let mut scores: Vec<f32> = (0..context)
                    .map(|t| {
                        let key = &layer.keys[t * kv + offset..][..dim];
                        dot(q, key) / (dim as f32).sqrt()
                    })
                    .collect();
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                let sum: f32 = scores.iter().sum();
                let mut out = vec![0.0; dim];
                for (t, score) in scores.iter().enumerate() {
                    let value = &layer.values[t * kv + offset..][..dim];
                    out.iter_mut().zip(value).for_each(|(o, v)| *o += score / sum * v);
                }
                self.a.extend(out);
            }
        }
        Ok(())
    }

    fn matmul_add(&mut self, weight: &Matrix, activation: Activation) -> Result<()> {
        let input = match activation {
            Activation::Attention => &self.a,
            Activation::FeedForward => &self.f,
        };
        let hidden = self.config.hidden_size;
        for (x, row) in self.x.chunks_exact_mut(hidden).zip(input.chunks_exact(weight.cols)) {
            x.iter_mut().zip(matvec(weight, row)).for_each(|(x, y)| *x += y);
        }
        Ok(())
    }

    fn gate_up(&mut self, gain: &Vec<f32>, weight: &Matrix) -> Result<()> {
        let width = self.config.intermediate_size;
        self.f.clear();
        for row in 0..self.rows {
            let out = matvec(weight, &self.norm(row, gain));
            self.f.extend(out[..width].iter().zip(&out[width..]).map(|(gate, up)| silu(*gate) * up));
        }
        Ok(())
    }

    fn logits(&mut self, gain: &Vec<f32>, head: &Matrix, rows: Range<usize>) -> Result<()> {
        self.logits.clear();
        for row in rows {
            self.logits.extend(matvec(head, &self.norm(row, gain)));
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    async fn read_logits(&mut self) -> Result<Vec<f32>> {
        Ok(self.logits.clone())
    }

    fn begin_sampling(&mut self, sampling: &Sampling, prompt: &[u32], answer: &[u32]) -> Result<()> {
        self.sampler = Sampler::new(sampling, self.config.vocab_size, prompt, answer);
        Ok(())
    }

    fn choose(&mut self, uniform: f32) -> Result<u32> {
        self.chosen = self.sampler.choose(&self.logits, uniform);
        Ok(self.chosen)
    }

    async fn chosen(&mut self, ticket: u32) -> Result<u32> {
        Ok(ticket)
    }

    fn in_flight(&self) -> usize {
        1
    }
}

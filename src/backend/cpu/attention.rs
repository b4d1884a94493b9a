//! Keys and values, and attention over them.
//!
//! A cache grows by chunks of [`CHUNK`] positions, one for each layer, so memory follows the text and nothing is moved; they are
//! small enough to fit where a load has left free memory. In a chunk, for each key/value head: keys as 16-position tiles
//! (head_dim, 16), so that 16 scores are a product of splat query values; then values as they come, (CHUNK, head_dim).

use super::lanes::{F4, madd};
use super::math::softmax;
use crate::error::Result;

/// Positions of a chunk.
const CHUNK: usize = 32;
/// Positions of a key tile.
const TILE: usize = 16;

/// Keys and values of one session: all layers, the key/value heads of one rank.
pub struct Cache {
    layers: usize,
    heads: usize,
    head_dim: usize,
    /// (chunk, layer).
    chunks: Vec<Vec<f32>>,
}

impl Cache {
    pub fn new(layers: usize, heads: usize, head_dim: usize) -> Self {
        Cache { layers, heads, head_dim, chunks: Vec::new() }
    }

    /// Makes room for `positions`.
    pub fn grow(&mut self, positions: usize) -> Result<()> {
        let size = self.heads * 2 * CHUNK * self.head_dim;
        while self.chunks.len() < positions.div_ceil(CHUNK) * self.layers {
            let mut chunk = super::reserved(size, "KV cache")?;
            chunk.resize(size, 0.0);
            self.chunks.push(chunk);
        }
        Ok(())
    }

    /// A copy of the first `len` positions.
    pub fn fork(&self, len: usize) -> Result<Self> {
        let mut copy = Cache::new(self.layers, self.heads, self.head_dim);
        copy.grow(len)?;
        copy.chunks.iter_mut().zip(&self.chunks).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(copy)
    }

    /// Where a head's keys begin in a chunk, and where its values do.
    fn place(&self, head: usize) -> (usize, usize) {
        let size = CHUNK * self.head_dim;
        (head * 2 * size, (head * 2 + 1) * size)
    }

    /// Stores the key and value of one position.
    pub fn write(&mut self, layer: usize, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let (keys, values) = self.place(head);
        let dim = self.head_dim;
        let chunk = &mut self.chunks[position / CHUNK * self.layers + layer];
        let at = position % CHUNK;
        let tile = &mut chunk[keys + at / TILE * TILE * dim..][..TILE * dim];
        tile.as_chunks_mut::<TILE>().0.iter_mut().zip(key).for_each(|(column, key)| column[at % TILE] = *key);
        chunk[values + at * dim..][..dim].copy_from_slice(value);
    }

    /// out = softmax(q . keys) . values over the first `n` positions. `q` holds consecutive query heads that share this
    /// key/value head, already scaled by head_dim^-1/2; `out` has the same shape.
    pub fn attend(&self, layer: usize, head: usize, n: usize, q: &[f32], scores: &mut Vec<f32>, out: &mut [f32]) {
        let (keys, values) = self.place(head);
        let dim = self.head_dim;
        let queries = q.len() / dim;
        let width = n.next_multiple_of(TILE);
        scores.resize(queries * width, 0.0);
        for tile in 0..width / TILE {
            let start = tile * TILE;
            let chunk = &self.chunks[start / CHUNK * self.layers + layer];
            let columns = chunk[keys + start % CHUNK * dim..][..TILE * dim].as_chunks::<TILE>().0;
            for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact_mut(width)) {
                score(columns, q, &mut scores.as_chunks_mut::<TILE>().0[tile]);
            }
        }
        for (scores, out) in scores.chunks_exact_mut(width).zip(out.chunks_exact_mut(dim)) {
            let inverse = softmax(scores, n);
            out.fill(0.0);
            let chunks = self.chunks.iter().skip(layer).step_by(self.layers);
            for (chunk, weights) in chunks.zip(scores[..n].chunks(CHUNK)) {
                mix(&chunk[values..][..weights.len() * dim], weights, out);
            }
            out.iter_mut().for_each(|v| *v *= inverse);
        }
    }
}

/// The scores of 16 positions.
fn score(columns: &[[f32; TILE]], q: &[f32], out: &mut [f32; TILE]) {
    let mut sums = [F4::splat(0.0); TILE / 4];
    for (column, q) in columns.iter().zip(q) {
        let q = F4::splat(*q);
        for (sum, quad) in sums.iter_mut().zip(column.as_chunks::<4>().0) {
            *sum = madd(F4::load(quad), q, *sum);
        }
    }
    sums.into_iter().zip(out.as_chunks_mut::<4>().0).for_each(|(sum, out)| sum.store(out));
}

/// out += weights . values, (positions, head_dim); head_dim is a multiple of 8.
fn mix(values: &[f32], weights: &[f32], out: &mut [f32]) {
    let dim = out.len();
    let (wide, rest) = out.as_chunks_mut::<32>();
    for (i, out) in wide.iter_mut().enumerate() {
        mix_columns::<8>(values, dim, 32 * i, weights, out);
    }
    let done = dim - rest.len();
    for (i, out) in rest.chunks_exact_mut(8).enumerate() {
        mix_columns::<2>(values, dim, done + 8 * i, weights, out);
    }
}

/// [`mix`] for 4 x N columns from `column` on.
#[inline(always)]
fn mix_columns<const N: usize>(values: &[f32], dim: usize, column: usize, weights: &[f32], out: &mut [f32]) {
    let out = out.as_chunks_mut::<4>().0;
    let mut sums: [F4; N] = std::array::from_fn(|i| F4::load(&out[i]));
    for (row, weight) in values.chunks_exact(dim).zip(weights) {
        let weight = F4::splat(*weight);
        for (sum, quad) in sums.iter_mut().zip(row[column..][..4 * N].as_chunks::<4>().0) {
            *sum = madd(F4::load(quad), weight, *sum);
        }
    }
    sums.into_iter().zip(out).for_each(|(sum, out)| sum.store(out));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every context from 1 to 400, some head widths, against sums in f64; positions beyond the context hold garbage.
    #[test]
    fn attention_equals_the_formula() {
        for (dim, queries) in [(64, 3), (8, 1), (24, 2), (80, 5), (256, 1)] {
            let mut random = fastrand::Rng::with_seed(dim as u64);
            let mut noise = |count: usize| (0..count).map(|_| random.f32() * 2.0 - 1.0).collect::<Vec<f32>>();
            let (layer, head) = (1, 2);
            let mut cache = Cache::new(2, 3, dim);
            cache.grow(420).unwrap();
            let (keys, values) = (noise(420 * dim), noise(420 * dim));
            for (position, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
                cache.write(layer, head, position, key, value);
            }
            let q: Vec<f32> = noise(queries * dim).iter().map(|q| q / (dim as f32).sqrt()).collect();
            let (mut scores, mut out) = (Vec::new(), vec![0.0; q.len()]);
            for n in 1..=400 {
                cache.attend(layer, head, n, &q, &mut scores, &mut out);
                for (q, out) in q.chunks_exact(dim).zip(out.chunks_exact(dim)) {
                    let dot = |key: &[f32]| key.iter().zip(q).map(|(k, q)| f64::from(k * q)).sum::<f64>().exp();
                    let weights: Vec<f64> = keys.chunks_exact(dim).take(n).map(dot).collect();
                    let total: f64 = weights.iter().sum();
                    for (column, out) in out.iter().enumerate() {
                        let weighted = weights.iter().enumerate().map(|(t, w)| w * f64::from(values[t * dim + column]));
                        let exact = weighted.sum::<f64>() / total;
                        assert!((f64::from(*out) - exact).abs() < 3e-6, "{dim} {n}: {out} for {exact}");
                    }
                }
            }
            let fork = cache.fork(77).unwrap();
            let (mut a, mut b) = (vec![0.0; q.len()], vec![0.0; q.len()]);
            cache.attend(layer, head, 77, &q, &mut scores, &mut a);
            fork.attend(layer, head, 77, &q, &mut scores, &mut b);
            assert_eq!(a, b);
        }
    }
}

//! Keys and values, and attention over them.
//!
//! A cache grows by chunks of [`CHUNK`] positions, one for each layer, so memory follows the text and nothing is moved; they are
//! small enough to fit where a load has left free memory. In a chunk, for each key/value head: keys, (CHUNK / 8, head_dim, 8
//! positions), so that 8 scores are sums of products with splat query values; then values, (head_dim / 8, CHUNK, 8 columns), so
//! that 8 columns are such sums too.
//!
//! Beside weights in f16 they are f32, beside weights in 8 bits f16: their rounding (2^-11) is far below that of the weights.

use super::lanes::{F4, madd};
use super::math::{WIDENED, narrow, softmax, widen};
use crate::backend::Precision;
use crate::error::Result;

/// Positions of a chunk.
const CHUNK: usize = 32;
/// Query heads that are computed together: with 8 positions or columns 8 sums of four.
const HEADS: usize = 4;

/// Keys and values of one session: all layers, the key/value heads of one rank.
pub trait Cache {
    /// Makes room for `positions`.
    fn grow(&mut self, positions: usize) -> Result<()>;
    /// A copy of the first `len` positions.
    fn fork(&self, len: usize) -> Result<Box<dyn Cache>>;
    /// Stores the key and value of one position.
    fn write(&mut self, layer: usize, head: usize, position: usize, key: &[f32], value: &[f32]);
    /// The key and value of one position, as [`Cache::write`] was given them but for their rounding.
    fn read(&self, layer: usize, head: usize, position: usize, key: &mut [f32], value: &mut [f32]);
    fn layers(&self) -> usize;
    /// out = softmax(q . keys) . values over the first `n` positions. `q` holds consecutive query heads that share this
    /// key/value head, already scaled by head_dim^-1/2; `out` has the same shape.
    fn attend(&self, layer: usize, head: usize, n: usize, q: &[f32], scratch: &mut Vec<f32>, out: &mut [f32]);
}

/// An empty cache beside weights of this precision.
pub fn new_cache(precision: Precision, layers: usize, heads: usize, head_dim: usize) -> Box<dyn Cache> {
    match precision {
        Precision::F16 => Box::new(Chunks::<[[f32; 4]; 2]>::new(layers, heads, head_dim)),
        Precision::Q8 | Precision::Q4 => Box::new(Chunks::<[u32; 4]>::new(layers, heads, head_dim)),
    }
}

/// Eight neighbouring keys or values as they are kept.
trait Eight: Copy + 'static {
    const ZERO: Self;
    /// What [`Eight::load`] gives is to be multiplied by this.
    const SCALE: f32;
    fn set(&mut self, at: usize, value: f32);
    fn get(&self, at: usize) -> f32;
    fn load(&self) -> [F4; 2];
}

impl Eight for [[f32; 4]; 2] {
    const ZERO: Self = [[0.0; 4]; 2];
    const SCALE: f32 = 1.0;

    fn set(&mut self, at: usize, value: f32) {
        self[at / 4][at % 4] = value;
    }

    fn get(&self, at: usize) -> f32 {
        self[at / 4][at % 4]
    }

    #[inline(always)]
    fn load(&self) -> [F4; 2] {
        self.each_ref().map(F4::load)
    }
}

/// f16: word i holds value i in its low half, value i + 4 in its high half.
impl Eight for [u32; 4] {
    const ZERO: Self = [0; 4];
    const SCALE: f32 = WIDENED;

    fn set(&mut self, at: usize, value: f32) {
        let shift = at / 4 * 16;
        self[at % 4] = self[at % 4] & !(0xffff << shift) | u32::from(narrow(value)) << shift;
    }

    fn get(&self, at: usize) -> f32 {
        half::f16::from_bits((self[at % 4] >> (at / 4 * 16)) as u16).to_f32()
    }

    #[inline(always)]
    fn load(&self) -> [F4; 2] {
        widen(self)
    }
}

struct Chunks<E> {
    layers: usize,
    heads: usize,
    head_dim: usize,
    /// (chunk, layer).
    chunks: Vec<Vec<E>>,
}

impl<E: Eight> Chunks<E> {
    fn new(layers: usize, heads: usize, head_dim: usize) -> Self {
        Chunks { layers, heads, head_dim, chunks: Vec::new() }
    }

    /// Eights of one head's keys, or values, in a chunk.
    fn size(&self) -> usize {
        CHUNK * self.head_dim / 8
    }

    /// Where a head's keys begin in a chunk, and where its values do.
    fn place(&self, head: usize) -> (usize, usize) {
        (head * 2 * self.size(), (head * 2 + 1) * self.size())
    }

    /// [`Cache::attend`] for H query heads: each key and value is loaded once for all of them.
    fn attend_heads<const H: usize>(
        &self,
        layer: usize,
        head: usize,
        n: usize,
        q: &[f32],
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let (keys, values) = self.place(head);
        let dim = self.head_dim;
        let width = n.next_multiple_of(8);
        let chunks = || self.chunks.iter().skip(layer).step_by(self.layers);
        scratch.resize(H * (width + width.max(dim)), 0.0);
        let (scores, factors) = scratch.split_at_mut(H * width);
        let factors = factors.as_chunks_mut::<H>().0;
        for (h, q) in q.chunks_exact(dim).enumerate() {
            factors.iter_mut().zip(q).for_each(|(factors, q)| factors[h] = q * E::SCALE);
        }
        let tiles = chunks().flat_map(|chunk| chunk[keys..values].chunks_exact(dim));
        for (tile, start) in tiles.zip((0..n).step_by(8)) {
            let sums = products(tile, factors, [[F4::splat(0.0); 2]; H]);
            for (h, sums) in sums.into_iter().enumerate() {
                let quads = scores[h * width + start..].as_chunks_mut().0;
                sums.into_iter().zip(quads).for_each(|(sum, out)| sum.store(out));
            }
        }
        for (h, scores) in scores.chunks_exact_mut(width).enumerate() {
            let scale = softmax(scores, n) * E::SCALE;
            factors.iter_mut().zip(scores).for_each(|(factors, score)| factors[h] = *score * scale);
        }
        out.fill(0.0);
        for (chunk, weights) in chunks().zip(factors[..n].chunks(CHUNK)) {
            for (i, column) in chunk[values..][..self.size()].chunks_exact(CHUNK).enumerate() {
                let at = |h| h * dim + 8 * i;
                let sums = std::array::from_fn(|h| {
                    let quads = out[at(h)..].as_chunks().0;
                    [F4::load(&quads[0]), F4::load(&quads[1])]
                });
                for (h, sums) in products(&column[..weights.len()], weights, sums).into_iter().enumerate() {
                    let quads = out[at(h)..].as_chunks_mut().0;
                    sums.into_iter().zip(quads).for_each(|(sum, out)| sum.store(out));
                }
            }
        }
    }
}

impl<E: Eight> Cache for Chunks<E> {
    fn grow(&mut self, positions: usize) -> Result<()> {
        let size = self.heads * 2 * self.size();
        while self.chunks.len() < positions.div_ceil(CHUNK) * self.layers {
            let mut chunk = super::reserved(size, "KV cache")?;
            chunk.resize(size, E::ZERO);
            self.chunks.push(chunk);
        }
        Ok(())
    }

    fn fork(&self, len: usize) -> Result<Box<dyn Cache>> {
        let mut copy = Self::new(self.layers, self.heads, self.head_dim);
        copy.grow(len)?;
        copy.chunks.iter_mut().zip(&self.chunks).for_each(|(to, from)| to.copy_from_slice(from));
        Ok(Box::new(copy))
    }

    fn write(&mut self, layer: usize, head: usize, position: usize, key: &[f32], value: &[f32]) {
        let (keys, values) = self.place(head);
        let dim = self.head_dim;
        let chunk = &mut self.chunks[position / CHUNK * self.layers + layer];
        let at = position % CHUNK;
        for (eight, key) in chunk[keys + at / 8 * dim..].iter_mut().zip(key) {
            eight.set(at % 8, *key);
        }
        for (eight, values) in chunk[values + at..].iter_mut().step_by(CHUNK).zip(value.as_chunks::<8>().0) {
            values.iter().enumerate().for_each(|(i, value)| eight.set(i, *value));
        }
    }

    fn read(&self, layer: usize, head: usize, position: usize, key: &mut [f32], value: &mut [f32]) {
        let (keys, values) = self.place(head);
        let dim = self.head_dim;
        let chunk = &self.chunks[position / CHUNK * self.layers + layer];
        let at = position % CHUNK;
        for (eight, key) in chunk[keys + at / 8 * dim..].iter().zip(key) {
            *key = eight.get(at % 8);
        }
        for (eight, values) in chunk[values + at..].iter().step_by(CHUNK).zip(value.as_chunks_mut::<8>().0) {
            values.iter_mut().enumerate().for_each(|(i, value)| *value = eight.get(i));
        }
    }

    fn layers(&self) -> usize {
        self.layers
    }

    fn attend(&self, layer: usize, head: usize, n: usize, q: &[f32], scratch: &mut Vec<f32>, out: &mut [f32]) {
        let some = HEADS * self.head_dim;
        for (q, out) in q.chunks(some).zip(out.chunks_mut(some)) {
            match q.len() / self.head_dim {
                1 => self.attend_heads::<1>(layer, head, n, q, scratch, out),
                2 => self.attend_heads::<2>(layer, head, n, q, scratch, out),
                3 => self.attend_heads::<3>(layer, head, n, q, scratch, out),
                _ => self.attend_heads::<HEADS>(layer, head, n, q, scratch, out),
            }
        }
    }
}

/// sums + eights . factors, for each of H factors.
#[inline(always)]
fn products<E: Eight, const H: usize>(eights: &[E], factors: &[[f32; H]], mut sums: [[F4; 2]; H]) -> [[F4; 2]; H] {
    let mut add = |eight: &E, factors: &[f32; H]| {
        let [low, high] = eight.load();
        for (sums, factor) in sums.iter_mut().zip(factors) {
            let factor = F4::splat(*factor);
            *sums = [madd(low, factor, sums[0]), madd(high, factor, sums[1])];
        }
    };
    let ((eights, last_eights), (factors, last_factors)) = (eights.as_chunks::<2>(), factors.as_chunks::<2>());
    for (eights, factors) in eights.iter().zip(factors) {
        eights.iter().zip(factors).for_each(|(eight, factors)| add(eight, factors));
    }
    last_eights.iter().zip(last_factors).for_each(|(eight, factors)| add(eight, factors));
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every context from 1 to 400, some head widths, against sums in f64; positions beyond the context hold garbage.
    #[test]
    fn attention_equals_the_formula() {
        check(Precision::F16, |value| value);
        check(Precision::Q8, |value| half::f16::from_f32(value).to_f32());
    }

    /// `kept`: a key or value as it comes back.
    fn check(precision: Precision, kept: impl Fn(f32) -> f32) {
        for (dim, queries) in [(64, 3), (8, 1), (24, 2), (80, 5), (256, 1), (16, 8)] {
            let mut random = fastrand::Rng::with_seed(dim as u64);
            let mut noise = |count: usize| (0..count).map(|_| random.f32() * 2.0 - 1.0).collect::<Vec<f32>>();
            let (layer, head) = (1, 2);
            let mut cache = new_cache(precision, 2, 3, dim);
            cache.grow(420).unwrap();
            let (keys, values) = (noise(420 * dim), noise(420 * dim));
            for (position, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
                cache.write(layer, head, position, key, value);
            }
            let [keys, values] = [keys, values].map(|values| values.into_iter().map(&kept).collect::<Vec<f32>>());
            let (mut key, mut value) = (vec![0.0; dim], vec![0.0; dim]);
            for position in [0, 7, 8, 31, 32, 200, 419] {
                cache.read(layer, head, position, &mut key, &mut value);
                assert_eq!(key, keys[position * dim..][..dim]);
                assert_eq!(value, values[position * dim..][..dim]);
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

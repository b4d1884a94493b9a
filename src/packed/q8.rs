//! 8 bits: [`GROUP`] columns of a row share a scale. weight = scale * q; the bytes are a block of ggml's Q8_0.

use super::{GROUP, narrow, round};
use half::f16;

/// Bytes of a group: the scale, then the integers.
pub const BYTES: usize = 2 + GROUP;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    pub scale: f16,
    pub q: [i8; GROUP],
}

impl Group {
    /// The scale that makes the sum of squared errors least, for integers that were rounded with the largest weight at 127.
    pub fn fit(weights: &[f32; GROUP]) -> Self {
        let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let q = integers(weights, largest / 127.0);
        let (mut products, mut squares) = (0.0, 0.0);
        for (w, q) in weights.iter().zip(q) {
            products += w * q;
            squares += q * q;
        }
        let scale = narrow(if squares > 0.0 { products / squares } else { 0.0 });
        Group { scale, q: integers(weights, scale.to_f32()).map(|q| q as i8) }
    }

    pub fn values(&self) -> [f32; GROUP] {
        let scale = self.scale.to_f32();
        self.q.map(|q| scale * f32::from(q))
    }

    pub fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        bytes[2..].iter_mut().zip(self.q).for_each(|(byte, q)| *byte = q as u8);
        bytes
    }

    pub fn from_bytes(bytes: &[u8; BYTES]) -> Self {
        let scale = f16::from_le_bytes([bytes[0], bytes[1]]);
        Group { scale, q: std::array::from_fn(|i| bytes[2 + i] as i8) }
    }
}

fn integers(weights: &[f32; GROUP], scale: f32) -> [f32; GROUP] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    weights.map(|w| round((w * inverse).clamp(-127.0, 127.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(weights: &[f32; GROUP], values: &[f32; GROUP]) -> f64 {
        weights.iter().zip(values).map(|(w, v)| f64::from(w - v).powi(2)).sum()
    }

    /// As ggml rounds: the scale from the largest weight.
    fn by_range(weights: &[f32; GROUP]) -> [f32; GROUP] {
        let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
        let scale = f16::from_f32(largest / 127.0).to_f32();
        integers(weights, scale).map(|q| q * scale)
    }

    #[test]
    fn errors_are_less_than_by_range() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in [1e-3, 0.02, 1.0, 60.0, 65_000.0] {
            let (mut fitted, mut ranged) = (0.0, 0.0);
            for _ in 0..200 {
                let weights = std::array::from_fn(|_| (random.f32() * 2.0 - 1.0) * size);
                let group = Group::fit(&weights);
                let step = group.scale.to_f32();
                assert!(weights.iter().zip(group.values()).all(|(w, v)| (w - v).abs() <= step * 0.75), "{weights:?}");
                fitted += error(&weights, &group.values());
                ranged += error(&weights, &by_range(&weights));
            }
            assert!(fitted < ranged, "{fitted} {ranged} of {size}");
        }
    }

    #[test]
    fn bytes_there_and_back() {
        let group = Group::fit(&std::array::from_fn(|i| i as f32 - 9.5));
        assert_eq!(Group::from_bytes(&group.to_bytes()), group);
        assert_eq!(Group::fit(&[0.0; GROUP]).values(), [0.0; GROUP]);
        assert!(Group::fit(&[6e-8; GROUP]).values().iter().all(|v| v.is_finite()));
    }
}

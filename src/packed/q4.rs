//! 4 bits: [`GROUP`] columns of a row share a scale and a minimum. weight = scale * q + minimum with q from 0 to 15; the bytes
//! are a block of ggml's Q4_1. A block of Q4_0 is one whose minimum is -8 times its scale.

use super::{GROUP, narrow, round};
use half::f16;

/// Bytes of a group: scale, minimum, then 16 bytes whose low halves are the first 16 codes and whose high halves the others.
pub const BYTES: usize = 4 + GROUP / 2;

/// Parts of the range that a fit starts with: that of all weights is stretched by the furthest ones.
const STARTS: [f32; 3] = [1.0, 0.9, 0.8];
/// Least squares and rounding in turn.
const ROUNDS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    pub scale: f16,
    pub minimum: f16,
    /// From 0 to 15.
    pub q: [u8; GROUP],
}

impl Group {
    /// Scale and minimum of the least sum of squared errors that is found from a few starts.
    pub fn fit(weights: &[f32; GROUP]) -> Self {
        let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut best: Option<(f32, Fit)> = None;
        for part in STARTS {
            let cut = (high - low) * (1.0 - part) / 2.0;
            let mut fit = Fit::new((high - low) * part / 15.0, low + cut);
            for round in 0..=ROUNDS {
                let q = fit.codes(weights);
                let error = fit.error(weights, &q);
                if best.as_ref().is_none_or(|(least, _)| error < *least) {
                    best = Some((error, fit));
                }
                if round < ROUNDS {
                    fit = fit.refit(weights, &q);
                }
            }
        }
        let fit = best.map_or(Fit::new(0.0, 0.0), |(_, fit)| fit);
        Group { scale: narrow(fit.scale), minimum: narrow(fit.minimum), q: fit.codes(weights).map(|q| q as u8) }
    }

    pub fn values(&self) -> [f32; GROUP] {
        let (scale, minimum) = (self.scale.to_f32(), self.minimum.to_f32());
        self.q.map(|q| scale * f32::from(q) + minimum)
    }

    pub fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&self.scale.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.minimum.to_le_bytes());
        for (i, byte) in bytes[4..].iter_mut().enumerate() {
            *byte = self.q[i] | self.q[i + GROUP / 2] << 4;
        }
        bytes
    }

    pub fn from_bytes(bytes: &[u8; BYTES]) -> Self {
        let half = |at: usize| f16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let code = |i: usize| if i < GROUP / 2 { bytes[4 + i] & 15 } else { bytes[4 + i - GROUP / 2] >> 4 };
        Group { scale: half(0), minimum: half(2), q: std::array::from_fn(code) }
    }
}

/// Scale and minimum, as f16 holds them.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    minimum: f32,
}

impl Fit {
    fn new(scale: f32, minimum: f32) -> Self {
        Fit { scale: narrow(scale).to_f32(), minimum: narrow(minimum).to_f32() }
    }

    fn codes(self, weights: &[f32; GROUP]) -> [f32; GROUP] {
        let inverse = if self.scale == 0.0 { 0.0 } else { 1.0 / self.scale };
        weights.map(|w| round(((w - self.minimum) * inverse).clamp(0.0, 15.0)))
    }

    fn error(self, weights: &[f32; GROUP], q: &[f32; GROUP]) -> f32 {
        weights.iter().zip(q).map(|(w, q)| (w - (self.scale * q + self.minimum)).powi(2)).sum()
    }

    /// Least squares for given codes.
    fn refit(self, weights: &[f32; GROUP], q: &[f32; GROUP]) -> Self {
        let (mut codes, mut squares, mut sum, mut products) = (0.0f32, 0.0, 0.0f32, 0.0f32);
        for (w, q) in weights.iter().zip(q) {
            // Relative to the minimum, so that little is lost in the difference below.
            let w = w - self.minimum;
            codes += q;
            squares += q * q;
            sum += w;
            products += w * q;
        }
        let count = GROUP as f32;
        let spread = count * squares - codes * codes;
        if spread <= 0.0 {
            return self;
        }
        let scale = (count * products - codes * sum) / spread;
        Fit::new(scale, self.minimum + (sum - scale * codes) / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(weights: &[f32; GROUP], values: &[f32; GROUP]) -> f64 {
        weights.iter().zip(values).map(|(w, v)| f64::from(w - v).powi(2)).sum()
    }

    /// As ggml rounds: scale and minimum from the range.
    fn by_range(weights: &[f32; GROUP]) -> [f32; GROUP] {
        let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let fit = Fit::new((high - low) / 15.0, low);
        fit.codes(weights).map(|q| fit.scale * q + fit.minimum)
    }

    #[test]
    fn errors_are_at_most_those_by_range() {
        let mut random = fastrand::Rng::with_seed(1);
        let (mut fitted, mut ranged) = (0.0, 0.0);
        for _ in 0..500 {
            // About normal: the sum of four uniform ones.
            let weights = std::array::from_fn(|_| (0..4).map(|_| random.f32() - 0.5).sum::<f32>() * 0.05);
            let (fit, range) = (error(&weights, &Group::fit(&weights).values()), error(&weights, &by_range(&weights)));
            assert!(fit <= range * 1.0001, "{fit} {range}");
            fitted += fit;
            ranged += range;
        }
        assert!(fitted < 0.9 * ranged, "{fitted} {ranged}");
    }

    /// Weights that lie on such a grid, both ends of which are in use, are found exactly.
    #[test]
    fn a_grid_is_found_again() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..200 {
            let mut q: [u8; GROUP] = std::array::from_fn(|_| random.u8(0..16));
            (q[3], q[20]) = (0, 15);
            let (scale, minimum) = (f16::from_f32(random.f32() * 0.01 + 1e-3), f16::from_f32(random.f32() * -0.1));
            let group = Group { scale, minimum, q };
            let found = Group::fit(&group.values());
            let largest = group.values().iter().fold(0.0f32, |most, v| most.max(v.abs()));
            for (a, b) in group.values().iter().zip(found.values()) {
                assert!((a - b).abs() <= largest * 1e-3, "{group:?} {found:?}");
            }
        }
    }

    #[test]
    fn bytes_there_and_back() {
        let group = Group::fit(&std::array::from_fn(|i| (i as f32 * 0.7).sin()));
        assert_eq!(Group::from_bytes(&group.to_bytes()), group);
        for constant in [0.0, 1.0, -3.5, 65504.0, 2.0f32.powi(-24)] {
            let values = Group::fit(&[constant; GROUP]).values();
            assert!(values.iter().all(|v| (v - constant).abs() <= constant.abs() * 1e-3), "{values:?}");
        }
        let wide: [f32; GROUP] = std::array::from_fn(|i| if i % 2 == 0 { 65504.0 } else { -65504.0 });
        assert!(Group::fit(&wide).values().iter().all(|v| v.is_finite()));
    }
}

//! The 8-bit form of weights: symmetric, [`GROUP`] columns of a row share a scale. Made at load from the f16 download.

use half::{bf16, f16};

/// Columns that share a scale. Divides every row of the family.
pub const GROUP: usize = 32;

/// weight = scale * q with |q| <= 127 and |error| <= scale / 2. The scale is the smallest bf16 not below max|w| / 127:
/// it has the range of f32, so small weights lose nothing, and fits half a word. Weights are finite.
pub fn quantise(weights: &[f16; GROUP]) -> (bf16, [i8; GROUP]) {
    let weights = weights.map(widen);
    let largest = weights.iter().fold(0.0f32, |max, w| max.max(w.abs()));
    let exact = largest / 127.0;
    let scale = bf16::from_bits(((exact.to_bits() + 0xffff) >> 16) as u16);
    let inverse = if scale == bf16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    (scale, weights.map(|w| round(w * inverse)))
}

/// To the nearest integer, of two the even one, for |x| <= 127: as a sum whose last place is 1. `round_ties_even` is a call
/// for each element in wasm.
fn round(x: f32) -> i8 {
    const WHOLE: f32 = 1.5 * (1u32 << 23) as f32;
    (x + WHOLE).to_bits() as u8 as i8
}

/// The value of a finite f16, without a branch: its bits where f32 has them are 2^-112 of it, subnormals included.
pub fn widen(value: f16) -> f32 {
    let bits = (i32::from(value.to_bits() as i16) << 13) as u32 & 0x8fff_e000;
    f32::from_bits(bits) * f32::from_bits((127 + 112) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(weights: [f16; GROUP]) {
        let (scale, q) = quantise(&weights);
        let scale = scale.to_f32();
        let largest = weights.iter().map(|w| w.to_f32().abs()).fold(0.0, f32::max);
        assert!(scale >= largest / 127.0 && scale <= largest / 127.0 * 1.008, "{scale} for {largest}");
        for (w, q) in weights.iter().zip(q) {
            assert!(q != i8::MIN);
            assert!((w.to_f32() - scale * q as f32).abs() <= scale * 0.500_001, "{w} {q} {scale}");
        }
    }

    #[test]
    fn rounds_to_even() {
        for tenths in -1270..=1270 {
            let x = tenths as f32 / 10.0;
            assert_eq!(round(x), x.round_ties_even() as i8, "{x}");
        }
        assert_eq!([0.5, 1.5, 2.5, -0.5, -1.5, -126.5].map(round), [0, 2, 2, 0, -2, -126]);
    }

    #[test]
    fn widens_every_finite_f16() {
        for value in (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()) {
            assert_eq!(widen(value).to_bits(), value.to_f32().to_bits(), "{value}");
        }
    }

    #[test]
    fn errors_are_at_most_half_a_step() {
        let mut random = fastrand::Rng::with_seed(1);
        for size in [1e-8, 6e-8, 1e-6, 6e-5, 1e-3, 0.02, 1.0, 60.0, 65_000.0] {
            for _ in 0..50 {
                check(std::array::from_fn(|_| f16::from_f32((random.f32() * 2.0 - 1.0) * size)));
            }
        }
        check([f16::ZERO; GROUP]);
        check([f16::NEG_ZERO; GROUP]);
        check([f16::MAX; GROUP]);
        check([f16::from_bits(1); GROUP]);
    }
}

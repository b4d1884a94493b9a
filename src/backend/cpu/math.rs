//! Exponential, softmax, SiLU and RMSNorm over [`F4`] lanes; f16 to and from f32.

use super::lanes::{F4, I4, madd};

/// e^x of four x. Relative error at most 2.5e-7 on [-87, 88]; below, the result of -87 (1.6e-38); above, that of 88.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, then the degree-6 polynomial of Cephes `expf`.
#[inline(always)]
pub fn exp(x: F4) -> F4 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    let x = x.max(F4::splat(-87.0)).min(F4::splat(88.0));
    let shifted = madd(x, F4::splat(std::f32::consts::LOG2_E), F4::splat(MAGIC));
    let n = shifted.sub(F4::splat(MAGIC));
    let r = madd(n, F4::splat(-0.693_359_4), x);
    let r = madd(n, F4::splat(2.121_944_4e-4), r);
    let mut p = F4::splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = madd(p, r, F4::splat(c));
    }
    let y = madd(p, r.mul(r), r.add(F4::splat(1.0)));
    let power = shifted.bits().shl::<23>().add(I4::splat(127 << 23)).as_f32();
    y.mul(power)
}

/// f = SiLU(gate) * up, element by element; the result replaces `gate`.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    let one = F4::splat(1.0);
    let f = |g: &mut [f32; 4], u: &[f32; 4]| {
        let gate = F4::load(g);
        let down = one.add(exp(F4::splat(0.0).sub(gate)));
        gate.div(down).mul(F4::load(u)).store(g);
    };
    let (gates, gate_rest) = gate.as_chunks_mut::<4>();
    let (ups, up_rest) = up.as_chunks::<4>();
    gates.iter_mut().zip(ups).for_each(|(g, u)| f(g, u));
    for (gate, up) in gate_rest.iter_mut().zip(up_rest) {
        let mut quad = [*gate, 0.0, 0.0, 0.0];
        f(&mut quad, &[*up, 0.0, 0.0, 0.0]);
        *gate = quad[0];
    }
}

/// What is [`widen`]ed is to be multiplied by this: 2^112.
pub const WIDENED: f32 = f32::from_bits((127 + 112) << 23);

/// The f16 halves of four words, low ones and high ones, times 2^-112: their bits where f32 has them.
#[inline(always)]
pub fn widen(words: &[u32; 4]) -> [F4; 2] {
    let mask = I4::splat(0x8fff_e000);
    let words = I4::load(words);
    [words.shl::<16>().shr::<3>().and(mask).as_f32(), words.shr::<3>().and(mask).as_f32()]
}

/// The bits of the nearest f16, of two the even one; beyond the largest f16, those of the largest. Below 2^-14 it may be the
/// other neighbour where both are within 1/4096 of equally near. Without a branch: times 2^-112 an f32 has the bits of an
/// f16, subnormals included, and 13 more.
#[inline(always)]
pub fn narrow(value: f32) -> u16 {
    let bits = (value.abs().min(65_504.0) * f32::from_bits((127 - 112) << 23)).to_bits();
    (value.to_bits() >> 16 & 0x8000 | (bits + 0xfff + (bits >> 13 & 1)) >> 13) as u16
}

/// The sum of four lanes.
#[inline(always)]
pub fn total(v: F4) -> f32 {
    let mut lanes = [0.0; 4];
    v.store(&mut lanes);
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}

/// out = x / rms(x) * gain; lengths are multiples of 16.
pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let mut sums = [F4::splat(0.0); 4];
    for chunk in x.as_chunks::<16>().0 {
        for (sum, quad) in sums.iter_mut().zip(chunk.as_chunks::<4>().0) {
            let v = F4::load(quad);
            *sum = madd(v, v, *sum);
        }
    }
    let sum = total(sums[0].add(sums[1]).add(sums[2].add(sums[3])));
    let scale = F4::splat(1.0 / (sum / x.len() as f32 + eps).sqrt());
    let quads = x.as_chunks::<4>().0.iter().zip(gain.as_chunks::<4>().0).zip(out.as_chunks_mut::<4>().0);
    for ((x, g), out) in quads {
        F4::load(x).mul(scale).mul(F4::load(g)).store(out);
    }
}

/// Softmax of the first `n` of `scores` (a multiple of 4 long), not yet divided: e^(s - max), 0 after `n`. Returns 1 / sum.
pub fn softmax(scores: &mut [f32], n: usize) -> f32 {
    scores[n..].fill(f32::NEG_INFINITY);
    let quads = scores.as_chunks_mut::<4>().0;
    let max = quads.iter().fold(F4::splat(f32::NEG_INFINITY), |max, quad| F4::load(quad).max(max));
    let mut lanes = [0.0; 4];
    max.store(&mut lanes);
    let max = F4::splat(lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    for quad in quads {
        exp(F4::load(quad).sub(max)).store(quad);
    }
    scores[n..].fill(0.0);
    let sum = scores.as_chunks::<4>().0.iter().fold(F4::splat(0.0), |sum, quad| sum.add(F4::load(quad)));
    1.0 / total(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exp_of(x: f32) -> f32 {
        let mut out = [0.0; 4];
        exp(F4::splat(x)).store(&mut out);
        out[0]
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        let mut worst = 0.0f64;
        for bits in (0..=0x42b0_0000u32).step_by(997) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                if x >= -87.0 {
                    let exact = (x as f64).exp();
                    worst = worst.max(((exp_of(x) as f64 - exact) / exact).abs());
                }
            }
        }
        assert!(worst < 2.5e-7, "{worst:e}");
        assert_eq!(exp_of(0.0), 1.0);
        assert!(exp_of(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_of(1e9).is_finite());
    }

    #[test]
    fn halves_go_there_and_back() {
        for half in (0..=u16::MAX).map(half::f16::from_bits).filter(|half| half.is_finite()) {
            let word = u32::from(half.to_bits());
            let mut out = [[0.0; 4]; 2];
            for (value, out) in widen(&[word | 0x3c00 << 16, 0, word << 16, 0]).into_iter().zip(&mut out) {
                value.store(out);
            }
            assert_eq!(
                out.map(|out| out.map(|v| v * WIDENED)),
                [[half.to_f32(), 0.0, 0.0, 0.0], [1.0, 0.0, half.to_f32(), 0.0]]
            );
            assert_eq!(narrow(half.to_f32()), half.to_bits());
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200_000 {
            let value = (random.f32() * 2.0 - 1.0) * 2f32.powi(random.i32(-30..16));
            let (got, nearest) = (half::f16::from_bits(narrow(value)), half::f16::from_f32(value));
            if value.abs() >= 2f32.powi(-14) {
                assert_eq!(got.to_bits(), nearest.to_bits(), "{value:e}");
            } else {
                assert!((got.to_f32() - value).abs() <= 0.500_25 * 2f32.powi(-24), "{got} for {value:e}");
            }
        }
        let value = |bits| half::f16::from_bits(bits).to_f32();
        for bits in 0..0x7bff {
            assert_eq!(narrow((value(bits) + value(bits + 1)) / 2.0), bits + (bits & 1), "above {bits:#x}");
        }
        assert_eq!([1e9, f32::INFINITY, -70_000.0].map(narrow), [0x7bff, 0x7bff, 0xfbff]);
    }

    #[test]
    fn silu_mul_equals_the_formula() {
        for n in 1..40 {
            let gate: Vec<f32> = (0..n).map(|i| (i as f32 - 17.0) * 3.1).collect();
            let up: Vec<f32> = (0..n).map(|i| 0.3 - i as f32).collect();
            let mut out = gate.clone();
            silu_mul(&mut out, &up);
            for ((g, u), out) in gate.iter().zip(&up).zip(out) {
                let exact = *g as f64 / (1.0 + (-*g as f64).exp()) * *u as f64;
                assert!((out as f64 - exact).abs() <= 1e-6 * exact.abs().max(1e-30), "{g} {u}: {out} {exact}");
            }
        }
    }

    #[test]
    fn softmax_ignores_what_follows_its_length() {
        for n in 1..=70usize {
            let mut scores: Vec<f32> = (0..n.next_multiple_of(16)).map(|i| (i as f32 * 1.7).sin() * 9.0).collect();
            scores[n..].fill(1e30);
            let exact: Vec<f64> = scores[..n].iter().map(|s| (*s as f64).exp()).collect();
            let inverse = softmax(&mut scores, n);
            let sum: f64 = exact.iter().sum();
            for (score, exact) in scores.iter().zip(&exact) {
                assert!(((score * inverse) as f64 - exact / sum).abs() < 1e-6);
            }
            assert!(scores[n..].iter().all(|s| *s == 0.0));
        }
    }
}

//! The values of ggml's blocks of quantised weights (`ggml-quants.c`), each computed in f32 in the order of the format's own
//! code, so that they are the same to the last bit.

use crate::packed::{Packing, q4, q8};
use crate::weights::Dtype;
use half::f16;

/// Weights of the small blocks, and of those of the K-quants.
const SMALL: usize = 32;
const LARGE: usize = 256;

/// Values of IQ4_NL's 16 codes.
const IQ4_NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes the weights of each block of `N` bytes through `block`, `W` at a time.
fn each<const N: usize, const W: usize>(bytes: &[u8], out: &mut Vec<f32>, block: impl Fn(&[u8; N], &mut [f32; W])) {
    let (blocks, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty(), "whole blocks");
    let start = out.len();
    out.resize(start + blocks.len() * W, 0.0);
    for (bytes, out) in blocks.iter().zip(out[start..].as_chunks_mut::<W>().0) {
        block(bytes, out);
    }
}

/// 16 bytes: the low halves are the first 16 weights' codes, the high halves the others'.
fn halves(codes: &[u8], out: &mut [f32; SMALL], value: impl Fn(usize, u8) -> f32) {
    for (i, &byte) in codes.iter().enumerate() {
        out[i] = value(i, byte & 15);
        out[i + 16] = value(i + 16, byte >> 4);
    }
}

pub fn q8_0(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 34], out: &mut [f32; SMALL]| {
        let d = half(b, 0);
        for (out, &q) in out.iter_mut().zip(&b[2..]) {
            *out = f32::from(q as i8) * d;
        }
    });
}

pub fn q4_0(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 18], out| {
        let d = half(b, 0);
        halves(&b[2..], out, |_, q| d * f32::from(q as i8 - 8));
    });
}

pub fn q4_1(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 20], out| {
        let (d, m) = (half(b, 0), half(b, 2));
        halves(&b[4..], out, |_, q| d * f32::from(q) + m);
    });
}

/// The fifth bits of 32 codes.
fn fifth(bytes: &[u8], at: usize) -> impl Fn(usize) -> u8 {
    let bits = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    move |i| (bits >> i & 1) as u8 * 16
}

pub fn q5_0(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 22], out| {
        let (d, high) = (half(b, 0), fifth(b, 2));
        halves(&b[6..], out, |i, q| d * f32::from((q | high(i)) as i8 - 16));
    });
}

pub fn q5_1(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 24], out| {
        let (d, m, high) = (half(b, 0), half(b, 2), fifth(b, 4));
        halves(&b[8..], out, |i, q| d * f32::from(q | high(i)) + m);
    });
}

pub fn iq4_nl(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 18], out| {
        let d = half(b, 0);
        halves(&b[2..], out, |_, q| d * f32::from(IQ4_NL[usize::from(q)]));
    });
}

/// Scale and minimum of group `group` of eight, six bits each, from the 12 bytes of Q4_K and Q5_K.
pub fn scale_min(bytes: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (bytes[group] & 63, bytes[group + 4] & 63);
    }
    let (low, scale, min) = (bytes[group + 4], bytes[group - 4], bytes[group]);
    (low & 15 | scale >> 6 << 4, low >> 4 | min >> 6 << 4)
}

/// Groups of 32 weights: of each pair the low halves of 32 bytes, then the high ones.
fn k_quant(b: &[u8], codes: &[u8], out: &mut [f32; LARGE], high: impl Fn(usize, usize) -> u8) {
    let (d, min) = (half(b, 0), half(b, 2));
    for (group, out) in out.chunks_exact_mut(SMALL).enumerate() {
        let (scale, m) = scale_min(&b[4..16], group);
        let (d, m) = (d * f32::from(scale), min * f32::from(m));
        let codes = &codes[group / 2 * SMALL..][..SMALL];
        for (i, (out, &byte)) in out.iter_mut().zip(codes).enumerate() {
            let q = byte >> (group % 2 * 4) & 15 | high(group, i);
            *out = d * f32::from(q) - m;
        }
    }
}

pub fn q4_k(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 144], out| k_quant(b, &b[16..], out, |_, _| 0));
}

pub fn q5_k(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 176], out| k_quant(b, &b[48..], out, |group, i| (b[16 + i] >> group & 1) * 16));
}

pub fn q6_k(bytes: &[u8], out: &mut Vec<f32>) {
    each(bytes, out, |b: &[u8; 210], out: &mut [f32; LARGE]| {
        let d = half(b, 208);
        // Each half of the block: four groups of 32 in the low and high halves of 64 bytes, their upper bits in 32 more.
        for (n, out) in out.iter_mut().enumerate() {
            let (part, group, i) = (n / 128, n % 128 / 32, n % 32);
            let low = b[part * 64 + group % 2 * 32 + i] >> (group / 2 * 4) & 15;
            let high = b[128 + part * 32 + i] >> (group * 2) & 3;
            let scale = f32::from(b[192 + n / 16] as i8);
            *out = d * scale * f32::from((low | high << 4) as i8 - 32);
        }
    });
}

/// Whether a matrix held so stands for the very values of a type, but that a scale of Q4_K, a product, is rounded to f16.
pub fn holds(held: Packing, dtype: Dtype) -> bool {
    match held {
        Packing::F16 => true,
        Packing::Q8 => matches!(dtype, Dtype::Q8_0 | Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Iq4Nl),
        Packing::Q4 => matches!(dtype, Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q4K),
    }
}

/// Whole rows as a matrix that is held in `held` takes them best, where a block is a group of [`crate::packed`] under another
/// name: nothing is rounded then. `None` for other types.
pub fn packed(dtype: Dtype, held: Packing, rows: &[u8]) -> Option<(Packing, Vec<u8>)> {
    let group = |d: &[u8], q: [i8; SMALL]| {
        let scale = f16::from_le_bytes([d[0], d[1]]);
        q8::Group { scale, q }.to_bytes()
    };
    Some(match (dtype, held) {
        (Dtype::Q8_0, _) => (Packing::Q8, rows.to_vec()),
        (Dtype::Q4_1, _) => (Packing::Q4, rows.to_vec()),
        (Dtype::Q4_0, Packing::Q4) => {
            let four = |b: &[u8; 18]| -> Option<[u8; q4::BYTES]> {
                let minimum = f16::from_f32(-8.0 * half(b, 0));
                // Beyond the largest f16: such a block is not one of weights.
                minimum.is_finite().then_some(())?;
                let mut bytes = [0; q4::BYTES];
                bytes[..2].copy_from_slice(&b[..2]);
                bytes[2..4].copy_from_slice(&minimum.to_le_bytes());
                bytes[4..].copy_from_slice(&b[2..]);
                Some(bytes)
            };
            let groups = rows.as_chunks::<18>().0.iter().map(four).collect::<Option<Vec<_>>>()?;
            (Packing::Q4, groups.into_flattened())
        }
        (Dtype::Q4_0, Packing::Q8) => {
            let code = |b: &[u8; 18], i: usize| (b[2 + i % 16] >> (i / 16 * 4) & 15) as i8 - 8;
            let eight = |b: &[u8; 18]| group(&b[..2], std::array::from_fn(|i| code(b, i)));
            (Packing::Q8, rows.as_chunks().0.iter().flat_map(eight).collect())
        }
        (Dtype::Q5_0, Packing::Q8) => {
            let eight = |b: &[u8; 22]| {
                let high = fifth(b, 2);
                let code = |i: usize| (b[6 + i % 16] >> (i / 16 * 4) & 15 | high(i)) as i8 - 16;
                group(&b[..2], std::array::from_fn(code))
            };
            (Packing::Q8, rows.as_chunks().0.iter().flat_map(eight).collect())
        }
        (Dtype::Iq4Nl, Packing::Q8) => {
            let code = |b: &[u8; 18], i: usize| IQ4_NL[usize::from(b[2 + i % 16] >> (i / 16 * 4) & 15)];
            let eight = |b: &[u8; 18]| group(&b[..2], std::array::from_fn(|i| code(b, i)));
            (Packing::Q8, rows.as_chunks().0.iter().flat_map(eight).collect())
        }
        (Dtype::Q4K, Packing::Q4) => {
            let eight = |b: &[u8; 144]| -> Option<Vec<u8>> {
                let mut groups = Vec::with_capacity(LARGE / SMALL * q4::BYTES);
                for group in 0..LARGE / SMALL {
                    let (scale, min) = scale_min(&b[4..16], group);
                    let scale = f16::from_f32(half(b, 0) * f32::from(scale));
                    let minimum = f16::from_f32(-half(b, 2) * f32::from(min));
                    (scale.is_finite() && minimum.is_finite()).then_some(())?;
                    let codes = &b[16 + group / 2 * SMALL..][..SMALL];
                    let q = std::array::from_fn(|i| codes[i] >> (group % 2 * 4) & 15);
                    groups.extend(q4::Group { scale, minimum, q }.to_bytes());
                }
                Some(groups)
            };
            (Packing::Q4, rows.as_chunks().0.iter().map(eight).collect::<Option<Vec<_>>>()?.concat())
        }
        _ => return None,
    })
}

/// The rounding to blocks of 32 of the format's reference code (`quantize_row_*_ref`), for what `mobilellm convert` writes.
#[cfg(not(target_arch = "wasm32"))]
pub mod encode {
    use super::SMALL;
    use half::f16;

    /// Codes of 0 to 2 `half` - 1 around `half`, so that the weight furthest from zero is exact. Gives the scale too.
    fn symmetric(values: &[f32; SMALL], half: u8) -> (f32, [u8; SMALL]) {
        let furthest = values.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
        let d = furthest / -f32::from(half);
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        (d, values.map(|x| ((x * inverse + f32::from(half) + 0.5) as u8).min(2 * half - 1)))
    }

    /// Codes of 0 to `top` from the smallest weight up. Gives scale and minimum too.
    fn from_minimum(values: &[f32; SMALL], top: u8) -> (f32, f32, [u8; SMALL]) {
        let (min, max) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
        let d = (max - min) / f32::from(top);
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        (d, min, values.map(|x| (((x - min) * inverse + 0.5) as u8).min(top)))
    }

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    /// The fifth bits, if there are any, then the low four in halves.
    fn codes(codes: &[u8; SMALL], five: bool, out: &mut Vec<u8>) {
        if five {
            let bits = codes.iter().rev().fold(0, |bits: u32, code| bits << 1 | u32::from(code >> 4));
            out.extend(bits.to_le_bytes());
        }
        out.extend((0..16).map(|i| codes[i] & 15 | codes[i + 16] << 4));
    }

    pub fn q8_0(values: &[f32; SMALL], out: &mut Vec<u8>) {
        let d = values.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        out.extend(half(d));
        out.extend(values.map(|x| (x * inverse).round() as i8 as u8));
    }

    pub fn q4_0(values: &[f32; SMALL], out: &mut Vec<u8>) {
        let (d, q) = symmetric(values, 8);
        out.extend(half(d));
        codes(&q, false, out);
    }

    pub fn q5_0(values: &[f32; SMALL], out: &mut Vec<u8>) {
        let (d, q) = symmetric(values, 16);
        out.extend(half(d));
        codes(&q, true, out);
    }

    pub fn q4_1(values: &[f32; SMALL], out: &mut Vec<u8>) {
        let (d, min, q) = from_minimum(values, 15);
        out.extend([half(d), half(min)].concat());
        codes(&q, false, out);
    }

    pub fn q5_1(values: &[f32; SMALL], out: &mut Vec<u8>) {
        let (d, min, q) = from_minimum(values, 31);
        out.extend([half(d), half(min)].concat());
        codes(&q, true, out);
    }
}

#[cfg(test)]
mod packed_tests {
    use super::*;
    use crate::packed::unpack;

    /// What is held stands for the very values that the format gives.
    #[test]
    fn blocks_that_are_groups_are_held_as_they_are() {
        let mut random = fastrand::Rng::with_seed(5);
        for (dtype, held, bytes) in [
            (Dtype::Q8_0, Packing::Q8, 34),
            (Dtype::Q4_1, Packing::Q4, 20),
            (Dtype::Q4_0, Packing::Q4, 18),
            (Dtype::Q4_0, Packing::Q8, 18),
            (Dtype::Q5_0, Packing::Q8, 22),
            (Dtype::Iq4Nl, Packing::Q8, 18),
        ] {
            let mut rows = Vec::new();
            for _ in 0..50 {
                let mut block: Vec<u8> = (0..bytes).map(|_| random.u8(..)).collect();
                block[..2].copy_from_slice(&f16::from_f32(random.f32() * 0.1 - 0.05).to_le_bytes());
                if dtype == Dtype::Q4_1 {
                    block[2..4].copy_from_slice(&f16::from_f32(random.f32() - 0.5).to_le_bytes());
                }
                rows.extend(block);
            }
            let (packing, packed) = packed(dtype, held, &rows).unwrap();
            assert_eq!(packing, held);
            let mut values = Vec::new();
            dtype.to_f32(&rows, &mut values);
            let same = values.iter().zip(unpack(packing, &packed)).all(|(a, b)| *a == b);
            assert!(same, "{dtype:?} as {held:?}");
        }
    }

    /// Codes stay as they are; scale and minimum are rounded to f16 and no further.
    #[test]
    fn q4_k_is_held_in_four_bits() {
        let mut random = fastrand::Rng::with_seed(6);
        let mut rows = Vec::new();
        for _ in 0..20 {
            let mut block: Vec<u8> = (0..144).map(|_| random.u8(..)).collect();
            block[..2].copy_from_slice(&f16::from_f32(random.f32() * 1e-3).to_le_bytes());
            block[2..4].copy_from_slice(&f16::from_f32(random.f32() * 1e-2).to_le_bytes());
            rows.extend(block);
        }
        let (packing, packed) = packed(Dtype::Q4K, Packing::Q4, &rows).unwrap();
        let (mut values, held) = (Vec::new(), unpack(packing, &packed));
        Dtype::Q4K.to_f32(&rows, &mut values);
        for (values, held) in values.chunks(SMALL).zip(held.chunks(SMALL)) {
            let largest = values.iter().chain(held).fold(0.0f32, |most, x| most.max(x.abs()));
            let furthest = values.iter().zip(held).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
            // The minimum may be as large as the whole range, each of the two off by half a step of f16.
            assert!(furthest <= 3.0 * largest / 2048.0, "{furthest} of {largest}");
        }
    }
}

//! How weights are packed: stated once for every backend, for what reads checkpoints and for what writes them.
//!
//! | packing | bits a weight | a row of `cols` weights is |
//! | --- | --- | --- |
//! | [`Packing::F16`] | 16 | `cols` f16 |
//! | [`Packing::Q8`] | 8.5 | `cols / 32` groups of [`q8`]: those of ggml's Q8_0 |
//! | [`Packing::Q4`] | 5 | `cols / 32` groups of [`q4`]: those of ggml's Q4_1 |
//!
//! Everything is little-endian. `docs/quantisation.md` says why these.

pub mod q4;
pub mod q8;

use half::f16;
use std::borrow::Cow;

/// Columns of a row that share a scale. Divides every row of the family.
pub const GROUP: usize = 32;

/// How weights are held in memory; the download is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "Dtype"))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// As published.
    #[default]
    F16,
    /// 8-bit integers in groups with a scale: half the memory.
    Q8,
    /// 4-bit integers in groups with a scale and a minimum; embedding and head as in [`Precision::Q8`].
    Q4,
}

impl Precision {
    /// Packing of the embedding and the head, which are one matrix in most models of the family.
    pub fn of_tables(self) -> Packing {
        match self {
            Precision::F16 => Packing::F16,
            Precision::Q8 | Precision::Q4 => Packing::Q8,
        }
    }

    /// Packing of the blocks' matrices.
    pub fn of_blocks(self) -> Packing {
        match self {
            Precision::F16 => Packing::F16,
            Precision::Q8 => Packing::Q8,
            Precision::Q4 => Packing::Q4,
        }
    }

    /// As the option `dtype` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F16 => "f16",
            Precision::Q8 => "q8",
            Precision::Q4 => "q4",
        }
    }
}

/// How the weights of a matrix are held, and how whole rows of it come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    F16,
    Q8,
    Q4,
}

impl Packing {
    /// Bytes of a row of `cols` weights; `cols` is a multiple of [`GROUP`] but for f16.
    pub fn row_bytes(self, cols: usize) -> usize {
        match self {
            Packing::F16 => 2 * cols,
            Packing::Q8 => cols / GROUP * q8::BYTES,
            Packing::Q4 => cols / GROUP * q4::BYTES,
        }
    }
}

/// Whole rows of `from`, packed as `to`. What is packed so already stays as it is, to the last bit.
///
/// # Errors
/// What is wrong with the weights: infinite or NaN ones, or too large for f16.
pub fn repack(from: Packing, to: Packing, rows: &[u8]) -> Result<Cow<'_, [u8]>, &'static str> {
    if !finite(from, rows) {
        return Err("holds a value that is not finite");
    }
    if from == to {
        return Ok(Cow::Borrowed(rows));
    }
    let mut out = Vec::new();
    let mut fits = true;
    let mut pack = |values: &[f32; GROUP]| match to {
        Packing::F16 => out.extend(values.iter().flat_map(|&value| {
            let value = f16::from_f32(value);
            fits &= value.is_finite();
            value.to_le_bytes()
        })),
        Packing::Q8 => out.extend(q8::Group::fit(values).to_bytes()),
        Packing::Q4 => out.extend(q4::Group::fit(values).to_bytes()),
    };
    match from {
        Packing::F16 => rows.as_chunks::<{ 2 * GROUP }>().0.iter().for_each(|group| pack(&of_f16(group))),
        Packing::Q8 => rows.as_chunks().0.iter().for_each(|bytes| pack(&q8::Group::from_bytes(bytes).values())),
        Packing::Q4 => rows.as_chunks().0.iter().for_each(|bytes| pack(&q4::Group::from_bytes(bytes).values())),
    }
    if fits { Ok(Cow::Owned(out)) } else { Err("holds a value beyond 65504, the largest f16") }
}

/// The weights of whole rows.
pub fn unpack(packing: Packing, rows: &[u8]) -> Vec<f32> {
    match packing {
        Packing::F16 => rows.as_chunks().0.iter().map(|bytes| widen(f16::from_le_bytes(*bytes))).collect(),
        Packing::Q8 => rows.as_chunks().0.iter().flat_map(|bytes| q8::Group::from_bytes(bytes).values()).collect(),
        Packing::Q4 => rows.as_chunks().0.iter().flat_map(|bytes| q4::Group::from_bytes(bytes).values()).collect(),
    }
}

fn of_f16(group: &[u8; 2 * GROUP]) -> [f32; GROUP] {
    let values = group.as_chunks().0;
    std::array::from_fn(|i| widen(f16::from_le_bytes(values[i])))
}

fn finite(packing: Packing, rows: &[u8]) -> bool {
    let finite = |low: u8, high: u8| f16::from_le_bytes([low, high]).is_finite();
    match packing {
        // Every exponent below that of infinities: a maximum is vectorised, a search is not.
        Packing::F16 => rows.as_chunks().0.iter().fold(0, |most, b| most.max(u16::from_le_bytes(*b) & 0x7fff)) < 0x7c00,
        Packing::Q8 => rows.as_chunks::<{ q8::BYTES }>().0.iter().all(|group| finite(group[0], group[1])),
        Packing::Q4 => {
            let mut groups = rows.as_chunks::<{ q4::BYTES }>().0.iter();
            groups.all(|group| finite(group[0], group[1]) && finite(group[2], group[3]))
        }
    }
}

/// The value of a finite f16, without a branch: its bits where f32 has them are 2^-112 of it, subnormals included.
pub fn widen(value: f16) -> f32 {
    let bits = (i32::from(value.to_bits() as i16) << 13) as u32 & 0x8fff_e000;
    f32::from_bits(bits) * f32::from_bits((127 + 112) << 23)
}

/// To the nearest integer, of two the even one, for |x| <= 2^21: as a sum whose last place is 1. `round_ties_even` is a call
/// for each element in wasm.
fn round(x: f32) -> f32 {
    const WHOLE: f32 = 1.5 * (1u32 << 23) as f32;
    (x + WHOLE) - WHOLE
}

/// The nearest f16 that is finite.
fn narrow(value: f32) -> f16 {
    f16::from_f32(value.clamp(-65504.0, 65504.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_even() {
        for tenths in -1270..=1270 {
            let x = tenths as f32 / 10.0;
            assert_eq!(round(x), x.round_ties_even(), "{x}");
        }
    }

    #[test]
    fn widens_every_finite_f16() {
        for value in (0..=u16::MAX).map(f16::from_bits).filter(|value| value.is_finite()) {
            assert_eq!(widen(value).to_bits(), value.to_f32().to_bits(), "{value}");
        }
    }

    #[test]
    fn what_is_packed_stays_as_it_is() {
        let mut random = fastrand::Rng::with_seed(3);
        let f16s: Vec<u8> = (0..4 * GROUP).flat_map(|_| f16::from_f32(random.f32() - 0.5).to_le_bytes()).collect();
        for packing in [Packing::Q8, Packing::Q4] {
            let packed = repack(Packing::F16, packing, &f16s).unwrap();
            assert_eq!(packed.len(), 4 * packing.row_bytes(GROUP));
            assert_eq!(repack(packing, packing, &packed).unwrap(), packed);
            // What an f16 holds exactly survives the way through it.
            let values = unpack(packing, &packed);
            let other = unpack(Packing::F16, &repack(packing, Packing::F16, &packed).unwrap());
            assert!(values.iter().zip(&other).all(|(a, b)| f16::from_f32(*a).to_f32() == *b));
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for bad in [f16::INFINITY, f16::NEG_INFINITY, f16::NAN] {
            let bad = bad.to_le_bytes();
            for (packing, at) in
                [(Packing::F16, 34), (Packing::Q8, q8::BYTES), (Packing::Q4, 0), (Packing::Q4, q4::BYTES + 2)]
            {
                let mut rows = vec![0; packing.row_bytes(2 * GROUP)];
                rows[at..at + 2].copy_from_slice(&bad);
                for to in [Packing::F16, Packing::Q8, Packing::Q4] {
                    assert!(repack(packing, to, &rows).is_err(), "{packing:?} {at}");
                }
            }
        }
    }
}

//! Model files -> verified bytes -> tensors.
//!
//! ```text
//! config.json, index -> plan (which tensor lies where in which file)
//!                    -> piece: in the store and sound? else fetch, verify, store
//!                    -> TensorSink::write(tensor, offset, bytes)      (a piece is dropped before the fifth is held)
//! ```

pub mod abort;
pub mod checkpoint;
#[cfg(not(target_arch = "wasm32"))]
pub mod convert;
pub mod digest;
pub mod file;
pub mod formats;
pub mod header;
pub mod http;
pub mod models;
pub mod names;
pub mod plan;
pub mod progress;
mod record;
pub mod source;
pub mod verify;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;

pub use abort::Abort;
pub use checkpoint::{Checkpoint, Options, Report};
pub use progress::{Event, Phase, Progress};
pub use source::{Host, NoStore, Source, Store, Stored};

use crate::bytes::Bytes;
use crate::error::Result;
use formats::gguf::blocks;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Element type of a stored tensor. Those after the first three are ggml's: blocks of a row, with scales of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    #[serde(rename = "IQ4_NL")]
    Iq4Nl,
    #[serde(rename = "Q4_K")]
    Q4K,
    #[serde(rename = "Q5_K")]
    Q5K,
    #[serde(rename = "Q6_K")]
    Q6K,
    /// One that no weight may have, by its name in the file, with the bits of an element.
    Unread {
        name: TypeName,
        bits: u64,
    },
}

/// Name of a type that is not read, as files have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeName(pub &'static str);

impl From<&str> for TypeName {
    fn from(name: &str) -> Self {
        const SAFETENSORS: &str =
            "BOOL U8 I8 U16 I16 U32 I32 U64 I64 F64 C64 F4 F6_E2M3 F6_E3M2 F8_E5M2 F8_E4M3 F8_E8M0";
        const TORCH: &str =
            "BoolStorage ByteStorage CharStorage ShortStorage IntStorage LongStorage DoubleStorage ComplexFloatStorage";
        let mut known = SAFETENSORS.split(' ').chain(TORCH.split(' '));
        TypeName(known.find(|known| *known == name).unwrap_or("of an unknown kind"))
    }
}

impl Serialize for TypeName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for TypeName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(String::deserialize(deserializer)?.as_str().into())
    }
}

impl Dtype {
    /// Elements of a block, which lies within one row, and its bytes.
    pub fn block(self) -> (u64, u64) {
        match self {
            Dtype::F16 | Dtype::Bf16 => (1, 2),
            Dtype::F32 => (1, 4),
            Dtype::Q8_0 => (32, 34),
            Dtype::Q4_0 | Dtype::Iq4Nl => (32, 18),
            Dtype::Q4_1 => (32, 20),
            Dtype::Q5_0 => (32, 22),
            Dtype::Q5_1 => (32, 24),
            Dtype::Q4K => (256, 144),
            Dtype::Q5K => (256, 176),
            Dtype::Q6K => (256, 210),
            Dtype::Unread { bits, .. } => (8, bits),
        }
    }

    /// Bytes of whole blocks.
    pub fn bytes(self, elements: u64) -> u64 {
        match (self, self.block()) {
            // Rows of these need not be whole bytes.
            (Dtype::Unread { bits, .. }, _) => elements * bits / 8,
            (_, (block, bytes)) => elements / block * bytes,
        }
    }

    /// Appends the values of whole blocks.
    pub fn to_f32(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Dtype::F16 => out.extend(bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32())),
            Dtype::Bf16 => out.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
            Dtype::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Dtype::Q8_0 => blocks::q8_0(bytes, out),
            Dtype::Q4_0 => blocks::q4_0(bytes, out),
            Dtype::Q4_1 => blocks::q4_1(bytes, out),
            Dtype::Q5_0 => blocks::q5_0(bytes, out),
            Dtype::Q5_1 => blocks::q5_1(bytes, out),
            Dtype::Iq4Nl => blocks::iq4_nl(bytes, out),
            Dtype::Q4K => blocks::q4_k(bytes, out),
            Dtype::Q5K => blocks::q5_k(bytes, out),
            Dtype::Q6K => blocks::q6_k(bytes, out),
            Dtype::Unread { .. } => {}
        }
    }
}

/// One tensor of a checkpoint, as its file describes it. Row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Rows of a q or k projection with the two that RoPE turns against each other side by side (GGUF), and not in two halves
    /// of a head (Hugging Face).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rope_pairs: bool,
}

impl TensorInfo {
    /// `None` if the shape's size in bytes cannot be counted (on any platform: the limit is 2^53), or if its rows are not
    /// whole blocks.
    pub fn checked(name: String, dtype: Dtype, shape: &[u64]) -> Option<Self> {
        let (block, block_bytes) = dtype.block();
        let row = shape.last().copied().unwrap_or(1);
        // A zero must not hide an overflow before it: count the other factors.
        let elements = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1)))?;
        let unread = matches!(dtype, Dtype::Unread { .. });
        let bytes = match unread {
            true => elements.checked_mul(block_bytes)? / 8,
            false => (elements / block).max(1).checked_mul(block_bytes)?,
        };
        let shape = shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
        (bytes <= 1 << 53 && (unread || row.is_multiple_of(block))).then_some(Self {
            name,
            dtype,
            shape,
            rope_pairs: false,
        })
    }

    /// Size of the tensor's data in bytes.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.iter().map(|&d| d as u64).product())
    }

    /// Bytes of one row: of the last dimension.
    pub fn row_bytes(&self) -> usize {
        self.dtype.bytes(self.shape.last().map_or(1, |&d| d as u64)) as usize
    }
}

/// Takes the tensors of a checkpoint as their bytes arrive: the model under construction.
pub trait TensorSink {
    /// Called with every tensor of the checkpoint, before any bytes (again, to start from nothing, if a file turned out damaged): is it needed, has it the right shape, is any missing?
    /// Returns for each whether its bytes are wanted.
    fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>>;

    /// Bytes of tensor number `tensor` from byte `offset` on; pieces of one tensor arrive in order, cut anywhere.
    fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()>;
}

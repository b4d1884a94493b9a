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
use serde::{Deserialize, Serialize};

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    F16,
    Bf16,
    F32,
}

impl Dtype {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F16 | Dtype::Bf16 => 2,
            Dtype::F32 => 4,
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
}

impl TensorInfo {
    /// `None` if the shape's size in bytes cannot be counted (on any platform: the limit is 2^53).
    pub fn checked(name: String, dtype: Dtype, shape: &[u64]) -> Option<Self> {
        // A zero must not hide an overflow before it: count the other factors.
        let bytes = shape.iter().try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d.max(1)))?;
        let shape = shape.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?;
        (bytes <= 1 << 53).then_some(Self { name, dtype, shape })
    }

    /// Size of the tensor's data in bytes.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.dtype.size() as u64, |n, &d| n * d as u64)
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

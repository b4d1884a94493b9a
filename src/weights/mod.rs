//! Model files -> verified bytes -> tensors.
//!
//! ```text
//! config.json, index -> plan (which tensor lies where in which file)
//!                    -> piece: in the store and sound? else fetch, verify, store
//!                    -> TensorSink::write(tensor, offset, bytes)      (a piece is dropped before the fifth is held)
//! ```

use crate::error::Result;

/// A run of bytes, wherever it lies: Rust memory, or a JavaScript buffer that never enters wasm memory.
pub trait Bytes {
    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `out.len()` bytes from `offset` on.
    fn read(&self, offset: usize, out: &mut [u8]);

    /// Writes bytes `range` into `buffer` at `at`; offsets and length are multiples of 4.
    #[cfg(feature = "gpu")]
    fn upload(&self, range: std::ops::Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        let mut copy = vec![0; range.len()];
        self.read(range.start, &mut copy);
        queue.write_buffer(buffer, at, &copy);
    }
}

impl Bytes for Vec<u8> {
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self[offset..offset + out.len()]);
    }

    #[cfg(feature = "gpu")]
    fn upload(&self, range: std::ops::Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        queue.write_buffer(buffer, at, &self[range]);
    }
}

/// Element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Hugging Face name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

/// Takes the tensors of a checkpoint as their bytes arrive: the model under construction.
pub trait TensorSink {
    /// Called once with every tensor of the checkpoint, before any bytes: is it needed, has it the right shape, is any missing?
    /// Returns for each whether its bytes are wanted.
    fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>>;

    /// Bytes of tensor number `tensor` from byte `offset` on; pieces of one tensor arrive in order, cut anywhere.
    fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()>;
}

//! The files that checkpoints are published in: each gives the tensors of a file, with the offset of their first byte.

pub mod gguf;
pub mod safetensors;
pub mod torch;

//! What a forward pass computes in: every buffer that is neither weights nor a session's cache.

use super::device::{Buffer, Device};
use crate::config::Config;
use crate::error::Result;
use wgpu::BufferUsages as Usage;

/// Most rows of one pass.
pub(super) const MAX_ROWS: usize = 512;
/// Up to here a pass runs the fused kernels, which read the weights once for each row.
pub(super) const FEW_ROWS: usize = 4;
/// Most workgroups that share one head of one row.
pub(super) const MAX_PARTS: usize = 16;

pub(super) struct Activations {
    pub step: Buffer,              // `Step`
    pub sampling: Buffer,          // `SamplingUniform`
    pub ids: Buffer,               // (MAX_ROWS) u32
    pub chosen: Buffer,            // (1) u32
    pub x: Buffer,                 // (MAX_ROWS, hidden) f32
    pub n: Buffer,                 // (MAX_ROWS, hidden) f32: RMSNorm(x)
    pub q: Buffer,                 // (MAX_ROWS, heads x head_dim) f32
    pub a: Buffer,                 // (MAX_ROWS, heads x head_dim) f32
    pub parts: Buffer,             // (FEW_ROWS, heads, MAX_PARTS, head_dim + 2) f32
    pub y: Buffer,                 // (MAX_ROWS, widest product) f32
    pub f: Buffer,                 // (MAX_ROWS, intermediate) f32
    pub logits: Buffer,            // (as many rows as were asked for, vocab) f32
    pub history: Buffer,           // (vocab) u32: which ids were seen, how often
    pub candidates: Buffer,        // (vocab) f32
    pub work: Buffer,              // (vocab) f32
    rope: Option<(usize, Buffer)>, // (positions, head_dim / 2) cosine and sine
}

impl Activations {
    pub fn new(device: &Device, config: &Config) -> Result<Self> {
        let floats = |label, width: usize| device.buffer(label, (MAX_ROWS * width * 4) as u64, Usage::STORAGE);
        let vocab = config.vocab_size as u64 * 4;
        Ok(Activations {
            step: device.buffer("step", 32, Usage::UNIFORM)?,
            sampling: device.buffer("sampling", 32, Usage::UNIFORM)?,
            ids: floats("ids", 1)?,
            chosen: device.buffer("chosen", 4, Usage::STORAGE)?,
            x: floats("x", config.hidden_size)?,
            n: floats("n", config.hidden_size)?,
            q: floats("q", config.attention_width())?,
            a: floats("a", config.attention_width())?,
            parts: device.buffer(
                "attention parts",
                (FEW_ROWS * config.num_heads * MAX_PARTS * (config.head_dim + 2) * 4) as u64,
                Usage::STORAGE,
            )?,
            y: floats("y", config.qkv_rows().max(2 * config.intermediate_size))?,
            f: floats("f", config.intermediate_size)?,
            logits: device.buffer("logits", vocab, Usage::STORAGE)?,
            history: device.buffer("history", vocab, Usage::STORAGE)?,
            candidates: device.buffer("sampling candidates", vocab, Usage::STORAGE)?,
            work: device.buffer("sampling weights", vocab, Usage::STORAGE)?,
            rope: None,
        })
    }

    /// Rotations of at least `positions` positions.
    pub fn rope(&mut self, device: &Device, config: &Config, positions: usize) -> Result<Buffer> {
        if let Some((have, table)) = &self.rope
            && *have >= positions
        {
            return Ok(table.clone());
        }
        let rope = config.rope();
        let table: Vec<f32> = (0..positions).flat_map(|p| rope.rotation(p)).flat_map(|(sin, cos)| [cos, sin]).collect();
        let buffer = device.buffer("rope", (table.len() * 4) as u64, Usage::STORAGE)?;
        device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&table));
        self.rope = Some((positions, buffer.clone()));
        Ok(buffer)
    }

    /// Room for `rows` rows of logits.
    pub fn reserve_logits(&mut self, device: &Device, rows: usize, vocab: usize) -> Result<()> {
        let size = (rows * vocab * 4) as u64;
        if self.logits.size() < size {
            self.logits = device.buffer("logits", size, Usage::STORAGE)?;
        }
        Ok(())
    }
}

//! The verbs as WGSL kernels through wgpu.
//!
//! ```text
//! embed .. logits: recorded into one compute pass -> choose: recorded behind it, id copied to a staging buffer -> submit
//!                                                     \-> the id stays on the device: the next embed reads it there
//! ```
//! A pass of few rows runs the fused kernels (five dispatches an executed layer), one of many rows runs the tiled product
//! with small kernels between. Activations and keys are f32, weights and values f16: with keys in f16 too, logits of the
//! golden models are off by up to 1.6e-2, with f32 keys by 8e-3. Kernels are bound to their buffers
//! once ([`Launch`]) and only launched afterwards; what changes from step to step lies in one small uniform.

mod device;
mod kernels;

pub use device::{Device, DeviceOptions};

use crate::backend::{Activation, Backend, Input, Role};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sampler::Sampling;
use crate::weights::Bytes;
use device::Buffer;
use futures_channel::oneshot;
use kernels::{Constants, Kernel, Kernels, Launch};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// Most rows of one pass.
const MAX_ROWS: usize = 512;
/// Up to here a pass runs the fused kernels, which read the weights once for each row.
const FEW_ROWS: usize = 4;
/// `in_flight`: hides the way there and back; more gains nothing (bench/README.md).
const IN_FLIGHT: usize = 4;

/// Positions that `attend.wgsl` takes at a time; `CHUNK` there.
const CHUNK: usize = 512;
/// Most workgroups that share one head of one row.
const MAX_PARTS: usize = 16;

/// Threads that share the product of four rows of `cols` elements: one 16-byte load of each row a thread, up to 128
/// threads (bench/README.md).
fn threads(cols: usize) -> f64 {
    (cols / 8).next_power_of_two().clamp(32, 128) as f64
}

/// What changes from step to step; `Step` of the shaders.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Step {
    /// Position of row 0.
    pub start: u32,
    pub rows: u32,
    /// Row of x that is row 0 of the logits.
    pub first: u32,
    pub logit_rows: u32,
    pub uniform_value: f32,
}

/// `Sampling` of `sample.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct SamplingUniform {
    pub temperature: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    pub penalties: u32,
}

/// Launches by kernel and by the numbers of what they are bound to besides their owner.
type Launches = RefCell<HashMap<(Kernel, usize, usize), Launch>>;

/// Whole rows that fit one binding.
struct Part {
    first: usize,
    rows: usize,
    buffer: Buffer,
}

/// (rows, cols) f16.
pub struct Matrix {
    number: usize,
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
    launches: Launches,
}

/// (hidden) f32.
pub struct Gain {
    number: usize,
    buffer: Buffer,
}

/// Keys (f32) and values (f16) of each executed layer, (capacity, kv_width) each.
pub struct Cache {
    layers: Vec<(Buffer, Buffer)>,
    capacity: usize,
    /// Rotations of at least `capacity` positions.
    rope: Buffer,
    launches: Launches,
}

/// An id on its way from the device.
pub struct Ticket {
    read: Read,
}

/// Bytes being mapped.
struct Read {
    buffer: Buffer,
    arrived: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

/// Commands recorded and not yet submitted.
struct Pending {
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
}

pub struct Gpu {
    device: Device,
    config: Config,
    kernels: Kernels,
    launches: Launches,
    pending: Option<Pending>,
    step: Step,
    /// Numbers given to matrices and gains so far.
    matrices: usize,
    step_buffer: Buffer,
    sampling_buffer: Buffer,
    /// Greedy without penalties: `argmax` does.
    plain: bool,
    ids: Buffer,                   // (MAX_ROWS) u32
    chosen: Buffer,                // (1) u32
    x: Buffer,                     // (MAX_ROWS, hidden) f32
    n: Buffer,                     // (MAX_ROWS, hidden) f32: RMSNorm(x)
    q: Buffer,                     // (MAX_ROWS, heads x head_dim) f32
    a: Buffer,                     // (MAX_ROWS, heads x head_dim) f32
    parts: Buffer,                 // (FEW_ROWS, heads, MAX_PARTS, head_dim + 2) f32
    y: Buffer,                     // (MAX_ROWS, widest product) f32
    f: Buffer,                     // (MAX_ROWS, intermediate) f32
    logits: Buffer,                // (as many rows as were asked for, vocab) f32
    history: Buffer,               // (vocab) u32: which ids were seen, how often
    candidates: Buffer,            // (vocab) f32
    work: Buffer,                  // (vocab) f32
    rope: Option<(usize, Buffer)>, // (positions, head_dim / 2) cosine and sine
    in_flight: usize,
    spare: Vec<Buffer>, // staging for chosen ids
}

impl Gpu {
    /// Activations and kernels for one model.
    ///
    /// # Errors
    /// [`Error::GpuOutOfMemory`], [`Error::DeviceLost`].
    pub fn new(device: &Device, config: &Config) -> Result<Self> {
        let floats = |label, width: usize| device.buffer(label, (MAX_ROWS * width * 4) as u64, Usage::STORAGE);
        let vocab = config.vocab_size as u64 * 4;
        Ok(Gpu {
            kernels: Kernels::new(device.device.clone(), device.subgroups()),
            launches: Launches::default(),
            pending: None,
            step: Step::default(),
            matrices: 0,
            step_buffer: device.buffer("step", 32, Usage::UNIFORM)?,
            sampling_buffer: device.buffer("sampling", 32, Usage::UNIFORM)?,
            plain: true,
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
            in_flight: IN_FLIGHT,
            spare: Vec::new(),
            device: device.clone(),
            config: config.clone(),
        })
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Most steps on the device at once. Fewer leave more of a slow GPU to the page's own frames.
    pub fn set_in_flight(&mut self, steps: usize) {
        self.in_flight = steps.max(1);
    }

    fn few(&self) -> bool {
        self.step.rows as usize <= FEW_ROWS
    }

    /// Records one launch; `slot` owns it, `key` tells it from the others there.
    fn dispatch(
        &mut self,
        slot: &Launches,
        key: (Kernel, usize, usize),
        constants: Constants,
        buffers: &[&wgpu::Buffer],
        groups: (usize, usize, usize),
    ) {
        let mut slot = slot.borrow_mut();
        let launch = slot.entry(key).or_insert_with(|| self.kernels.launch(key.0, constants, buffers));
        let pending = self.pending.get_or_insert_with(|| Pending {
            encoder: self.device.device.create_command_encoder(&Default::default()),
            pass: None,
        });
        let pass = pending
            .pass
            .get_or_insert_with(|| pending.encoder.begin_compute_pass(&Default::default()).forget_lifetime());
        pass.set_pipeline(&launch.pipeline);
        pass.set_bind_group(0, &launch.bindings, &[]);
        pass.dispatch_workgroups(groups.0 as u32, groups.1 as u32, groups.2 as u32);
    }

    /// Like [`Gpu::dispatch`], for launches bound to nothing but activations.
    fn dispatch_own(
        &mut self,
        key: (Kernel, usize, usize),
        constants: Constants,
        buffers: &[&wgpu::Buffer],
        groups: (usize, usize, usize),
    ) {
        let own = std::mem::take(&mut self.launches);
        self.dispatch(&own, key, constants, buffers, groups);
        self.launches = own;
    }

    /// Copies `size` bytes of `from` into a staging buffer and submits; `read.arrived` tells when they are mapped.
    fn read(&mut self, from: &Buffer, size: u64, staging: Buffer) -> Result<Read> {
        let pending = self.pending.get_or_insert_with(|| Pending {
            encoder: self.device.device.create_command_encoder(&Default::default()),
            pass: None,
        });
        pending.pass = None;
        pending.encoder.copy_buffer_to_buffer(from, 0, &staging, 0, size);
        self.flush()?;
        let (sender, arrived) = oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, ..size, move |result| {
            // the receiver is gone if nobody wants the bytes any more
            let _ = sender.send(result);
        });
        Ok(Read { buffer: staging, arrived })
    }

    async fn bytes(&self, read: Read) -> Result<(Vec<u8>, Buffer)> {
        #[cfg(not(target_arch = "wasm32"))]
        let _ = self.device.device.poll(wgpu::PollType::wait_indefinitely());
        let mapped = read.arrived.await;
        self.device.check()?;
        let failed = |e: &dyn std::fmt::Display| Error::Gpu { problem: format!("reading back: {e}") };
        mapped.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let bytes = read.buffer.get_mapped_range(..).map_err(|e| failed(&e))?.to_vec();
        read.buffer.unmap();
        Ok((bytes, read.buffer))
    }

    /// Submits what was recorded.
    fn flush(&mut self) -> Result<()> {
        if let Some(mut pending) = self.pending.take() {
            pending.pass = None;
            self.device.queue.write_buffer(&self.step_buffer, 0, bytemuck::bytes_of(&self.step));
            self.device.queue.submit([pending.encoder.finish()]);
        }
        self.device.check()
    }

    /// n = RMSNorm(x); with `logits`, of the rows from `first` on.
    fn rms_norm(&mut self, gain: &Gain, rows: usize, logits: bool) {
        let c = &self.config;
        let constants = [
            ("HIDDEN", c.hidden_size as f64),
            ("EPSILON", c.rms_norm_eps as f64),
            ("LOGITS", f64::from(u8::from(logits))),
            ("THREADS", threads(c.hidden_size)),
        ];
        let (step, x, n) = (self.step_buffer.clone(), self.x.clone(), self.n.clone());
        let key = (Kernel::RmsNorm, gain.number, usize::from(logits));
        self.dispatch_own(key, &constants, &[&step, &x, &gain.buffer, &n], (rows, 1, 1));
    }

    /// y = from . W^T for all rows, in tiles.
    fn matmul(&mut self, weight: &Matrix, from: &Buffer, to: &Buffer, rows: usize, mode: Product) {
        let step = self.step_buffer.clone();
        for (number, part) in weight.parts.iter().enumerate() {
            let constants = [
                ("COLS", weight.cols as f64),
                ("COUNT", part.rows as f64),
                ("STRIDE", weight.rows as f64),
                ("FIRST", part.first as f64),
                ("ADD", f64::from(u8::from(mode == Product::Add))),
                ("LOGITS", f64::from(u8::from(mode == Product::Logits))),
            ];
            self.dispatch(
                &weight.launches,
                (Kernel::Matmul, number, mode as usize),
                &constants,
                &[&step, from, &part.buffer, to],
                (part.rows.div_ceil(64), rows.div_ceil(64), 1),
            );
        }
    }

    /// Rotations of at least `positions` positions.
    fn rope(&mut self, positions: usize) -> Result<Buffer> {
        if let Some((have, table)) = &self.rope
            && *have >= positions
        {
            return Ok(table.clone());
        }
        let (half, theta) = (self.config.head_dim / 2, self.config.rope_theta);
        let frequencies: Vec<f32> = (0..half).map(|j| 1.0 / theta.powf(j as f64 / half as f64) as f32).collect();
        let mut table = Vec::with_capacity(positions * half * 2);
        for position in 0..positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                table.extend([cos, sin]);
            }
        }
        let buffer = self.device.buffer("rope", (table.len() * 4) as u64, Usage::STORAGE)?;
        self.device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&table));
        self.rope = Some((positions, buffer.clone()));
        Ok(buffer)
    }
}

/// What [`Gpu::matmul`] does with the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Product {
    Store,
    Add,
    /// Rows of the logits only.
    Logits,
}

impl Backend for Gpu {
    type Matrix = Matrix;
    type Gain = Gain;
    type Cache = Cache;
    type Ticket = Ticket;

    fn matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<Matrix> {
        let row_bytes = cols as u64 * 2;
        // only these can exceed a binding in models of the sizes that a browser holds
        let may_split = matches!(role, Role::Embedding | Role::Head);
        let most = if may_split { (self.device.max_table_binding() / row_bytes) as usize } else { rows };
        let parts = (0..rows)
            .step_by(most.max(1))
            .map(|first| {
                let rows = most.min(rows - first);
                let buffer = self.device.buffer("weights", rows as u64 * row_bytes, Usage::STORAGE)?;
                Ok(Part { first, rows, buffer })
            })
            .collect::<Result<_>>()?;
        self.matrices += 1;
        Ok(Matrix { number: self.matrices, rows, cols, parts, launches: Launches::default() })
    }

    fn write_rows(&mut self, matrix: &mut Matrix, first: usize, bytes: &dyn Bytes, range: Range<usize>) -> Result<()> {
        let row_bytes = matrix.cols * 2;
        let end = first + range.len() / row_bytes;
        for part in &matrix.parts {
            let (from, to) = (first.max(part.first), end.min(part.first + part.rows));
            if from < to {
                let source = range.start + (from - first) * row_bytes;
                let source = source..source + (to - from) * row_bytes;
                bytes.upload(source, &self.device.queue, &part.buffer, ((from - part.first) * row_bytes) as u64);
            }
        }
        Ok(())
    }

    fn gain(&mut self, values: &[f32]) -> Result<Gain> {
        let buffer = self.device.buffer("gain", values.len() as u64 * 4, Usage::STORAGE)?;
        self.device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        self.matrices += 1;
        Ok(Gain { number: self.matrices, buffer })
    }

    fn cache(&mut self, layers: usize, capacity: usize) -> Result<Cache> {
        let rope = self.rope(capacity)?;
        let elements = (capacity * self.config.kv_width()) as u64;
        let layers = (0..layers)
            .map(|_| {
                let keys = self.device.buffer("keys", elements * 4, Usage::STORAGE)?;
                Ok((keys, self.device.buffer("values", elements * 2, Usage::STORAGE)?))
            })
            .collect::<Result<_>>()?;
        Ok(Cache { layers, capacity, rope, launches: Launches::default() })
    }

    fn fork(&mut self, cache: &Cache, len: usize) -> Result<Cache> {
        self.flush()?;
        let fork = self.cache(cache.layers.len(), cache.capacity)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        let values = (len * self.config.kv_width() * 2) as u64;
        for (from, to) in cache.layers.iter().zip(&fork.layers) {
            // neighbouring positions lie in every part of the keys
            encoder.copy_buffer_to_buffer(&from.0, 0, &to.0, 0, from.0.size());
            encoder.copy_buffer_to_buffer(&from.1, 0, &to.1, 0, values);
        }
        self.device.queue.submit([encoder.finish()]);
        self.device.check()?;
        Ok(fork)
    }

    fn max_rows(&self) -> usize {
        MAX_ROWS
    }

    fn embed(&mut self, table: &Matrix, input: Input, start: usize) -> Result<()> {
        self.flush()?;
        let rows = input.rows();
        self.step = Step { start: start as u32, rows: rows as u32, ..Step::default() };
        let ids = match input {
            Input::Tokens(ids) => {
                self.device.queue.write_buffer(&self.ids, 0, bytemuck::cast_slice(ids));
                self.ids.clone()
            }
            Input::Chosen => self.chosen.clone(),
        };
        let x = self.x.clone();
        let chosen = usize::from(matches!(input, Input::Chosen));
        for (number, part) in table.parts.iter().enumerate() {
            let constants = [("HIDDEN", table.cols as f64), ("FIRST", part.first as f64), ("COUNT", part.rows as f64)];
            self.dispatch(
                &table.launches,
                (Kernel::Embed, number, chosen),
                &constants,
                &[&ids, &part.buffer, &x],
                ((table.cols / 8).div_ceil(64), rows, 1),
            );
        }
        Ok(())
    }

    fn qkv(&mut self, gain: &Gain, weight: &Matrix, cache: &mut Cache, layer: usize) -> Result<()> {
        let rows = self.step.rows as usize;
        let c = &self.config;
        let heads =
            [("HEADS", c.num_heads as f64), ("KV_HEADS", c.num_kv_heads as f64), ("HEAD_DIM", c.head_dim as f64)];
        let quads = c.qkv_rows() / 4;
        let (step, x, n, q, y) =
            (self.step_buffer.clone(), self.x.clone(), self.n.clone(), self.q.clone(), self.y.clone());
        let (keys, values) = &cache.layers[layer];
        if self.few() {
            let [a, b, d] = heads;
            let constants = [
                a,
                b,
                d,
                ("HIDDEN", c.hidden_size as f64),
                ("EPSILON", c.rms_norm_eps as f64),
                ("THREADS", threads(c.hidden_size)),
            ];
            self.dispatch(
                &cache.launches,
                (Kernel::Qkv, weight.number, layer),
                &constants,
                &[&step, &x, &gain.buffer, &weight.parts[0].buffer, &cache.rope, &q, keys, values],
                (quads, rows, 1),
            );
        } else {
            self.rms_norm(gain, rows, false);
            self.matmul(weight, &n, &y, rows, Product::Store);
            self.dispatch(
                &cache.launches,
                (Kernel::Rope, 0, layer),
                &heads,
                &[&step, &y, &cache.rope, &q, keys, values],
                (quads.div_ceil(64), rows, 1),
            );
        }
        Ok(())
    }

    fn attend(&mut self, cache: &Cache, layer: usize) -> Result<()> {
        let c = &self.config;
        let constants = [
            ("HEADS", c.num_heads as f64),
            ("KV_HEADS", c.num_kv_heads as f64),
            ("HEAD_DIM", c.head_dim as f64),
            ("THREADS", 256.0),
        ];
        let rows = self.step.rows as usize;
        let context = self.step.start as usize + rows;
        let parts = if self.few() { context.div_ceil(CHUNK).min(MAX_PARTS) } else { 1 };
        let merge = [("HEADS", c.num_heads as f64), ("HEAD_DIM", c.head_dim as f64), ("PARTS", parts as f64)];
        let heads = c.num_heads;
        let (step, q, a, found) = (self.step_buffer.clone(), self.q.clone(), self.a.clone(), self.parts.clone());
        let (keys, values) = &cache.layers[layer];
        self.dispatch(
            &cache.launches,
            (Kernel::Attend, 0, layer),
            &constants,
            &[&step, &q, keys, values, &a, &found],
            (heads, rows, parts),
        );
        if parts > 1 {
            self.dispatch_own((Kernel::Merge, parts, 0), &merge, &[&found, &a], (heads, rows, 1));
        }
        Ok(())
    }

    fn matmul_add(&mut self, weight: &Matrix, activation: Activation) -> Result<()> {
        let rows = self.step.rows as usize;
        let from = match activation {
            Activation::Attention => self.a.clone(),
            Activation::FeedForward => self.f.clone(),
        };
        let x = self.x.clone();
        if self.few() {
            self.dispatch(
                &weight.launches,
                (Kernel::MatmulAdd, 0, 0),
                &[("ROWS", weight.rows as f64), ("COLS", weight.cols as f64), ("THREADS", threads(weight.cols))],
                &[&from, &weight.parts[0].buffer, &x],
                (weight.rows / 4, rows, 1),
            );
        } else {
            self.matmul(weight, &from, &x, rows, Product::Add);
        }
        Ok(())
    }

    fn gate_up(&mut self, gain: &Gain, weight: &Matrix) -> Result<()> {
        let rows = self.step.rows as usize;
        let width = self.config.intermediate_size;
        let (x, n, y, f) = (self.x.clone(), self.n.clone(), self.y.clone(), self.f.clone());
        if self.few() {
            let constants = [
                ("HIDDEN", self.config.hidden_size as f64),
                ("WIDTH", width as f64),
                ("EPSILON", self.config.rms_norm_eps as f64),
                ("THREADS", threads(self.config.hidden_size)),
            ];
            self.dispatch(
                &weight.launches,
                (Kernel::GateUp, gain.number, 0),
                &constants,
                &[&x, &gain.buffer, &weight.parts[0].buffer, &f],
                (width / 2, rows, 1),
            );
        } else {
            self.rms_norm(gain, rows, false);
            self.matmul(weight, &n, &y, rows, Product::Store);
            let groups = ((width / 4).div_ceil(64), rows, 1);
            self.dispatch_own((Kernel::Swiglu, 0, 0), &[("WIDTH", width as f64)], &[&y, &f], groups);
        }
        Ok(())
    }

    fn logits(&mut self, gain: &Gain, head: &Matrix, rows: Range<usize>) -> Result<()> {
        self.step.first = rows.start as u32;
        self.step.logit_rows = rows.len() as u32;
        let vocab = self.config.vocab_size;
        let size = (rows.len() * vocab * 4) as u64;
        if self.logits.size() < size {
            self.logits = self.device.buffer("logits", size, Usage::STORAGE)?;
        }
        // launches are bound to the logits buffer of this size
        let number = (self.logits.size() / 4) as usize / vocab;
        let (step, x, n, logits) = (self.step_buffer.clone(), self.x.clone(), self.n.clone(), self.logits.clone());
        if rows.len() > FEW_ROWS {
            head.launches.borrow_mut().retain(|key, _| key.0 != Kernel::Matmul || key.2 != Product::Logits as usize);
            self.rms_norm(gain, rows.len(), true);
            self.matmul(head, &n, &logits, rows.len(), Product::Logits);
            return Ok(());
        }
        for (index, part) in head.parts.iter().enumerate() {
            let constants = [
                ("HIDDEN", head.cols as f64),
                ("VOCAB", vocab as f64),
                ("EPSILON", self.config.rms_norm_eps as f64),
                ("FIRST", part.first as f64),
                ("COUNT", part.rows as f64),
                ("THREADS", threads(head.cols)),
            ];
            self.dispatch(
                &head.launches,
                (Kernel::Logits, index, number),
                &constants,
                &[&step, &x, &gain.buffer, &part.buffer, &logits],
                (part.rows.div_ceil(4), rows.len(), 1),
            );
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<()> {
        // one row of logits: an id will be chosen from it, in the same submission
        if self.step.logit_rows == 1 { self.device.check() } else { self.flush() }
    }

    async fn read_logits(&mut self) -> Result<Vec<f32>> {
        let size = self.step.logit_rows as u64 * self.config.vocab_size as u64 * 4;
        let staging = self.device.staging(size)?;
        let logits = self.logits.clone();
        let read = self.read(&logits, size, staging)?;
        let (bytes, _) = self.bytes(read).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    fn begin_sampling(&mut self, sampling: &Sampling, prompt: &[u32], answer: &[u32]) -> Result<()> {
        self.flush()?;
        let penalties = sampling.has_penalties();
        self.plain = sampling.temperature == 0.0 && !penalties;
        let uniform = SamplingUniform {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            penalties: u32::from(penalties),
        };
        self.device.queue.write_buffer(&self.sampling_buffer, 0, bytemuck::bytes_of(&uniform));
        if penalties {
            const SEEN: u32 = 1 << 31;
            let mut history = vec![0u32; self.config.vocab_size];
            for &id in prompt {
                history[id as usize] = SEEN;
            }
            for &id in answer {
                history[id as usize] = (history[id as usize] | SEEN) + 1;
            }
            self.device.queue.write_buffer(&self.history, 0, bytemuck::cast_slice(&history));
        }
        Ok(())
    }

    fn choose(&mut self, uniform: f32) -> Result<Ticket> {
        self.step.uniform_value = uniform;
        let vocab = [("VOCAB", self.config.vocab_size as f64)];
        let number = (self.logits.size() / 4) as usize;
        let (step, sampling, logits) = (self.step_buffer.clone(), self.sampling_buffer.clone(), self.logits.clone());
        let (history, work, chosen) = (self.history.clone(), self.work.clone(), self.chosen.clone());
        if self.plain {
            self.dispatch_own((Kernel::Argmax, number, 0), &vocab, &[&logits, &chosen], (1, 1, 1));
        } else {
            let candidates = self.candidates.clone();
            let buffers: [&wgpu::Buffer; 7] = [&step, &sampling, &logits, &history, &work, &chosen, &candidates];
            self.dispatch_own((Kernel::Sample, number, 0), &vocab, &buffers, (1, 1, 1));
        }
        let staging = match self.spare.pop() {
            Some(buffer) => buffer,
            None => self.device.staging(4)?,
        };
        Ok(Ticket { read: self.read(&chosen, 4, staging)? })
    }

    async fn chosen(&mut self, ticket: Ticket) -> Result<u32> {
        let (bytes, buffer) = self.bytes(ticket.read).await?;
        self.spare.push(buffer);
        Ok(bytemuck::pod_read_unaligned(&bytes))
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

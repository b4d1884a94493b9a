//! The verbs as WGSL kernels through wgpu.
//!
//! ```text
//! embed .. logits: recorded into one compute pass -> choose: recorded behind it, id copied to a staging buffer -> submit
//!                                                     \-> the id stays on the device: the next embed reads it there
//! ```
//! A pass of few rows runs the fused kernels (five dispatches an executed layer), one of many rows runs the tiled product
//! with small kernels between. Activations and keys are f32, weights and values f16: with keys in f16 too, logits of the
//! golden models are off by up to 1.6e-2, with f32 keys by 8e-3. Weights may also be held in 8 or 4 bits
//! ([`crate::packed`]): the same kernels read them through another piece of shader. Kernels are bound to their buffers
//! once (`Launch`) and only launched afterwards; what changes from step to step lies in one small uniform.

mod activations;
#[cfg(target_arch = "wasm32")]
mod browser;
mod device;
mod kernels;
mod matrix;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod pace;
mod recorder;
mod variant;

#[cfg(target_arch = "wasm32")]
use browser as host;
pub use device::{Device, DeviceOptions};
pub use kernels::texts;
pub use matrix::{Gain, Matrix};
#[cfg(not(target_arch = "wasm32"))]
use native as host;
pub use pace::BUDGET_MS;
pub use recorder::Step;
pub use variant::{Alter, Variant};

use crate::backend::sampler::Sampling;
use crate::backend::{Activation, Backend, Input, Packing, Precision, Role};
use crate::bytes::Bytes;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::packed::GROUP;
use activations::{Activations, FEW_ROWS, MAX_PARTS, MAX_ROWS};
use device::Buffer;
use kernels::{Kernel, Kernels, Product, Programs};
use recorder::{Launches, Read, Recorder, Slot};
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// Positions that `attend.wgsl` takes at a time; `CHUNK` there.
pub const CHUNK: usize = 512;

/// In the history of a generation: the id was in the prompt or the answer; below it is how often it was in the answer.
const SEEN: u32 = 1 << 31;

/// Threads that share the product of four rows of `cols` elements: one 16-byte load of each row a thread, up to 128
/// threads (bench/README.md).
fn threads(cols: usize) -> usize {
    (cols / 8).next_power_of_two().clamp(32, 128)
}

/// The same for a GPU that is a program on the CPU: it runs the threads of a workgroup one after the other, and changes
/// between them at every barrier.
fn software_threads(_: usize) -> usize {
    4
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

pub struct Gpu {
    config: Config,
    precision: Precision,
    recorder: Recorder,
    activations: Activations,
    /// Numbers given to matrices and gains so far.
    matrices: usize,
    /// Greedy without penalties: `argmax` does.
    plain: bool,
    /// Staging for chosen ids.
    spare: Vec<Buffer>,
}

impl Gpu {
    /// Activations and kernels for one model.
    ///
    /// # Errors
    /// [`Error::GpuOutOfMemory`], [`Error::DeviceLost`].
    pub fn new(device: &Device, config: &Config, precision: Precision) -> Result<Self> {
        if precision != Precision::F16 {
            let widths = [config.hidden_size, config.attention_width(), config.intermediate_size];
            if let Some(width) = widths.into_iter().find(|width| !width.is_multiple_of(GROUP)) {
                let detail = format!("a row of {width} weights is no whole number of groups of {GROUP}");
                return Err(Error::unsupported(&format!("dtype '{}'", precision.name()), detail));
            }
        }
        let kernels = Kernels::new(device.device.clone(), device.variant(), device.alter());
        let threads = if device.is_software() { software_threads } else { threads };
        let programs = Programs { config: config.clone(), precision, threads };
        let activations = Activations::new(device, config)?;
        Ok(Gpu {
            recorder: Recorder::new(device, programs, kernels, activations.step.clone()),
            activations,
            precision,
            matrices: 0,
            plain: true,
            spare: Vec::new(),
            config: config.clone(),
        })
    }

    /// Starts to compile what answers need, while weights are loaded; else each kernel is compiled at its first use.
    pub fn prepare(&mut self) {
        let Config { vocab_size, hidden_size, .. } = self.config;
        let table = matrix::spans(self.device(), self.precision.of_tables(), Role::Embedding, vocab_size, hidden_size);
        let programs = self.recorder.programs.all(&table);
        self.recorder.kernels.start(programs);
    }

    /// Waits until everything that answers need is compiled.
    pub async fn ready(&mut self) {
        self.recorder.kernels.ready().await;
    }

    /// Goes on with kernels written another way; what is loaded stays.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and the like.
    pub fn set_variant(&mut self, variant: Variant) -> Result<()> {
        self.recorder.flush()?;
        let device = self.device();
        self.recorder.kernels = Kernels::new(device.device.clone(), variant, device.alter());
        self.prepare();
        Ok(())
    }

    pub fn variant(&self) -> Variant {
        self.recorder.kernels.variant()
    }

    pub fn device(&self) -> &Device {
        &self.recorder.device
    }

    /// GPU time that a submission may take, in milliseconds, as far as can be told from those before it. Less leaves more of
    /// a slow GPU to the page's own frames.
    pub fn set_budget(&mut self, milliseconds: f64) {
        self.recorder.pace.set_budget(milliseconds);
    }

    /// Fixes the number of steps on the device at once, which else follows from the budget.
    pub fn set_in_flight(&mut self, steps: usize) {
        self.recorder.pace.fix_in_flight(steps);
    }

    /// Submissions so far.
    pub fn submissions(&self) -> u64 {
        self.recorder.pace.submissions()
    }

    fn few(&self) -> bool {
        self.recorder.step.rows as usize <= FEW_ROWS
    }

    /// n = RMSNorm(x); with `logits`, of the rows from `first` on.
    fn rms_norm(&mut self, gain: &Gain, rows: usize, logits: bool) {
        let Activations { step, x, n, .. } = &self.activations;
        let slot = (Kernel::RmsNorm, gain.number, usize::from(logits));
        self.recorder.dispatch_own(slot, |p| p.rms_norm(logits), &[step, x, &gain.buffer, n], (rows, 1, 1));
    }
}

/// to = from . W^T for all rows, in tiles.
fn matmul(
    recorder: &mut Recorder,
    step: &Buffer,
    weight: &Matrix,
    from: &Buffer,
    to: &Buffer,
    rows: usize,
    mode: Product,
) {
    for (number, part) in weight.parts.iter().enumerate() {
        recorder.dispatch(
            &weight.launches,
            (Kernel::Matmul, number, mode as usize),
            |p| p.matmul(weight.packing, weight.rows, part.span, mode),
            &[step, from, to],
            &part.buffers,
            (part.span.rows.div_ceil(64), rows.div_ceil(64), 1),
        );
    }
}

impl Backend for Gpu {
    type Matrix = Matrix;
    type Gain = Gain;
    type Cache = Cache;
    type Ticket = Ticket;

    fn precision(&self) -> Precision {
        self.precision
    }

    fn new_matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<Matrix> {
        self.matrices += 1;
        Matrix::new(self.device(), self.matrices, role.packing(self.precision), role, rows, cols)
    }

    fn write_rows(
        &mut self,
        matrix: &mut Matrix,
        first: usize,
        packing: Packing,
        bytes: &dyn Bytes,
        range: Range<usize>,
    ) -> Result<()> {
        matrix.write_rows(&self.recorder.device.queue, first, packing, bytes, range)
    }

    fn new_gain(&mut self, values: &[f32]) -> Result<Gain> {
        let buffer = self.recorder.device.buffer("gain", values.len() as u64 * 4, Usage::STORAGE)?;
        self.recorder.device.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(values));
        self.matrices += 1;
        Ok(Gain { number: self.matrices, buffer })
    }

    fn new_cache(&mut self, layers: usize, capacity: usize) -> Result<Cache> {
        let elements = capacity as u64 * self.config.kv_width() as u64;
        let layers = (0..layers)
            .map(|_| {
                let keys = self.recorder.device.buffer("keys", elements * 4, Usage::STORAGE)?;
                Ok((keys, self.recorder.device.buffer("values", elements * 2, Usage::STORAGE)?))
            })
            .collect::<Result<_>>()?;
        let rope = self.activations.rope(&self.recorder.device, &self.config, capacity)?;
        Ok(Cache { layers, capacity, rope, launches: Launches::default() })
    }

    fn fork(&mut self, cache: &Cache, len: usize) -> Result<Cache> {
        self.recorder.flush()?;
        let fork = self.new_cache(cache.layers.len(), cache.capacity)?;
        let mut encoder = self.recorder.device.device.create_command_encoder(&Default::default());
        let values = (len * self.config.kv_width() * 2) as u64;
        for (from, to) in cache.layers.iter().zip(&fork.layers) {
            // neighbouring positions lie in every part of the keys
            encoder.copy_buffer_to_buffer(&from.0, 0, &to.0, 0, from.0.size());
            encoder.copy_buffer_to_buffer(&from.1, 0, &to.1, 0, values);
        }
        self.recorder.device.queue.submit([encoder.finish()]);
        self.recorder.device.check()?;
        Ok(fork)
    }

    fn max_rows(&self) -> usize {
        MAX_ROWS
    }

    async fn keep_up(&mut self) -> Result<()> {
        self.recorder.keep_up().await
    }

    fn embed(&mut self, table: &Matrix, input: Input, start: usize) -> Result<()> {
        self.recorder.flush()?;
        let rows = input.rows();
        self.recorder.step = Step { start: start as u32, rows: rows as u32, ..Step::default() };
        self.recorder.pace.pass();
        let Activations { ids, chosen, x, .. } = &self.activations;
        let (from, own) = match input {
            Input::Tokens(tokens) => {
                self.recorder.device.queue.write_buffer(ids, 0, bytemuck::cast_slice(tokens));
                (ids, 0)
            }
            Input::Chosen => (chosen, 1),
        };
        for (number, part) in table.parts.iter().enumerate() {
            self.recorder.dispatch(
                &table.launches,
                (Kernel::Embed, number, own),
                |p| p.embed(part.span),
                &[from, x],
                &part.buffers,
                ((table.cols / 8).div_ceil(64), rows, 1),
            );
        }
        Ok(())
    }

    fn qkv(&mut self, gain: &Gain, weight: &Matrix, cache: &mut Cache, layer: usize) -> Result<()> {
        let rows = self.recorder.step.rows as usize;
        let quads = self.config.qkv_rows() / 4;
        if !self.few() {
            self.rms_norm(gain, rows, false);
        }
        let few = self.few();
        let Activations { step, x, n, q, y, .. } = &self.activations;
        let (keys, values) = &cache.layers[layer];
        if few {
            self.recorder.dispatch(
                &cache.launches,
                (Kernel::Qkv, weight.number, layer),
                |p| p.qkv(),
                &[step, x, &cache.rope, q, keys, values, &gain.buffer],
                &weight.parts[0].buffers,
                (quads, rows, 1),
            );
        } else {
            matmul(&mut self.recorder, step, weight, n, y, rows, Product::Store);
            self.recorder.dispatch(
                &cache.launches,
                (Kernel::Rope, 0, layer),
                |p| p.rope(),
                &[step, y, &cache.rope, q, keys, values],
                &[],
                (quads.div_ceil(64), rows, 1),
            );
        }
        Ok(())
    }

    fn attend(&mut self, cache: &Cache, layer: usize) -> Result<()> {
        let rows = self.recorder.step.rows as usize;
        let context = self.recorder.step.start as usize + rows;
        let parts = if self.few() { context.div_ceil(CHUNK).min(MAX_PARTS) } else { 1 };
        let heads = self.config.num_heads;
        let Activations { step, q, a, parts: found, .. } = &self.activations;
        let (keys, values) = &cache.layers[layer];
        self.recorder.dispatch(
            &cache.launches,
            (Kernel::Attend, 0, layer),
            |p| p.attend(),
            &[step, q, keys, values, a, found],
            &[],
            (heads, rows, parts),
        );
        if parts > 1 {
            self.recorder.dispatch_own((Kernel::Merge, 0, 0), |p| p.merge(), &[step, found, a], (heads, rows, 1));
        }
        Ok(())
    }

    fn matmul_add(&mut self, weight: &Matrix, activation: Activation) -> Result<()> {
        let rows = self.recorder.step.rows as usize;
        let few = self.few();
        let Activations { step, x, a, f, .. } = &self.activations;
        let from = match activation {
            Activation::Attention => a,
            Activation::FeedForward => f,
        };
        if few {
            self.recorder.dispatch(
                &weight.launches,
                (Kernel::MatmulAdd, 0, 0),
                |p| p.matmul_add(weight.rows, weight.cols),
                &[from, x],
                &weight.parts[0].buffers,
                (weight.rows / 4, rows, 1),
            );
        } else {
            matmul(&mut self.recorder, step, weight, from, x, rows, Product::Add);
        }
        if activation == Activation::FeedForward && self.recorder.pace.layer(rows, !few) {
            self.recorder.flush()?;
        }
        Ok(())
    }

    fn gate_up(&mut self, gain: &Gain, weight: &Matrix) -> Result<()> {
        let rows = self.recorder.step.rows as usize;
        let width = self.config.intermediate_size;
        let few = self.few();
        if !few {
            self.rms_norm(gain, rows, false);
        }
        let Activations { step, x, n, y, f, .. } = &self.activations;
        if few {
            self.recorder.dispatch(
                &weight.launches,
                (Kernel::GateUp, gain.number, 0),
                |p| p.gate_up(),
                &[x, &gain.buffer, f],
                &weight.parts[0].buffers,
                (width / 2, rows, 1),
            );
        } else {
            matmul(&mut self.recorder, step, weight, n, y, rows, Product::Store);
            let groups = ((width / 4).div_ceil(64), rows, 1);
            self.recorder.dispatch_own((Kernel::Swiglu, 0, 0), |p| p.swiglu(), &[y, f], groups);
        }
        Ok(())
    }

    fn logits(&mut self, gain: &Gain, head: &Matrix, rows: Range<usize>) -> Result<()> {
        self.recorder.step.first = rows.start as u32;
        self.recorder.step.logit_rows = rows.len() as u32;
        let vocab = self.config.vocab_size;
        self.activations.reserve_logits(&self.recorder.device, rows.len(), vocab)?;
        let many = rows.len() > FEW_ROWS;
        if many {
            self.rms_norm(gain, rows.len(), true);
        }
        let Activations { step, x, n, logits, .. } = &self.activations;
        if many {
            // The logits buffer may be another one than those launches are bound to.
            let old = |slot: &Slot| slot.0 == Kernel::Matmul && slot.2 == Product::Logits as usize;
            head.launches.borrow_mut().retain(|(_, slot), _| !old(slot));
            matmul(&mut self.recorder, step, head, n, logits, rows.len(), Product::Logits);
            return Ok(());
        }
        // launches are bound to the logits buffer of this size
        let number = (logits.size() / 4) as usize / vocab;
        for (index, part) in head.parts.iter().enumerate() {
            self.recorder.dispatch(
                &head.launches,
                (Kernel::Logits, index, number),
                |p| p.logits(part.span),
                &[step, x, &gain.buffer, logits],
                &part.buffers,
                (part.span.rows.div_ceil(4), rows.len(), 1),
            );
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<()> {
        // one row of logits: an id will be chosen from it, in the same submission
        if self.recorder.step.logit_rows == 1 { self.recorder.device.check() } else { self.recorder.flush() }
    }

    async fn read_logits(&mut self) -> Result<Vec<f32>> {
        let size = self.recorder.step.logit_rows as u64 * self.config.vocab_size as u64 * 4;
        let staging = self.device().staging(size)?;
        let read = self.recorder.read(&self.activations.logits, size, staging)?;
        let (bytes, _) = self.recorder.bytes(read).await?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    fn begin_sampling(&mut self, sampling: &Sampling, prompt: &[u32], answer: &[u32]) -> Result<()> {
        self.recorder.flush()?;
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
        self.recorder.device.queue.write_buffer(&self.activations.sampling, 0, bytemuck::bytes_of(&uniform));
        if penalties {
            let mut history = vec![0u32; self.config.vocab_size];
            for &id in prompt {
                history[id as usize] = SEEN;
            }
            for &id in answer {
                history[id as usize] = (history[id as usize] | SEEN) + 1;
            }
            self.recorder.device.queue.write_buffer(&self.activations.history, 0, bytemuck::cast_slice(&history));
        }
        Ok(())
    }

    fn choose(&mut self, uniform: f32) -> Result<Ticket> {
        self.recorder.step.uniform_value = uniform;
        let Activations { step, sampling, logits, history, candidates, work, chosen, .. } = &self.activations;
        let number = (logits.size() / 4) as usize;
        if self.plain {
            self.recorder.dispatch_own((Kernel::Argmax, number, 0), |p| p.argmax(), &[logits, chosen], (1, 1, 1));
        } else {
            let buffers: [&wgpu::Buffer; 7] = [step, sampling, logits, history, work, chosen, candidates];
            self.recorder.dispatch_own((Kernel::Sample, number, 0), |p| p.sample(), &buffers, (1, 1, 1));
        }
        let staging = match self.spare.pop() {
            Some(buffer) => buffer,
            None => self.recorder.device.staging(4)?,
        };
        Ok(Ticket { read: self.recorder.read(chosen, 4, staging)? })
    }

    async fn chosen(&mut self, ticket: Ticket) -> Result<u32> {
        let (bytes, buffer) = self.recorder.bytes(ticket.read).await?;
        self.spare.push(buffer);
        Ok(bytemuck::pod_read_unaligned(&bytes))
    }

    fn in_flight(&self) -> usize {
        self.recorder.pace.in_flight()
    }
}

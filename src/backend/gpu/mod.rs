//! The verbs as WGSL kernels through wgpu.
//!
//! ```text
//! embed .. logits: recorded into one compute pass -> choose: recorded behind it, id copied to a staging buffer -> submit
//!                                                     \-> the id stays on the device: the next embed reads it there
//! ```
//! A pass of few rows runs the fused kernels (five dispatches an executed layer), one of many rows runs the tiled product
//! with small kernels between. Activations and keys are f32, weights and values f16: with keys in f16 too, logits of the
//! golden models are off by up to 1.6e-2, with f32 keys by 8e-3. Weights may also be held in 8 bits
//! ([`q8`]): the same kernels read them through another piece of shader. Kernels are bound to their buffers
//! once ([`Launch`]) and only launched afterwards; what changes from step to step lies in one small uniform.

mod device;
mod kernels;
mod pace;
pub mod probe;

pub use device::{Device, DeviceOptions};
pub use kernels::{Alter, Variant, texts};
pub use pace::BUDGET_MS;

use crate::backend::{Activation, Backend, Input, Precision, Role, q8};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sampler::Sampling;
use crate::weights::Bytes;
use device::Buffer;
use futures_channel::oneshot;
use half::f16;
use kernels::{Kernel, Kernels, Launch, Program, Programs, Span};
use pace::Pace;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::ops::Range;
use wgpu::BufferUsages as Usage;

/// Most rows of one pass.
const MAX_ROWS: usize = 512;
/// Up to here a pass runs the fused kernels, which read the weights once for each row.
const FEW_ROWS: usize = 4;
/// Passes of a prompt that may be on the device at once: the next one is recorded while one runs.
const PROMPT_PASSES: usize = 2;

/// Positions that `attend.wgsl` takes at a time; `CHUNK` there.
const CHUNK: usize = 512;
/// Most workgroups that share one head of one row.
const MAX_PARTS: usize = 16;

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

/// Launches by variant, kernel and the numbers of what they are bound to besides their owner.
type Launches = RefCell<HashMap<(Variant, Slot), Launch>>;
type Slot = (Kernel, usize, usize);

/// Whole rows that fit one binding.
struct Part {
    span: Span,
    /// f16, or 8-bit integers and their scales.
    buffers: Vec<Buffer>,
    /// Words of `scales` that two writes share.
    edges: HashMap<usize, u32>,
}

impl Part {
    fn buffers(&self) -> Vec<&wgpu::Buffer> {
        self.buffers.iter().map(|b| &**b).collect()
    }
}

/// (rows, cols).
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
    precision: Precision,
    kernels: Kernels,
    pace: Pace,
    /// Ends of the last passes of a prompt.
    passes: VecDeque<oneshot::Receiver<()>>,
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
    spare: Vec<Buffer>,            // staging for chosen ids
}

impl Gpu {
    /// Activations and kernels for one model.
    ///
    /// # Errors
    /// [`Error::GpuOutOfMemory`], [`Error::DeviceLost`].
    pub fn new(device: &Device, config: &Config, precision: Precision) -> Result<Self> {
        if precision == Precision::Q8 {
            let widths = [config.hidden_size, config.attention_width(), config.intermediate_size];
            if let Some(width) = widths.into_iter().find(|width| !width.is_multiple_of(q8::GROUP)) {
                let detail = format!("a row of {width} weights is no whole number of groups of {}", q8::GROUP);
                return Err(Error::unsupported("dtype 'q8'", detail));
            }
        }
        let floats = |label, width: usize| device.buffer(label, (MAX_ROWS * width * 4) as u64, Usage::STORAGE);
        let vocab = config.vocab_size as u64 * 4;
        Ok(Gpu {
            kernels: Kernels::new(device.device.clone(), device.variant(), precision, device.alter()),
            precision,
            pace: Pace::default(),
            passes: VecDeque::new(),
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
            spare: Vec::new(),
            device: device.clone(),
            config: config.clone(),
        })
    }

    /// Starts to compile what answers need, while weights are loaded; else each kernel is compiled at its first use.
    pub fn prepare(&mut self) {
        let table = self.spans(Role::Embedding, self.config.vocab_size, self.config.hidden_size);
        let programs = self.programs().all(&table);
        self.kernels.start(programs);
    }

    /// Waits until everything that answers need is compiled.
    pub async fn ready(&mut self) {
        self.kernels.ready().await;
    }

    /// Goes on with kernels written another way; what is loaded stays.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] and the like.
    pub fn set_variant(&mut self, variant: Variant) -> Result<()> {
        self.flush()?;
        self.kernels = Kernels::new(self.device.device.clone(), variant, self.precision, self.device.alter());
        self.prepare();
        Ok(())
    }

    pub fn variant(&self) -> Variant {
        self.kernels.variant()
    }

    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub fn device(&self) -> &Device {
        &self.device
    }

    /// GPU time that a submission may take, in milliseconds, as far as can be told from those before it. Less leaves more of
    /// a slow GPU to the page's own frames.
    pub fn set_budget(&mut self, milliseconds: f64) {
        self.pace.set_budget(milliseconds);
    }

    /// Fixes the number of steps on the device at once, which else follows from the budget.
    pub fn set_in_flight(&mut self, steps: usize) {
        self.pace.fix_in_flight(steps);
    }

    /// Submissions so far.
    pub fn submissions(&self) -> u64 {
        self.pace.submissions()
    }

    fn programs(&self) -> Programs<'_> {
        Programs { config: &self.config, threads: if self.device.is_software() { software_threads } else { threads } }
    }

    /// How the rows of a matrix are split over bindings. Only these can exceed one in models of the sizes that a browser holds.
    fn spans(&self, role: Role, rows: usize, cols: usize) -> Vec<Span> {
        let row_bytes = cols as u64 * if self.precision == Precision::Q8 { 1 } else { 2 };
        let may_split = matches!(role, Role::Embedding | Role::Head);
        let most = if may_split { (self.device.max_table_binding() / row_bytes) as usize } else { rows };
        // an even number of groups of scales before each part
        let most = (most / 2 * 2).max(1);
        (0..rows).step_by(most).map(|first| Span { first, rows: most.min(rows - first) }).collect()
    }

    fn few(&self) -> bool {
        self.step.rows as usize <= FEW_ROWS
    }

    /// Records one launch; `owner` keeps it, `slot` tells it from the others there.
    fn dispatch(
        &mut self,
        owner: &Launches,
        slot: Slot,
        program: impl FnOnce(&Programs) -> Program,
        buffers: &[&wgpu::Buffer],
        weights: Option<&Part>,
        groups: (usize, usize, usize),
    ) {
        let mut owner = owner.borrow_mut();
        let launch = match owner.entry((self.kernels.variant(), slot)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let program = program(&self.programs());
                let weights = weights.map(Part::buffers).unwrap_or_default();
                entry.insert(self.kernels.launch(&program, buffers, &weights))
            }
        };
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
        slot: Slot,
        program: impl FnOnce(&Programs) -> Program,
        buffers: &[&wgpu::Buffer],
        groups: (usize, usize, usize),
    ) {
        let own = std::mem::take(&mut self.launches);
        self.dispatch(&own, slot, program, buffers, None, groups);
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
        self.device.settle().await?;
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
            let many = !self.few();
            let measure = self.pace.submitted();
            let (sender, done) = oneshot::channel();
            self.device.queue.on_submitted_work_done(move || {
                measure();
                // nobody waits for single steps
                let _ = sender.send(());
            });
            if many {
                self.passes.push_back(done);
            }
        }
        self.device.check()
    }

    /// n = RMSNorm(x); with `logits`, of the rows from `first` on.
    fn rms_norm(&mut self, gain: &Gain, rows: usize, logits: bool) {
        let (step, x, n) = (self.step_buffer.clone(), self.x.clone(), self.n.clone());
        let slot = (Kernel::RmsNorm, gain.number, usize::from(logits));
        self.dispatch_own(slot, |p| p.rms_norm(logits), &[&step, &x, &gain.buffer, &n], (rows, 1, 1));
    }

    /// y = from . W^T for all rows, in tiles.
    fn matmul(&mut self, weight: &Matrix, from: &Buffer, to: &Buffer, rows: usize, mode: Product) {
        let step = self.step_buffer.clone();
        for (number, part) in weight.parts.iter().enumerate() {
            self.dispatch(
                &weight.launches,
                (Kernel::Matmul, number, mode as usize),
                |p| p.matmul(weight.rows, part.span, mode),
                &[&step, from, to],
                Some(part),
                (part.span.rows.div_ceil(64), rows.div_ceil(64), 1),
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

impl Part {
    /// Quantises f16 and writes it from element `at` on.
    fn write_q8(&mut self, queue: &wgpu::Queue, at: usize, f16_bytes: &[u8]) {
        let elements = f16_bytes.len() / 2;
        let mut integers = Vec::with_capacity(elements);
        let mut group = [f16::ZERO; q8::GROUP];
        // Scales go by pairs: the neighbour of a first or last odd one comes from an earlier write, or from a later one.
        let first = at / q8::GROUP;
        let mut words = vec![0u32; (first + elements / q8::GROUP).div_ceil(2) - first / 2];
        let shift = |scale: usize| 16 * (scale % 2) as u32;
        for (number, raw) in (first..).zip(f16_bytes.chunks_exact(2 * q8::GROUP)) {
            for (value, pair) in group.iter_mut().zip(raw.chunks_exact(2)) {
                *value = f16::from_le_bytes([pair[0], pair[1]]);
            }
            let (scale, q) = q8::quantise(&group);
            integers.extend(q.map(|q| q as u8));
            words[number / 2 - first / 2] |= u32::from(scale.to_bits()) << shift(number);
        }
        let end = first + elements / q8::GROUP;
        for (odd, scale) in [(first % 2 == 1, first), (end % 2 == 1, end - 1)] {
            if odd {
                let word = &mut words[scale / 2 - first / 2];
                *word |= *self.edges.entry(scale / 2).and_modify(|known| *known |= *word).or_insert(*word);
            }
        }
        queue.write_buffer(&self.buffers[0], at as u64, &integers);
        queue.write_buffer(&self.buffers[1], (first / 2 * 4) as u64, bytemuck::cast_slice(&words));
    }
}

impl Backend for Gpu {
    type Matrix = Matrix;
    type Gain = Gain;
    type Cache = Cache;
    type Ticket = Ticket;

    fn matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<Matrix> {
        let buffer = |bytes: usize| self.device.buffer("weights", bytes as u64, Usage::STORAGE);
        let parts = self
            .spans(role, rows, cols)
            .into_iter()
            .map(|span| {
                let elements = span.rows * cols;
                let buffers = match self.precision {
                    Precision::F16 => vec![buffer(2 * elements)?],
                    Precision::Q8 => vec![buffer(elements)?, buffer(2 * elements / q8::GROUP)?],
                };
                Ok(Part { span, buffers, edges: HashMap::new() })
            })
            .collect::<Result<_>>()?;
        self.matrices += 1;
        Ok(Matrix { number: self.matrices, rows, cols, parts, launches: Launches::default() })
    }

    fn write_rows(&mut self, matrix: &mut Matrix, first: usize, bytes: &dyn Bytes, range: Range<usize>) -> Result<()> {
        let row_bytes = matrix.cols * 2;
        let end = first + range.len() / row_bytes;
        for part in &mut matrix.parts {
            let Span { first: begin, rows } = part.span;
            let (from, to) = (first.max(begin), end.min(begin + rows));
            if from < to {
                let source = range.start + (from - first) * row_bytes;
                let source = source..source + (to - from) * row_bytes;
                match self.precision {
                    Precision::F16 => {
                        let at = ((from - begin) * row_bytes) as u64;
                        bytes.upload(source, &self.device.queue, &part.buffers[0], at);
                    }
                    Precision::Q8 => {
                        let mut raw = vec![0; source.len()];
                        bytes.read(source.start, &mut raw);
                        part.write_q8(&self.device.queue, (from - begin) * matrix.cols, &raw);
                    }
                }
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
        let elements = capacity as u64 * self.config.kv_width() as u64;
        let layers = (0..layers)
            .map(|_| {
                let keys = self.device.buffer("keys", elements * 4, Usage::STORAGE)?;
                Ok((keys, self.device.buffer("values", elements * 2, Usage::STORAGE)?))
            })
            .collect::<Result<_>>()?;
        let rope = self.rope(capacity)?;
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

    async fn keep_up(&mut self) -> Result<()> {
        while self.passes.len() >= PROMPT_PASSES {
            #[cfg(not(target_arch = "wasm32"))]
            let _ = self.device.device.poll(wgpu::PollType::wait_indefinitely());
            if let Some(done) = self.passes.pop_front() {
                // The sender is dropped with a lost device, which `check` tells.
                let _ = done.await;
            }
        }
        self.device.settle().await?;
        self.device.check()
    }

    fn embed(&mut self, table: &Matrix, input: Input, start: usize) -> Result<()> {
        self.flush()?;
        let rows = input.rows();
        self.step = Step { start: start as u32, rows: rows as u32, ..Step::default() };
        self.pace.pass();
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
            self.dispatch(
                &table.launches,
                (Kernel::Embed, number, chosen),
                |p| p.embed(part.span),
                &[&ids, &x],
                Some(part),
                ((table.cols / 8).div_ceil(64), rows, 1),
            );
        }
        Ok(())
    }

    fn qkv(&mut self, gain: &Gain, weight: &Matrix, cache: &mut Cache, layer: usize) -> Result<()> {
        let rows = self.step.rows as usize;
        let quads = self.config.qkv_rows() / 4;
        let (step, x, n, q, y) =
            (self.step_buffer.clone(), self.x.clone(), self.n.clone(), self.q.clone(), self.y.clone());
        let (keys, values) = &cache.layers[layer];
        if self.few() {
            self.dispatch(
                &cache.launches,
                (Kernel::Qkv, weight.number, layer),
                |p| p.qkv(),
                &[&step, &x, &cache.rope, &q, keys, values, &gain.buffer],
                Some(&weight.parts[0]),
                (quads, rows, 1),
            );
        } else {
            self.rms_norm(gain, rows, false);
            self.matmul(weight, &n, &y, rows, Product::Store);
            self.dispatch(
                &cache.launches,
                (Kernel::Rope, 0, layer),
                |p| p.rope(),
                &[&step, &y, &cache.rope, &q, keys, values],
                None,
                (quads.div_ceil(64), rows, 1),
            );
        }
        Ok(())
    }

    fn attend(&mut self, cache: &Cache, layer: usize) -> Result<()> {
        let rows = self.step.rows as usize;
        let context = self.step.start as usize + rows;
        let parts = if self.few() { context.div_ceil(CHUNK).min(MAX_PARTS) } else { 1 };
        let heads = self.config.num_heads;
        let (step, q, a, found) = (self.step_buffer.clone(), self.q.clone(), self.a.clone(), self.parts.clone());
        let (keys, values) = &cache.layers[layer];
        self.dispatch(
            &cache.launches,
            (Kernel::Attend, 0, layer),
            |p| p.attend(),
            &[&step, &q, keys, values, &a, &found],
            None,
            (heads, rows, parts),
        );
        if parts > 1 {
            self.dispatch_own((Kernel::Merge, 0, 0), |p| p.merge(), &[&step, &found, &a], (heads, rows, 1));
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
                |p| p.matmul_add(weight.rows, weight.cols),
                &[&from, &x],
                Some(&weight.parts[0]),
                (weight.rows / 4, rows, 1),
            );
        } else {
            self.matmul(weight, &from, &x, rows, Product::Add);
        }
        if activation == Activation::FeedForward && self.pace.layer(rows, !self.few()) {
            self.flush()?;
        }
        Ok(())
    }

    fn gate_up(&mut self, gain: &Gain, weight: &Matrix) -> Result<()> {
        let rows = self.step.rows as usize;
        let width = self.config.intermediate_size;
        let (x, n, y, f) = (self.x.clone(), self.n.clone(), self.y.clone(), self.f.clone());
        if self.few() {
            self.dispatch(
                &weight.launches,
                (Kernel::GateUp, gain.number, 0),
                |p| p.gate_up(),
                &[&x, &gain.buffer, &f],
                Some(&weight.parts[0]),
                (width / 2, rows, 1),
            );
        } else {
            self.rms_norm(gain, rows, false);
            self.matmul(weight, &n, &y, rows, Product::Store);
            let groups = ((width / 4).div_ceil(64), rows, 1);
            self.dispatch_own((Kernel::Swiglu, 0, 0), |p| p.swiglu(), &[&y, &f], groups);
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
            let old = |slot: &Slot| slot.0 == Kernel::Matmul && slot.2 == Product::Logits as usize;
            head.launches.borrow_mut().retain(|(_, slot), _| !old(slot));
            self.rms_norm(gain, rows.len(), true);
            self.matmul(head, &n, &logits, rows.len(), Product::Logits);
            return Ok(());
        }
        for (index, part) in head.parts.iter().enumerate() {
            self.dispatch(
                &head.launches,
                (Kernel::Logits, index, number),
                |p| p.logits(part.span),
                &[&step, &x, &gain.buffer, &logits],
                Some(part),
                (part.span.rows.div_ceil(4), rows.len(), 1),
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
        let number = (self.logits.size() / 4) as usize;
        let (step, sampling, logits) = (self.step_buffer.clone(), self.sampling_buffer.clone(), self.logits.clone());
        let (history, work, chosen) = (self.history.clone(), self.work.clone(), self.chosen.clone());
        if self.plain {
            self.dispatch_own((Kernel::Argmax, number, 0), |p| p.argmax(), &[&logits, &chosen], (1, 1, 1));
        } else {
            let candidates = self.candidates.clone();
            let buffers: [&wgpu::Buffer; 7] = [&step, &sampling, &logits, &history, &work, &chosen, &candidates];
            self.dispatch_own((Kernel::Sample, number, 0), |p| p.sample(), &buffers, (1, 1, 1));
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
        self.pace.in_flight()
    }
}

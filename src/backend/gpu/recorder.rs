//! Commands on their way to the device: launches are recorded into one compute pass, which a submission ends.
//!
//! ```text
//! dispatch .. dispatch -> flush (or read: a copy for the host behind them) -> submission, timed by the pace
//! ```

use super::activations::FEW_ROWS;
use super::device::{Buffer, Device};
use super::host;
use super::kernels::{Kernel, Kernels, Launch, Program, Programs};
use super::pace::Pace;
use super::variant::Variant;
use crate::error::{Error, Result};
use futures_channel::oneshot;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use wgpu::BufferUsages as Usage;

/// Passes of a prompt that may be on the device at once: the next one is recorded while one runs.
const PROMPT_PASSES: usize = 2;

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

/// Launches by variant, kernel and the numbers of what they are bound to besides their owner.
pub(super) type Launches = RefCell<HashMap<(Variant, Slot), Launch>>;
pub(super) type Slot = (Kernel, usize, usize);

/// Bytes being mapped.
pub(super) struct Read {
    buffer: Buffer,
    arrived: oneshot::Receiver<std::result::Result<(), wgpu::BufferAsyncError>>,
}

/// Commands recorded and not yet submitted.
struct Pending {
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
}

impl Pending {
    fn new(device: &Device) -> Self {
        Pending { encoder: device.device.create_command_encoder(&Default::default()), pass: None }
    }
}

/// Records launches and submits them.
pub(super) struct Recorder {
    pub device: Device,
    pub programs: Programs,
    pub kernels: Kernels,
    pub pace: Pace,
    /// Of the pass under way.
    pub step: Step,
    /// Where the shaders read it.
    uniform: Buffer,
    /// Ends of the last passes of a prompt.
    passes: VecDeque<oneshot::Receiver<()>>,
    /// Launches bound to nothing but activations.
    own: Launches,
    pending: Option<Pending>,
}

impl Recorder {
    pub fn new(device: &Device, programs: Programs, kernels: Kernels, uniform: Buffer) -> Self {
        Recorder {
            device: device.clone(),
            programs,
            kernels,
            pace: Pace::default(),
            step: Step::default(),
            uniform,
            passes: VecDeque::new(),
            own: Launches::default(),
            pending: None,
        }
    }

    /// Waits until at most one pass of a prompt is under way.
    pub async fn keep_up(&mut self) -> Result<()> {
        while self.passes.len() >= PROMPT_PASSES {
            host::wait(&self.device.device);
            if let Some(done) = self.passes.pop_front() {
                // The sender is dropped with a lost device, which `check` tells.
                let _ = done.await;
            }
        }
        self.device.settle().await?;
        self.device.check()
    }

    /// Records one launch; `owner` keeps it, `slot` tells it from the others there.
    pub fn dispatch(
        &mut self,
        owner: &Launches,
        slot: Slot,
        program: impl FnOnce(&Programs) -> Program,
        buffers: &[&wgpu::Buffer],
        weights: &[Buffer],
        groups: (usize, usize, usize),
    ) {
        let mut owner = owner.borrow_mut();
        let launch = match owner.entry((self.kernels.variant(), slot)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let program = program(&self.programs);
                let weights: Vec<&wgpu::Buffer> = weights.iter().map(|buffer| &**buffer).collect();
                entry.insert(self.kernels.launch(&program, buffers, &weights))
            }
        };
        let pending = self.pending.get_or_insert_with(|| Pending::new(&self.device));
        let pass = pending
            .pass
            .get_or_insert_with(|| pending.encoder.begin_compute_pass(&Default::default()).forget_lifetime());
        pass.set_pipeline(&launch.pipeline);
        pass.set_bind_group(0, &launch.bindings, &[]);
        pass.dispatch_workgroups(groups.0 as u32, groups.1 as u32, groups.2 as u32);
    }

    /// Like [`Recorder::dispatch`], for launches bound to nothing but activations.
    pub fn dispatch_own(
        &mut self,
        slot: Slot,
        program: impl FnOnce(&Programs) -> Program,
        buffers: &[&wgpu::Buffer],
        groups: (usize, usize, usize),
    ) {
        let own = std::mem::take(&mut self.own);
        self.dispatch(&own, slot, program, buffers, &[], groups);
        self.own = own;
    }

    /// Copies `size` bytes of `from` into a staging buffer and submits; `read.arrived` tells when they are mapped.
    pub fn read(&mut self, from: &Buffer, size: u64, staging: Buffer) -> Result<Read> {
        let pending = self.pending.get_or_insert_with(|| Pending::new(&self.device));
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

    pub async fn bytes(&self, read: Read) -> Result<(Vec<u8>, Buffer)> {
        host::wait(&self.device.device);
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
    pub fn flush(&mut self) -> Result<()> {
        if let Some(mut pending) = self.pending.take() {
            pending.pass = None;
            self.device.queue.write_buffer(&self.uniform, 0, bytemuck::bytes_of(&self.step));
            self.device.queue.submit([pending.encoder.finish()]);
            let many = self.step.rows as usize > FEW_ROWS;
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

    /// Pieces of buffers (first byte, bytes), one behind the other.
    pub async fn read_all(&mut self, copies: &[(&Buffer, usize, usize)]) -> Result<Vec<u8>> {
        let size: usize = copies.iter().map(|(_, _, bytes)| bytes).sum();
        let gathered = self.device.buffer("read back", size as u64, Usage::STORAGE)?;
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        let mut to = 0;
        for (from, at, bytes) in copies {
            encoder.copy_buffer_to_buffer(from, *at as u64, &gathered, to, *bytes as u64);
            to += *bytes as u64;
        }
        self.device.queue.submit([encoder.finish()]);
        let staging = self.device.staging(gathered.size())?;
        let size = gathered.size();
        let read = self.read(&gathered, size, staging)?;
        Ok(self.bytes(read).await?.0)
    }
}

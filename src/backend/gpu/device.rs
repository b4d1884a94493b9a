//! The adapter, what it can do, and what became of it.

use super::host;
use super::variant::{Alter, Variant};
use crate::error::{Error, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

/// What to ask of the system.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Largest binding of an embedding table or head, in bytes, where the adapter would allow more; for tests of split ones.
    pub max_table_binding: Option<u64>,
    /// Do without subgroups where the adapter has them.
    pub no_subgroups: bool,
    /// Do without shader-f16 where the adapter has it.
    pub no_f16: bool,
    /// Damages shaders; for tests of the self-check.
    pub alter: Option<Alter>,
}

/// An open GPU device. Clones share it.
#[derive(Clone)]
pub struct Device {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    adapter: wgpu::AdapterInfo,
    max_binding: u64,
    max_table_binding: u64,
    variant: Variant,
    alter: Option<Alter>,
    allocated: Rc<Cell<u64>>,
    /// Buffers of which is not known yet whether the device has them.
    asked: Rc<RefCell<Vec<Asked>>>,
    /// The first error that no call returned, and the loss of the device.
    fate: Arc<Mutex<Fate>>,
}

/// What and how many bytes were asked for, and what the error scope around it will say.
struct Asked {
    what: String,
    bytes: u64,
    error: LocalBoxFuture<'static, Option<wgpu::Error>>,
}

#[derive(Default)]
struct Fate {
    error: Option<Fault>,
    lost: Option<String>,
}

/// [`wgpu::Error`] holds JavaScript objects on the web, which a callback cannot share.
enum Fault {
    OutOfMemory,
    Other(String),
}

impl Device {
    /// Opens the most powerful adapter.
    ///
    /// # Errors
    /// [`Error::WebGpuUnavailable`] says which step failed.
    pub async fn open(options: &DeviceOptions) -> Result<Self> {
        let unavailable = |reason: String| Error::WebGpuUnavailable { reason };
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            .map_err(|e| match e {
                // What wgpu adds is about other programs than a page.
                wgpu::RequestAdapterError::NotFound { .. } => unavailable("there is no GPU that it may use".into()),
                other => unavailable(format!("no adapter: {other}")),
            })?;
        let most = adapter.limits();
        let required_limits = wgpu::Limits {
            max_buffer_size: most.max_buffer_size,
            max_storage_buffer_binding_size: most.max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        let wanted = Variant { subgroups: !options.no_subgroups, f16: !options.no_f16 };
        let (device, queue, variant) =
            host::request_device(&adapter, required_limits, wanted).await.map_err(unavailable)?;
        let fate = Arc::new(Mutex::new(Fate::default()));
        let log = fate.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            if let Ok(mut fate) = log.lock() {
                fate.error.get_or_insert_with(|| match error {
                    wgpu::Error::OutOfMemory { .. } => Fault::OutOfMemory,
                    other => Fault::Other(other.to_string()),
                });
            }
        }));
        let log = fate.clone();
        device.set_device_lost_callback(move |reason, message| {
            if let Ok(mut fate) = log.lock() {
                fate.lost.get_or_insert(if message.is_empty() { format!("{reason:?}") } else { message });
            }
        });
        let max_binding = most.max_storage_buffer_binding_size.min(most.max_buffer_size);
        Ok(Device {
            max_binding,
            variant,
            alter: options.alter,
            max_table_binding: max_binding.min(options.max_table_binding.unwrap_or(u64::MAX)),
            adapter: adapter.get_info(),
            allocated: Rc::default(),
            asked: Rc::default(),
            device,
            queue,
            fate,
        })
    }

    /// What the system calls the adapter.
    pub fn name(&self) -> String {
        if let Some(name) = host::adapter_name(&self.device) {
            return name;
        }
        let a = &self.adapter;
        let parts = [a.name.as_str(), a.driver.as_str(), a.driver_info.as_str()];
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// Whether the "GPU" is a program on the CPU, slower than this crate's own.
    pub fn is_software(&self) -> bool {
        self.adapter.device_type == wgpu::DeviceType::Cpu
    }

    /// What of the adapter can be used beyond WebGPU's minimum.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    pub(super) fn alter(&self) -> Option<Alter> {
        self.alter
    }

    /// Bytes of GPU memory that this crate holds on the device.
    pub fn allocated(&self) -> u64 {
        self.allocated.get()
    }

    /// Largest binding of a matrix that may be split by rows, in bytes.
    pub(super) fn max_table_binding(&self) -> u64 {
        self.max_table_binding
    }

    /// Why the device was lost, once it was.
    pub fn lost(&self) -> Option<String> {
        self.fate.lock().ok()?.lost.clone()
    }

    /// Loses the device on purpose; everything on it is freed.
    pub fn destroy(&self) {
        self.device.destroy();
        // Natively the loss is told at the next poll, in browsers by itself.
        let _ = self.device.poll(wgpu::PollType::Poll);
    }

    /// # Errors
    /// What went wrong on the device since it was opened: [`Error::DeviceLost`], [`Error::GpuOutOfMemory`], [`Error::Gpu`].
    pub fn check(&self) -> Result<()> {
        let fate = self.fate.lock().map_err(|_| Error::internal("the GPU error log is poisoned"))?;
        match (&fate.lost, &fate.error) {
            (Some(reason), _) => Err(Error::DeviceLost { reason: reason.clone() }),
            (_, Some(Fault::OutOfMemory)) => {
                Err(Error::GpuOutOfMemory { what: "weights and KV cache".into(), bytes: self.allocated() })
            }
            (_, Some(Fault::Other(problem))) => Err(Error::Gpu { problem: problem.clone() }),
            (None, None) => Ok(()),
        }
    }

    /// Waits until it is known whether the device has every buffer that was asked for. A failure is told once: nothing but
    /// that buffer is lost by it.
    ///
    /// # Errors
    /// [`Error::GpuOutOfMemory`] names the first buffer that it has not, and its bytes.
    pub async fn settle(&self) -> Result<()> {
        let mut missing = None;
        for Asked { what, bytes, error } in self.asked.take() {
            if error.await.is_some() {
                missing.get_or_insert((what, bytes));
            }
        }
        missing.map_or(Ok(()), |(what, bytes)| Err(Error::GpuOutOfMemory { what, bytes }))
    }

    /// Forgets an error that no call returned: it was the doing of kernels that are given up.
    pub fn forgive(&self) {
        if let Ok(mut fate) = self.fate.lock() {
            fate.error = None;
        }
    }

    /// A zeroed buffer.
    ///
    /// # Errors
    /// [`Error::GpuOutOfMemory`] if no buffer may be that large.
    pub(super) fn buffer(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        let size = size.next_multiple_of(4).max(4);
        if size > self.max_binding {
            return Err(Error::GpuOutOfMemory { what: label.into(), bytes: size });
        }
        self.allocate(label, size, usage | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC)
    }

    /// A buffer to read back from.
    pub(super) fn staging(&self, size: u64) -> Result<Buffer> {
        self.allocate("staging", size, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST)
    }

    fn allocate(&self, label: &str, size: u64, usage: wgpu::BufferUsages) -> Result<Buffer> {
        self.check()?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        let asked = Asked { what: label.into(), bytes: size, error: scope.pop().boxed_local() };
        self.asked.borrow_mut().push(asked);
        self.allocated.set(self.allocated.get() + size);
        Ok(Buffer(Rc::new(Owned { buffer, allocated: self.allocated.clone() })))
    }
}

/// A buffer that is counted and freed with its last clone. Without that the browser frees it whenever it collects garbage.
#[derive(Clone)]
pub(super) struct Buffer(Rc<Owned>);

struct Owned {
    buffer: wgpu::Buffer,
    allocated: Rc<Cell<u64>>,
}

impl std::ops::Deref for Buffer {
    type Target = wgpu::Buffer;

    fn deref(&self) -> &wgpu::Buffer {
        &self.0.buffer
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.allocated.set(self.allocated.get() - self.buffer.size());
        self.buffer.destroy();
    }
}

//! Bytes that may lie outside Rust memory.

use std::ops::Range;

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
    fn upload(&self, range: Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        let mut copy = vec![0; range.len()];
        self.read(range.start, &mut copy);
        queue.write_buffer(buffer, at, &copy);
    }
}

/// Owned [`Bytes`] that a piece is put together in.
pub trait Buffer: Bytes + Sized + 'static {
    /// `len` zero bytes; `None` where there is no memory for them.
    fn zeroed(len: usize) -> Option<Self>;

    /// A copy of bytes in Rust memory; `None` where there is no memory for it.
    fn from_slice(bytes: &[u8]) -> Option<Self>;

    /// Copies bytes `range` of `from` to offset `at`.
    fn copy_from(&mut self, at: usize, from: &Self, range: Range<usize>);

    /// Gives the memory back now, where dropping leaves that to a garbage collector.
    fn release(self) {}

    fn to_vec(&self) -> Vec<u8> {
        let mut copy = vec![0; self.len()];
        self.read(0, &mut copy);
        copy
    }
}

impl Bytes for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.as_slice().read(offset, out);
    }

    #[cfg(feature = "gpu")]
    fn upload(&self, range: Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        self.as_slice().upload(range, queue, buffer, at);
    }
}

impl Buffer for Vec<u8> {
    fn zeroed(len: usize) -> Option<Self> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).ok()?;
        bytes.resize(len, 0);
        Some(bytes)
    }

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut copy = Self::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Some(copy)
    }

    fn copy_from(&mut self, at: usize, from: &Self, range: Range<usize>) {
        self[at..at + range.len()].copy_from_slice(&from[range]);
    }
}

impl Bytes for [u8] {
    fn len(&self) -> usize {
        self.len()
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self[offset..offset + out.len()]);
    }

    #[cfg(feature = "gpu")]
    fn upload(&self, range: Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        queue.write_buffer(buffer, at, &self[range]);
    }
}

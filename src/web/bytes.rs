//! Bytes in a JavaScript buffer: they never enter wasm memory on their way from network or store to the GPU.

use crate::bytes::{Buffer, Bytes};
use js_sys::{Array, Reflect, Uint8Array};
use std::ops::Range;
use wasm_bindgen::{JsCast, JsValue};
use web_sys::{MessageChannel, MessagePort};

#[derive(Debug, Clone)]
pub struct JsBytes(pub Uint8Array);

impl Bytes for JsBytes {
    fn len(&self) -> usize {
        self.0.length() as usize
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.0.subarray(offset as u32, (offset + out.len()) as u32).copy_to(out);
    }

    #[cfg(feature = "gpu")]
    fn upload(&self, range: Range<usize>, queue: &wgpu::Queue, buffer: &wgpu::Buffer, at: u64) {
        if let (Some(queue), Some(buffer)) = (queue.as_webgpu(), buffer.as_webgpu()) {
            let part = self.0.subarray(range.start as u32, range.end as u32);
            if queue.write_buffer_with_f64_and_u8_array(buffer, at as f64, &part).is_ok() {
                return;
            }
        }
        // Not the browser's WebGPU, or it threw: wgpu reports what is wrong.
        let mut copy = vec![0; range.len()];
        self.read(range.start, &mut copy);
        queue.write_buffer(buffer, at, &copy);
    }
}

impl Buffer for JsBytes {
    fn zeroed(len: usize) -> Option<Self> {
        let constructor = Reflect::get(&js_sys::global(), &JsValue::from_str("Uint8Array")).ok()?;
        let array = Reflect::construct(
            constructor.unchecked_ref::<js_sys::Function>(),
            &Array::of1(&JsValue::from_f64(len as f64)),
        );
        array.ok().map(|array| Self(array.unchecked_into()))
    }

    fn from_slice(bytes: &[u8]) -> Option<Self> {
        let copy = Self::zeroed(bytes.len())?;
        copy.0.copy_from(bytes);
        Some(copy)
    }

    fn copy_from(&mut self, at: usize, from: &Self, range: Range<usize>) {
        self.0.set(&from.0.subarray(range.start as u32, range.end as u32), at as u32);
    }

    /// By sending the buffer to a message port that nobody holds the other end of: it is moved out of reach and freed at once.
    /// Collectors let hundreds of megabytes of such buffers pile up, and `ArrayBuffer.prototype.transfer` leaves those that the
    /// browser made (a response's, a blob's) to them as well.
    fn release(self) {
        thread_local! {
            static NOWHERE: Option<MessagePort> = MessageChannel::new().ok().map(|channel| {
                channel.port2().close();
                channel.port1()
            });
        }
        let buffer = self.0.buffer();
        // Of a buffer that this is a part of, others may have other parts.
        if buffer.byte_length() == self.0.length() {
            NOWHERE.with(|port| {
                // What cannot be sent stays with the collector.
                port.as_ref().map(|port| port.post_message_with_transferable(&JsValue::NULL, &Array::of1(&buffer)))
            });
        }
    }
}

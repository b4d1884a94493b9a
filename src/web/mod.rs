//! The JavaScript side: [`api`] is what the worker of `js/` calls, the rest are the browser's implementations of the traits of
//! [`crate::weights`]. What wgpu leaves out of WebGPU lies in
//! `backend/gpu/browser.rs`; nothing else names `wasm_bindgen`, `web_sys` or `js_sys`.

pub mod api;
#[cfg(all(feature = "gpu", feature = "bench"))]
pub mod bench;
pub mod bytes;
pub mod exchange;
pub mod fetch;
pub mod files;
pub mod host;
mod js;
pub mod store;
pub mod text;

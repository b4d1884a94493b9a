//! The JavaScript side: [`api`] is what the worker of `js/` calls, the rest are the browser's implementations of the traits of
//! [`crate::weights`]. The only room that names `wasm_bindgen`, `web_sys` and `js_sys`.

pub mod api;
#[cfg(feature = "gpu")]
pub mod bench;
pub mod bytes;
pub mod exchange;
pub mod fetch;
pub mod files;
pub mod host;
pub mod store;
#[cfg(feature = "gpu")]
pub mod webgpu;

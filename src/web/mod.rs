//! The only room that names `wasm_bindgen`, `web_sys` and `js_sys`.

pub mod bytes;
pub mod fetch;
pub mod host;

//! MobileLLM in a web browser.
pub mod backend;
pub mod config;
pub mod conformance;
pub mod engine;
pub mod error;
pub mod model;
pub mod sampler;
pub mod session;
pub mod stop;
pub mod synthetic;
pub mod text;
pub mod tokenizer;
#[cfg(target_arch = "wasm32")]
pub mod web;
pub mod weights;

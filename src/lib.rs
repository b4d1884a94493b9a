//! MobileLLM in a web browser.
pub mod config;
pub mod error;
pub mod synthetic;
pub mod weights;

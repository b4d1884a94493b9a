//! MobileLLM in a web browser.
pub mod config;
pub mod error;
pub mod tokenizer;
pub mod weights;

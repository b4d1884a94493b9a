//! MobileLLM in a web browser: WebGPU through wgpu, SIMD wasm on the CPU where there is none.
//!
//! A token:
//!
//! ```text
//! text -> tokenizer -> ids -> session (keeps the prefix that the KV cache holds)
//!      -> model: embed -> depth x (qkv -> attend -> matmul_add -> gate_up -> matmul_add) -> logits
//!      -> sampler -> id -> text::Decoder (holds back unfinished characters) -> stop -> engine::Event
//! ```
//!
//! A weight:
//!
//! ```text
//! address -> weights::plan (which tensor lies where) -> piece: in the store and sound? else fetch, verify, store
//!         -> model::Loader (whole rows, as f16) -> backend buffer -> the piece is dropped
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`config`] | `config.json` -> numbers, the depth schedule of layer sharing; refuses what is not computed exactly |
//! | [`rope`] | the frequencies of rotary embeddings, stretched as the model says |
//! | [`text`] | text <-> ids, chat templates, stop strings; the text side of one loaded model |
//! | `mobilellm_text` | chat templates and unusual tokenizers: `crates/text`, linked natively, in a browser wasm modules of their own |
//! | [`weights`] | files, pieces, verification, the store, conversion |
//! | [`model`] | the block, written once over [`backend::Backend`]; the loader |
//! | [`backend`] | the verbs: [`backend::cpu`] (plain loops as oracle, SIMD lanes, threads, 8 bit) and `backend::gpu` (WGSL); [`backend::sampler`]: logits -> id |
//! | [`session`] | one timeline of tokens and its KV cache; a pulled generation |
//! | [`engine`] | what is loaded, on which device; the only place where the backends meet in an enum; the GPU's self-check |
//! | [`conformance`], [`synthetic`] | every verb against the oracle; seeded weights of any shape |
//! | [`protocol`] | requests and results as JavaScript spells them; the TypeScript types are written from these |
//! | `web` | the JavaScript side; besides it only `backend/gpu/browser.rs` names `wasm_bindgen` and `js_sys` |
//! | [`packed`] | how weights are packed: f16, 8 and 4 bits |
//! | [`bytes`], [`error`] | bytes that may lie outside Rust memory; one error type, with a stable code and a remedy |
//!
//! What always holds: a fast path agrees with [`backend::cpu::naive`], and that with PyTorch (`tests/golden.rs`); every executed
//! layer has its own keys and values, also where a stored block runs twice; nothing unverified is stored; outside input never
//! panics.

// Outside input never panics. Tests may.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod backend;
pub mod bytes;
pub mod config;
pub mod conformance;
pub mod engine;
pub mod error;
pub mod model;
pub mod packed;
pub mod protocol;
pub mod rope;
pub mod session;
pub mod synthetic;
pub mod text;
#[cfg(all(target_arch = "wasm32", target_os = "unknown"))]
pub mod web;
pub mod weights;

//! One error type for the whole package. Every variant names the thing that is wrong;
//! [`Error::code`] is the stable name that JavaScript sees and [`Error::remedy`] says what to do.
//!
//! `ErrorCode` of the TypeScript side and the table in `docs/errors.md` are written from this file by the tests of
//! [`crate::protocol`]: the cause is a variant's doc comment.

use std::fmt;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. Codes are part of the public contract: they are added, never renamed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[cfg_attr(test, derive(strum::EnumIter, strum::EnumMessage))]
pub enum Error {
    /// A field of `config.json` or `generation_config.json` is missing, ill-typed or out of range.
    #[error("{file}: {field}: {problem}")]
    Config { file: &'static str, field: String, problem: String },
    /// The model needs something that this engine does not compute exactly.
    #[error("unsupported model: {feature}: {detail}")]
    Unsupported { feature: String, detail: String },
    /// A file that the model cannot do without is not there.
    #[error("{file} not found{}", if searched.is_empty() { String::new() } else { format!(" in {searched}") })]
    FileNotFound { file: String, searched: String },
    /// A weight file breaks its format or contradicts the configuration.
    #[error("{file}: {problem}")]
    Checkpoint { file: String, problem: String },
    /// One tensor is missing, doubled, mis-shaped or holds values that f16 cannot.
    #[error("tensor {name}: {problem}")]
    Tensor { name: String, problem: String },
    /// A tokenizer file is broken or of a kind that is not supported.
    #[error("{file}: {problem}")]
    Tokenizer { file: String, problem: String },
    /// The chat template does not parse or failed on these messages.
    #[error("chat template: {problem}")]
    Template { problem: String },
    /// A chat was asked of a model that ships no chat template.
    #[error("model {model} has no chat template: it is a completion model")]
    NoChatTemplate { model: String },
    /// An option is unknown, ill-typed or out of range.
    #[error("option {name}: {problem}")]
    InvalidOption { name: String, problem: String },
    /// The prompt does not fit into the KV cache.
    #[error("the prompt has {tokens} tokens, {} too many: the context takes {capacity} and an answer", tokens.saturating_sub(*capacity))]
    ContextOverflow { tokens: usize, capacity: usize },
    /// The network or the server failed, after retries.
    #[error("{url}: {problem}")]
    Network { url: String, problem: String },
    /// The host answered with a web page in place of a file: a login, a notice, or the application that it serves at every address.
    #[error("{url}: the host sent a web page, not {}", if url.ends_with(".json") { "a file of the model" } else { "a weight file" })]
    WebPage { url: String },
    /// A Content-Security-Policy forbids something that the package cannot do without.
    #[error("{what} is blocked by a Content-Security-Policy: add {needed} to it")]
    Csp { what: String, needed: String },
    /// The server asks for credentials or a licence that must be accepted first.
    #[error("{url}: HTTP {status}: this model is gated")]
    Gated { url: String, status: u16 },
    /// Bytes are not what the manifest or the hub says they must be.
    #[error("{file}, {piece}: expected {expected}, got {got}")]
    Integrity { file: String, piece: String, expected: String, got: String },
    /// The browser's storage quota is too small.
    #[error("needs {} of storage, {}", megabytes(*needed), free.map_or("more than the browser allows".into(), |free| format!("{} free", megabytes(free))))]
    Quota {
        needed: u64,
        /// `None` where the browser refused without telling (Chromium's `estimate()` always claims 10 GB).
        free: Option<u64>,
    },
    /// The browser's storage failed.
    #[error("storage: {problem}")]
    Storage { problem: String },
    /// A stored model is being used by another tab or another object.
    #[error("model {model} is in use")]
    InUse { model: String },
    /// WebGPU was asked for by name and cannot be had.
    #[error("WebGPU is not available: {reason}")]
    WebGpuUnavailable { reason: String },
    /// One of the CPU threads failed; the others were stopped.
    #[error("CPU threads: {problem}")]
    Threads { problem: String },
    /// Main memory (in wasm: 4 GB at most a thread) could not hold what the model needs.
    #[error("out of memory: {what} needs {bytes} bytes more")]
    OutOfMemory { what: String, bytes: u64 },
    /// The GPU could not allocate what the model needs.
    #[error("out of GPU memory: {what} needs {bytes} bytes")]
    GpuOutOfMemory { what: String, bytes: u64 },
    /// The GPU device was lost (driver reset, sleep, another program).
    #[error("the GPU device was lost: {reason}")]
    DeviceLost { reason: String },
    /// The GPU reported an error that is not one of the above.
    #[error("GPU: {problem}")]
    Gpu { problem: String },
    /// The GPU computes something else than the CPU.
    #[error("the GPU failed its self-check: {problem}")]
    SelfCheck { problem: String },
    /// The caller's signal aborted the work.
    #[error("aborted")]
    Aborted,
    /// The object was closed.
    #[error("{what} is closed")]
    Closed { what: &'static str },
    /// Reading or writing a file of the user failed.
    #[error("{path}: {problem}")]
    Io { path: String, problem: String },
    /// A broken promise of this package: please report it.
    #[error("internal error: {problem}")]
    Internal { problem: String },
}

/// What can go wrong in TypeScript alone, before the engine is there or around it: code, cause, remedy.
#[cfg(test)]
pub(crate) const IN_TYPESCRIPT: [(&str, &str, &str); 3] = [
    ("busy", "The session answers a question; this call must wait for it.", "Stop the run and await its result first."),
    (
        "crashed",
        "The engine's worker could not start, or ended without being asked to.",
        "Load the model again; with device: 'cpu' or a smaller contextLength if it happens again. Please report this message.",
    ),
    (
        "engine-unavailable",
        "The package's own worker or wasm cannot be had here: there are no workers, or the files are not where they are looked for.",
        "Load in a page or a dedicated worker; serve the folder pkg/wasm/ of the package and name it by the options workerUrl and wasmUrl (docs/bundlers.md).",
    ),
];

/// Those of [`Error`]'s codes that TypeScript gives too.
#[cfg(test)]
pub(crate) const ALSO_IN_TYPESCRIPT: [&str; 6] =
    ["csp-blocked", "invalid-option", "closed", "webgpu-unavailable", "io", "internal"];

fn megabytes(bytes: u64) -> String {
    let mb = bytes as f64 / 1e6;
    if mb < 10.0 { format!("{mb:.1} MB") } else { format!("{mb:.0} MB") }
}

impl Error {
    /// The stable, kebab-case name of the error, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Config { .. } => "invalid-config",
            Error::Unsupported { .. } => "unsupported-model",
            Error::FileNotFound { .. } => "file-not-found",
            Error::Checkpoint { .. } => "invalid-checkpoint",
            Error::Tensor { .. } => "invalid-tensor",
            Error::Tokenizer { .. } => "invalid-tokenizer",
            Error::Template { .. } => "chat-template",
            Error::NoChatTemplate { .. } => "no-chat-template",
            Error::InvalidOption { .. } => "invalid-option",
            Error::ContextOverflow { .. } => "context-overflow",
            Error::Network { .. } => "network",
            Error::WebPage { .. } => "web-page",
            Error::Csp { .. } => "csp-blocked",
            Error::Gated { .. } => "gated-model",
            Error::Integrity { .. } => "integrity",
            Error::Quota { .. } => "quota-exceeded",
            Error::Storage { .. } => "storage",
            Error::InUse { .. } => "model-in-use",
            Error::WebGpuUnavailable { .. } => "webgpu-unavailable",
            Error::Threads { .. } => "cpu-threads",
            Error::OutOfMemory { .. } => "out-of-memory",
            Error::GpuOutOfMemory { .. } => "gpu-out-of-memory",
            Error::DeviceLost { .. } => "device-lost",
            Error::Gpu { .. } => "gpu-error",
            Error::SelfCheck { .. } => "self-check-failed",
            Error::Aborted => "aborted",
            Error::Closed { .. } => "closed",
            Error::Io { .. } => "io",
            Error::Internal { .. } => "internal",
        }
    }

    /// What the reader of the message can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Error::Config { .. } => "Check the file against the model's original; it must be in Hugging Face layout.",
            Error::Unsupported { .. } => {
                "Use a MobileLLM or LLaMA-architecture checkpoint without this feature; the README lists what runs."
            }
            Error::FileNotFound { .. } => {
                "Check the model's address and that the folder holds a Hugging Face checkpoint."
            }
            Error::Checkpoint { .. } => {
                "Download the file again or convert the checkpoint anew with `mobilellm convert`."
            }
            Error::Tensor { .. } => {
                "Check that config.json and the weights are of one model, and whole: download them again, or convert them with `mobilellm convert`."
            }
            Error::Tokenizer { .. } => "Use the tokenizer.json or tokenizer.model that belongs to this checkpoint.",
            Error::Template { .. } => {
                "Check the messages' roles and order against the template that the message names, or pass another as chatTemplate."
            }
            Error::NoChatTemplate { .. } => "Use generate() with a plain prompt, or pass a chatTemplate.",
            Error::InvalidOption { .. } => "See the option's documentation for its name, type and range.",
            Error::ContextOverflow { .. } => "Shorten the prompt or load the model with a larger contextLength.",
            Error::Network { .. } => "Check the connection and the address; what was already downloaded is kept.",
            Error::WebPage { .. } => {
                "Open the address in a browser to see what it says. It must give the file itself, without a login; on the hub, /resolve/ and not /blob/."
            }
            Error::Csp { .. } => "Add to the policy what the message names; docs/errors.md shows one that is enough.",
            Error::Gated { .. } => "Accept the model's licence on its page and pass an access token that may read it.",
            Error::Integrity { .. } => "Load again; if it persists, the server's copy is damaged: try a mirror.",
            Error::Quota { .. } => "Free some storage (models.list, models.delete) or load with cache: 'none'.",
            Error::Storage { .. } => "Load with cache: 'none', or leave private browsing.",
            Error::InUse { .. } => "Close the model in every tab first.",
            Error::WebGpuUnavailable { .. } => "Load with device: 'auto' or 'cpu', or use a browser with WebGPU.",
            Error::Threads { .. } => "Load the model again; if it persists, with threads: 1.",
            Error::OutOfMemory { .. } => "Use a smaller contextLength or dtype: 'q8', or close other tabs.",
            Error::GpuOutOfMemory { .. } => "Use a smaller contextLength, dtype: 'q8' or device: 'cpu'.",
            Error::DeviceLost { .. } => "Load the model again, or with device: 'cpu'.",
            Error::Gpu { .. } => "Load with device: 'cpu' and report the message with your adapter's name.",
            Error::SelfCheck { .. } => {
                "Load with device: 'auto' or 'cpu'; a newer browser or graphics driver may help."
            }
            Error::Aborted => "Nothing is wrong; what was already downloaded is kept.",
            Error::Closed { .. } => "Load the model, or open a session, again.",
            Error::Io { .. } => "Check the path and its permissions.",
            Error::Internal { .. } => "Please report this message with the steps that led to it.",
        }
    }

    /// Whether another device might do: nothing is wrong with the model.
    pub fn is_of_the_gpu(&self) -> bool {
        use Error::{DeviceLost, Gpu, GpuOutOfMemory, SelfCheck, WebGpuUnavailable};
        matches!(
            self,
            WebGpuUnavailable { .. } | GpuOutOfMemory { .. } | DeviceLost { .. } | Gpu { .. } | SelfCheck { .. }
        )
    }

    pub(crate) fn config(field: &str, problem: impl fmt::Display) -> Self {
        Error::Config { file: "config.json", field: field.into(), problem: problem.to_string() }
    }

    pub(crate) fn generation_config(field: &str, problem: impl fmt::Display) -> Self {
        Error::Config { file: "generation_config.json", field: field.into(), problem: problem.to_string() }
    }

    pub(crate) fn unsupported(feature: &str, detail: impl fmt::Display) -> Self {
        Error::Unsupported { feature: feature.into(), detail: detail.to_string() }
    }

    pub(crate) fn tensor(name: &str, problem: impl fmt::Display) -> Self {
        Error::Tensor { name: name.into(), problem: problem.to_string() }
    }

    pub(crate) fn checkpoint(file: &str, problem: impl fmt::Display) -> Self {
        Error::Checkpoint { file: file.into(), problem: problem.to_string() }
    }

    pub(crate) fn tokenizer(file: &str, problem: impl fmt::Display) -> Self {
        Error::Tokenizer { file: file.into(), problem: problem.to_string() }
    }

    pub(crate) fn option(name: &str, problem: impl fmt::Display) -> Self {
        Error::InvalidOption { name: name.into(), problem: problem.to_string() }
    }

    pub(crate) fn internal(problem: impl fmt::Display) -> Self {
        Error::Internal { problem: problem.to_string() }
    }
}

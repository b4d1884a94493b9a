//! The verbs of a forward pass, on whatever computes them.
//!
//! The model writes the transformer block once over [`Backend`]. A backend keeps the activations of the pass
//! under way; the model names weights, cache and layer. Shapes are (rows, width): a row is one position of a session,
//! rows of one pass are consecutive positions.
//!
//! | verb | reads | writes |
//! | --- | --- | --- |
//! | `embed` | ids or the device's last choice | x (rows, hidden) |
//! | `qkv` | RMSNorm(x) | q (rows, heads x head_dim) rotated; keys rotated and values into the cache |
//! | `attend` | q, cache | a (rows, heads x head_dim) |
//! | `matmul_add` | a or f | x += W . that |
//! | `gate_up` | RMSNorm(x) | f (rows, intermediate) = SiLU(gate) * up |
//! | `logits` | RMSNorm(x) of some rows | logits (those rows, vocab) |
//!
//! Recording is synchronous; only what waits for a device ([`Backend::read_logits`], [`Backend::chosen`]) is async.

pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;

pub mod sampler;

use crate::bytes::Bytes;
use crate::error::Result;
pub use crate::packed::{Packing, Precision};
use sampler::Sampling;
use std::ops::Range;

/// What a matrix is for: backends lay weights out accordingly. All are (out, in), row-major, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// (vocab, hidden); also the output head when embeddings are shared.
    Embedding,
    /// (vocab, hidden) of an untied head.
    Head,
    /// (qkv_rows, hidden): query heads, then key heads, then value heads.
    Qkv,
    /// (hidden, heads x head_dim).
    AttentionOut,
    /// (2 x intermediate, hidden): all gate rows, then all up rows.
    GateUp,
    /// (hidden, intermediate).
    Down,
}

impl Role {
    /// How a matrix of this role is packed in a model of this precision.
    pub fn packing(self, precision: Precision) -> Packing {
        match self {
            Role::Embedding | Role::Head => precision.of_tables(),
            Role::Qkv | Role::AttentionOut | Role::GateUp | Role::Down => precision.of_blocks(),
        }
    }
}

/// Where the ids of a pass come from.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// These ids, one a row; at most [`Backend::max_rows`].
    Tokens(&'a [u32]),
    /// One row: the id of the last [`Backend::choose`], which need not have been read back yet.
    Chosen,
}

impl Input<'_> {
    pub fn rows(&self) -> usize {
        match self {
            Input::Tokens(ids) => ids.len(),
            Input::Chosen => 1,
        }
    }
}

/// The activation that [`Backend::matmul_add`] multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// a: the output of `attend`.
    Attention,
    /// f: the output of `gate_up`.
    FeedForward,
}

/// Computes the verbs for one model. Weights are held in the [`Precision`] that the backend was opened with.
#[allow(async_fn_in_trait, reason = "single-threaded on the web: no Send bound is wanted")]
pub trait Backend {
    /// Weights of one [`Role`], filled by `write_rows`.
    type Matrix;
    /// RMSNorm gain, (hidden) f32.
    type Gain;
    /// Keys and values of one session: one pair of (capacity, kv_width) for each executed layer.
    type Cache;
    /// A sampled id that may still be on the device.
    type Ticket;

    /// How weights are held.
    fn precision(&self) -> Precision;

    /// An empty matrix; every row is written before it is used.
    fn new_matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<Self::Matrix>;

    /// Writes whole rows from row `first` on: bytes `range` of `bytes`, packed as `packing` says. Rows that are packed as the
    /// matrix is ([`Role::packing`]) are held as they are, others are packed anew.
    fn write_rows(
        &mut self,
        matrix: &mut Self::Matrix,
        first: usize,
        packing: Packing,
        bytes: &dyn Bytes,
        range: Range<usize>,
    ) -> Result<()>;

    fn new_gain(&mut self, values: &[f32]) -> Result<Self::Gain>;

    /// An empty cache of `capacity` positions for `layers` executed layers.
    fn new_cache(&mut self, layers: usize, capacity: usize) -> Result<Self::Cache>;

    /// A copy of the first `len` positions, same capacity.
    fn fork(&mut self, cache: &Self::Cache, len: usize) -> Result<Self::Cache>;

    /// Most rows of one pass.
    fn max_rows(&self) -> usize;

    /// Waits until the device is not far behind with a prompt's passes, so that what is asked of it next is not late.
    async fn keep_up(&mut self) -> Result<()> {
        Ok(())
    }

    /// Starts a pass: x = `table[ids]`; row r is position `start + r`.
    fn embed(&mut self, table: &Self::Matrix, input: Input, start: usize) -> Result<()>;

    /// q, k, v = W . RMSNorm(x); RoPE (half-split rotation) on q and k; k and v into `cache` at executed layer `layer`.
    fn qkv(&mut self, gain: &Self::Gain, weight: &Self::Matrix, cache: &mut Self::Cache, layer: usize) -> Result<()>;

    /// Causal attention of every row over positions 0..=its own, scores scaled by head_dim^-1/2.
    fn attend(&mut self, cache: &Self::Cache, layer: usize) -> Result<()>;

    /// x += W . activation.
    fn matmul_add(&mut self, weight: &Self::Matrix, activation: Activation) -> Result<()>;

    /// f = SiLU(Wg . RMSNorm(x)) * (Wu . RMSNorm(x)).
    fn gate_up(&mut self, gain: &Self::Gain, weight: &Self::Matrix) -> Result<()>;

    /// Logits of the given rows of the pass.
    fn logits(&mut self, gain: &Self::Gain, head: &Self::Matrix, rows: Range<usize>) -> Result<()>;

    /// Ends the pass: whatever was recorded is on its way.
    fn submit(&mut self) -> Result<()>;

    /// The logits of the last pass, (rows, vocab) f32.
    async fn read_logits(&mut self) -> Result<Vec<f32>>;

    /// Starts a generation: how ids are chosen, and the tokens that penalties look back on; `answer` is what was chosen
    /// already, where one goes on.
    fn begin_sampling(&mut self, sampling: &Sampling, prompt: &[u32], answer: &[u32]) -> Result<()>;

    /// Chooses an id from the one row of logits of the last pass. `uniform` in [0, 1) decides where there is chance.
    fn choose(&mut self, uniform: f32) -> Result<Self::Ticket>;

    /// The chosen id, when it has arrived.
    async fn chosen(&mut self, ticket: Self::Ticket) -> Result<u32>;

    /// How many tickets may be outstanding before the first is read; 1 where nothing is gained by more.
    fn in_flight(&self) -> usize;
}

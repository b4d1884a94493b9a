//! The transformer, written once over [`Backend`]: loaded, frozen, ready for any number of sessions.
//!
//! ```text
//! embed -> executed depth x ( qkv -> attend -> matmul_add -> gate_up -> matmul_add ) -> logits
//! ```
//! A stored block may run several times ([`Config::order`]); every executed layer has its own keys and values.

use crate::backend::{Activation, Backend, Input, Packing, Role};
use crate::bytes::Bytes;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::weights::formats::gguf::{self, blocks};
use crate::weights::names::{EMBEDDING, HEAD, Use, uses};
use crate::weights::{Dtype, TensorInfo, TensorSink};
use half::f16;
use std::collections::HashMap;
use std::ops::Range;

/// One stored block.
pub(crate) struct Block<B: Backend> {
    pub attention_norm: B::Gain, // (hidden)
    pub qkv: B::Matrix,          // (qkv_rows, hidden)
    pub out: B::Matrix,          // (hidden, heads x head_dim)
    pub ffn_norm: B::Gain,       // (hidden)
    pub gate_up: B::Matrix,      // (2 x intermediate, hidden)
    pub down: B::Matrix,         // (hidden, intermediate)
}

impl<B: Backend> Block<B> {
    /// Runs the block as executed layer `layer` on the rows of the pass under way.
    pub fn run(&self, backend: &mut B, cache: &mut B::Cache, layer: usize) -> Result<()> {
        backend.qkv(&self.attention_norm, &self.qkv, cache, layer)?;
        backend.attend(cache, layer)?;
        backend.matmul_add(&self.out, Activation::Attention)?;
        backend.gate_up(&self.ffn_norm, &self.gate_up)?;
        backend.matmul_add(&self.down, Activation::FeedForward)
    }
}

/// A model taken apart, for what looks inside.
#[cfg(feature = "gpu")]
pub(crate) struct Parts<'a, B: Backend> {
    pub config: &'a Config,
    pub backend: &'a mut B,
    pub embedding: &'a B::Matrix,
    pub head: &'a B::Matrix,
    pub norm: &'a B::Gain,
    /// The first.
    pub block: &'a Block<B>,
}

/// A loaded model.
pub struct Model<B: Backend> {
    config: Config,
    backend: B,
    embedding: B::Matrix,    // (vocab, hidden)
    head: Option<B::Matrix>, // (vocab, hidden); None: the embedding
    norm: B::Gain,           // (hidden)
    blocks: Vec<Block<B>>,
    order: Vec<usize>, // stored block of each executed layer
}

impl<B: Backend> Model<B> {
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn backend(&mut self) -> &mut B {
        &mut self.backend
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn parts(&mut self) -> Parts<'_, B> {
        Parts {
            config: &self.config,
            backend: &mut self.backend,
            embedding: &self.embedding,
            head: self.head.as_ref().unwrap_or(&self.embedding),
            norm: &self.norm,
            block: &self.blocks[0],
        }
    }

    /// An empty cache for one session of at most `capacity` tokens.
    pub fn new_cache(&mut self, capacity: usize) -> Result<B::Cache> {
        self.backend.new_cache(self.order.len(), capacity)
    }

    /// Runs the rows of `input` at positions `start..` and computes the logits of rows `logits` (may be empty).
    /// Positions before `start` must be in the cache.
    pub fn forward(&mut self, cache: &mut B::Cache, input: Input, start: usize, logits: Range<usize>) -> Result<()> {
        let backend = &mut self.backend;
        backend.embed(&self.embedding, input, start)?;
        for (layer, &block) in self.order.iter().enumerate() {
            self.blocks[block].run(backend, cache, layer)?;
        }
        if !logits.is_empty() {
            backend.logits(&self.norm, self.head.as_ref().unwrap_or(&self.embedding), logits)?;
        }
        backend.submit()
    }
}

/// Where a tensor goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Slot {
    /// Rows of a matrix, from this one on.
    Rows(Part, usize),
    Gain(Part),
    /// Known to be no weight of the model, or a copy of the shared matrix.
    Ignored,
}

/// A matrix or gain of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Embedding,
    Head,
    Norm,
    AttentionNorm(usize),
    FfnNorm(usize),
    Qkv(usize),
    Out(usize),
    GateUp(usize),
    Down(usize),
}

impl Part {
    /// Whether it is a matrix of the vocabulary, whose packing is another one.
    fn is_table(self) -> bool {
        matches!(self, Part::Embedding | Part::Head)
    }
}

/// A tensor under way.
struct Incoming {
    slot: Slot,
    info: TensorInfo,
    /// Bytes taken so far.
    taken: u64,
    /// Rows that are given on together: one, or those of a head where they change places.
    unit: usize,
    /// The start of a unit whose end has not come yet.
    partial: Vec<u8>,
}

impl Incoming {
    fn unit_bytes(&self) -> usize {
        self.unit * self.info.row_bytes()
    }
}

/// A model under construction: takes a checkpoint's tensors as they arrive and gives whole rows to the backend.
/// Holds at most one row (or one head's rows) of each tensor under way besides what the backend holds.
pub struct Loader<B: Backend> {
    config: Config,
    backend: B,
    matrices: HashMap<Part, B::Matrix>,
    gains: HashMap<Part, B::Gain>,
    incoming: Vec<Incoming>,
    skipped: Vec<String>,
}

impl<B: Backend> Loader<B> {
    pub fn new(config: Config, backend: B) -> Self {
        let (matrices, gains) = (HashMap::new(), HashMap::new());
        Loader { config, backend, matrices, gains, incoming: Vec::new(), skipped: Vec::new() }
    }

    /// Names of the checkpoint's tensors that the model has no use for, those aside that are often left in files.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The finished model.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the first tensor whose bytes did not all arrive.
    pub fn finish(mut self) -> Result<Model<B>> {
        for tensor in self.incoming.iter().filter(|t| t.slot != Slot::Ignored) {
            if tensor.taken != tensor.info.bytes() {
                let problem = format!("only {} of {} bytes arrived", tensor.taken, tensor.info.bytes());
                return Err(Error::tensor(&tensor.info.name, problem));
            }
        }
        let lost = || Error::internal("a part of the model was neither loaded nor reported missing");
        let mut matrix = |place| self.matrices.remove(&place);
        let mut gain = |place| self.gains.remove(&place);
        let mut blocks = Vec::with_capacity(self.config.num_blocks);
        for i in 0..self.config.num_blocks {
            blocks.push(Block {
                attention_norm: gain(Part::AttentionNorm(i)).ok_or_else(lost)?,
                qkv: matrix(Part::Qkv(i)).ok_or_else(lost)?,
                out: matrix(Part::Out(i)).ok_or_else(lost)?,
                ffn_norm: gain(Part::FfnNorm(i)).ok_or_else(lost)?,
                gate_up: matrix(Part::GateUp(i)).ok_or_else(lost)?,
                down: matrix(Part::Down(i)).ok_or_else(lost)?,
            });
        }
        Ok(Model {
            embedding: matrix(Part::Embedding).ok_or_else(lost)?,
            head: matrix(Part::Head),
            norm: gain(Part::Norm).ok_or_else(lost)?,
            blocks,
            order: self.config.order(),
            config: self.config,
            backend: self.backend,
        })
    }

    /// Every tensor that the configuration asks for, with its slot and (rows, cols); gains have one row.
    fn expected(&self) -> Vec<(String, Slot, usize, usize)> {
        let c = &self.config;
        let (d, f, kv, width) = (c.hidden_size, c.intermediate_size, c.kv_width(), c.attention_width());
        let mut list = vec![
            (EMBEDDING.to_owned(), Slot::Rows(Part::Embedding, 0), c.vocab_size, d),
            ("model.norm.weight".to_owned(), Slot::Gain(Part::Norm), 1, d),
        ];
        if !c.tied {
            list.push((HEAD.to_owned(), Slot::Rows(Part::Head, 0), c.vocab_size, d));
        }
        for i in 0..c.num_blocks {
            for (name, slot, rows, cols) in [
                ("input_layernorm", Slot::Gain(Part::AttentionNorm(i)), 1, d),
                ("post_attention_layernorm", Slot::Gain(Part::FfnNorm(i)), 1, d),
                ("self_attn.q_proj", Slot::Rows(Part::Qkv(i), 0), width, d),
                ("self_attn.k_proj", Slot::Rows(Part::Qkv(i), width), kv, d),
                ("self_attn.v_proj", Slot::Rows(Part::Qkv(i), width + kv), kv, d),
                ("self_attn.o_proj", Slot::Rows(Part::Out(i), 0), d, width),
                ("mlp.gate_proj", Slot::Rows(Part::GateUp(i), 0), f, d),
                ("mlp.up_proj", Slot::Rows(Part::GateUp(i), f), f, d),
                ("mlp.down_proj", Slot::Rows(Part::Down(i), 0), d, f),
            ] {
                list.push((format!("model.layers.{i}.{name}.weight"), slot, rows, cols));
            }
        }
        list
    }

    fn allocate(&mut self) -> Result<()> {
        let c = self.config.clone();
        let mut matrix = |place, role, rows, cols| -> Result<()> {
            let matrix = self.backend.new_matrix(role, rows, cols)?;
            self.matrices.insert(place, matrix);
            Ok(())
        };
        matrix(Part::Embedding, Role::Embedding, c.vocab_size, c.hidden_size)?;
        if !c.tied {
            matrix(Part::Head, Role::Head, c.vocab_size, c.hidden_size)?;
        }
        for i in 0..c.num_blocks {
            matrix(Part::Qkv(i), Role::Qkv, c.qkv_rows(), c.hidden_size)?;
            matrix(Part::Out(i), Role::AttentionOut, c.hidden_size, c.attention_width())?;
            matrix(Part::GateUp(i), Role::GateUp, 2 * c.intermediate_size, c.hidden_size)?;
            matrix(Part::Down(i), Role::Down, c.hidden_size, c.intermediate_size)?;
        }
        Ok(())
    }
}

impl<B: Backend> TensorSink for Loader<B> {
    fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>> {
        let mut slots: HashMap<String, (Slot, usize, usize)> =
            self.expected().into_iter().map(|(name, slot, rows, cols)| (name, (slot, rows, cols))).collect();
        let uses = uses(&self.config, tensors)?;
        let stored = |name: &str| uses.iter().any(|used| matches!(used, Use::Weight(weight) if weight == name));
        if self.config.tied && stored(HEAD) {
            // A published conversion keeps the shared matrix under the head's name only.
            let shared = slots[EMBEDDING];
            if stored(EMBEDDING) {
                slots.insert(HEAD.to_owned(), (Slot::Ignored, shared.1, shared.2));
            } else {
                slots.remove(EMBEDDING);
                slots.insert(HEAD.to_owned(), shared);
            }
        }
        let mut incoming = Vec::with_capacity(tensors.len());
        self.skipped.clear();
        for (info, used) in tensors.iter().zip(uses) {
            let slot = match used {
                Use::Weight(name) => match slots.remove(&name) {
                    Some((slot, rows, cols)) => {
                        check_shape(info, slot, rows, cols)?;
                        slot
                    }
                    None => return Err(Error::tensor(&info.name, "stored twice")),
                },
                Use::Skipped { expected } => {
                    self.skipped.extend((!expected).then(|| info.name.clone()));
                    Slot::Ignored
                }
            };
            let unit = if info.rope_pairs { self.config.head_dim } else { 1 };
            incoming.push(Incoming { slot, info: info.clone(), taken: 0, unit, partial: Vec::new() });
        }
        if let Some(missing) = self.expected().iter().find(|(name, ..)| slots.contains_key(name)) {
            return Err(Error::tensor(&missing.0, "missing from the checkpoint"));
        }
        self.allocate()?;
        self.incoming = incoming;
        Ok(self.incoming.iter().map(|t| t.slot != Slot::Ignored).collect())
    }

    fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()> {
        let t = &mut self.incoming[tensor];
        if offset != t.taken || t.taken + bytes.len() as u64 > t.info.bytes() {
            return Err(Error::internal(format!("bytes of {} out of order at {offset}", t.info.name)));
        }
        t.taken += bytes.len() as u64;
        let (unit, unit_bytes) = (t.unit, t.unit_bytes());
        let mut row = ((offset - t.partial.len() as u64) / unit_bytes as u64) as usize * unit;
        let mut at = 0;
        if !t.partial.is_empty() || bytes.len() < unit_bytes {
            at = (unit_bytes - t.partial.len()).min(bytes.len());
            let old = t.partial.len();
            t.partial.resize(old + at, 0);
            bytes.read(0, &mut t.partial[old..]);
            if t.partial.len() < unit_bytes {
                return Ok(());
            }
            let whole = std::mem::take(&mut t.partial);
            self.rows(tensor, row, &whole, 0..unit_bytes)?;
            row += unit;
        }
        let whole = (bytes.len() - at) / unit_bytes * unit_bytes;
        if whole > 0 {
            self.rows(tensor, row, bytes, at..at + whole)?;
        }
        let rest = bytes.len() - at - whole;
        let t = &mut self.incoming[tensor];
        t.partial.resize(rest, 0);
        bytes.read(at + whole, &mut t.partial);
        Ok(())
    }
}

/// Weights that are converted at a time.
const CONVERTED: usize = 1 << 16;

impl<B: Backend> Loader<B> {
    /// Whole units of a tensor, in its stored dtype.
    fn rows(&mut self, tensor: usize, row: usize, bytes: &dyn Bytes, range: Range<usize>) -> Result<()> {
        let Incoming { slot, info, unit, .. } = &self.incoming[tensor];
        match *slot {
            Slot::Ignored => Ok(()),
            Slot::Gain(place) => {
                let mut raw = vec![0; range.len()];
                bytes.read(range.start, &mut raw);
                let mut values = Vec::new();
                info.dtype.to_f32(&raw, &mut values);
                if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                    return Err(Error::tensor(&info.name, format!("value {at} is {}", values[at])));
                }
                self.gains.insert(place, self.backend.new_gain(&values)?);
                Ok(())
            }
            Slot::Rows(place, first) => {
                let matrix = self.matrices.get_mut(&place).ok_or_else(|| Error::internal("matrix not allocated"))?;
                let named = |error| match error {
                    Error::Tensor { problem, .. } => Error::tensor(&info.name, problem),
                    other => other,
                };
                if info.dtype == Dtype::F16 && !info.rope_pairs {
                    return self.backend.write_rows(matrix, first + row, Packing::F16, bytes, range).map_err(named);
                }
                let precision = self.backend.precision();
                let held = if place.is_table() { precision.of_tables() } else { precision.of_blocks() };
                let cols = info.shape.last().copied().unwrap_or(1);
                let rows_at_once = (CONVERTED / cols / unit).max(1) * unit;
                let (mut raw, mut row) = (Vec::new(), row);
                for at in range.clone().step_by(rows_at_once * info.row_bytes()) {
                    raw.resize((rows_at_once * info.row_bytes()).min(range.end - at), 0);
                    bytes.read(at, &mut raw);
                    let same = blocks::packed(info.dtype, held, &raw);
                    if let Some((packing, mut packed)) = same {
                        if info.rope_pairs {
                            packed = gguf::half_split(&packed, packing.row_bytes(cols), self.config.head_dim);
                        }
                        let range = 0..packed.len();
                        self.backend.write_rows(matrix, first + row, packing, &packed, range).map_err(named)?;
                        row += rows_at_once;
                        continue;
                    }
                    let mut halves = to_f16(&raw, info.dtype).map_err(|(at, value)| {
                        let problem = format!("value {} is {value}: f16 holds at most 65504", row * cols + at);
                        Error::tensor(&info.name, problem)
                    })?;
                    if info.rope_pairs {
                        halves = gguf::half_split(&halves, 2 * cols, self.config.head_dim);
                    }
                    self.backend
                        .write_rows(matrix, first + row, Packing::F16, &halves, 0..halves.len())
                        .map_err(named)?;
                    row += rows_at_once;
                }
                Ok(())
            }
        }
    }
}

fn check_shape(info: &TensorInfo, slot: Slot, rows: usize, cols: usize) -> Result<()> {
    let wanted = if matches!(slot, Slot::Gain(_)) { vec![cols] } else { vec![rows, cols] };
    if info.shape != wanted {
        let problem = format!("has shape {:?}, the configuration asks for {wanted:?}", info.shape);
        return Err(Error::tensor(&info.name, problem));
    }
    Ok(())
}

/// f16 bytes, or the first value that f16 cannot hold.
fn to_f16(raw: &[u8], dtype: Dtype) -> std::result::Result<Vec<u8>, (usize, f32)> {
    if dtype == Dtype::F16 {
        return Ok(raw.to_vec());
    }
    let mut values = Vec::new();
    dtype.to_f32(raw, &mut values);
    let mut out = Vec::with_capacity(values.len() * 2);
    for (at, value) in values.into_iter().enumerate() {
        let narrow = f16::from_f32(value);
        if !narrow.is_finite() {
            return Err((at, value));
        }
        out.extend(narrow.to_le_bytes());
    }
    Ok(out)
}

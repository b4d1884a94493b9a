//! One thread's share of a model: its rows of every matrix, its heads, and the verbs on them.
//!
//! | split | rank's share | gathered |
//! | --- | --- | --- |
//! | `embed`, `logits` | rows of the vocabulary | x; logits |
//! | `qkv`, `attend` | query heads, and the key/value heads that they read | a |
//! | `gate_up` | gate and up rows of the same index | f |
//! | `matmul_add` | rows | x |

use super::attention::{Cache, new_cache};
use super::command::{Command, Verb};
use super::math::{rms_norm, silu_mul};
use super::panels::{Inputs, Output, Panels, ROWS, Scratch};
use super::team::{Exchange, Shard};
use crate::backend::{Precision, Role};
use crate::config::Config;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;

/// A run of a matrix's rows that this rank holds.
struct Segment {
    first: usize,
    panels: Panels,
}

/// This rank's rows of a matrix.
struct Matrix {
    cols: usize,
    segments: Vec<Segment>,
}

pub struct Rank {
    config: Config,
    pub precision: Precision,
    shard: Shard,
    pub exchange: Box<dyn Exchange>,
    matrices: Vec<Matrix>,
    gains: Vec<Vec<f32>>,
    caches: HashMap<u32, Box<dyn Cache>>,
    inverse_frequencies: Vec<f32>,
    start: usize,
    tokens: usize,
    /// (tokens, hidden), on every rank.
    x: Vec<f32>,
    /// (tokens, own heads x head_dim).
    q: Vec<f32>,
    /// Attention output or feed-forward activation, or RMSNorm(x): what the next product reads.
    input: Inputs,
    /// (tokens, own columns): a product's output before it is gathered.
    own: Vec<f32>,
    second: Vec<f32>,
    gathered: Vec<f32>,
    scratch: Scratch,
    attention_scratch: Vec<f32>,
    rotation: Vec<(f32, f32)>,
    /// (rows, vocab) of the last pass.
    pub logits: Vec<f32>,
}

fn unknown() -> Error {
    Error::internal("a command names what was never made")
}

impl Rank {
    pub fn new(config: &Config, precision: Precision, shard: Shard, exchange: Box<dyn Exchange>) -> Self {
        let dim = config.head_dim;
        let frequency = |j: usize| 1.0 / config.rope_theta.powf(2.0 * j as f64 / dim as f64) as f32;
        Rank {
            inverse_frequencies: (0..dim / 2).map(frequency).collect(),
            config: config.clone(),
            precision,
            shard,
            exchange,
            matrices: Vec::new(),
            gains: Vec::new(),
            caches: HashMap::new(),
            start: 0,
            tokens: 0,
            x: Vec::new(),
            q: Vec::new(),
            input: Inputs::new(precision != Precision::F16),
            own: Vec::new(),
            second: Vec::new(),
            gathered: Vec::new(),
            scratch: Scratch::default(),
            attention_scratch: Vec::new(),
            rotation: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Whether there is no other rank.
    pub fn alone(&self) -> bool {
        self.shard.count == 1
    }

    /// Runs commands until the leader quits.
    ///
    /// # Errors
    /// The first command that failed, here or on another rank; every rank has been told.
    pub fn follow(mut self) -> Result<()> {
        let mut message = Vec::new();
        loop {
            self.exchange.receive(&mut message)?;
            let command = Command::decode(&message)?;
            if command == Command::Quit {
                return Ok(());
            }
            self.run(command)?;
        }
    }

    /// Runs one command; a failure is told to every rank.
    pub fn run(&mut self, command: Command) -> Result<()> {
        let result = self.execute(command);
        if let Err(error) = &result {
            self.exchange.fail(error);
        }
        result
    }

    fn execute(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Matrix { role, rows, cols } => {
                let packing = role.packing(self.precision);
                let segments = self.segments(role, rows).into_iter().filter(|range| !range.is_empty());
                let segments = segments
                    .map(|range| Ok(Segment { first: range.start, panels: Panels::new(range.len(), cols, packing)? }))
                    .collect::<Result<_>>()?;
                self.matrices.push(Matrix { cols, segments });
            }
            Command::WriteRows { matrix, first, packing, words } => {
                let matrix = self.matrices.get_mut(matrix as usize).ok_or_else(unknown)?;
                let width = packing.row_bytes(matrix.cols);
                let bytes: &[u8] = bytemuck::cast_slice(words);
                for segment in &mut matrix.segments {
                    let start = first.max(segment.first);
                    let end = (first + bytes.len() / width).min(segment.first + segment.panels.rows());
                    if start < end {
                        let rows = &bytes[(start - first) * width..(end - first) * width];
                        segment.panels.write_rows(start - segment.first, packing, rows)?;
                    }
                }
            }
            Command::Gain { words } => self.gains.push(words.iter().map(|w| f32::from_bits(*w)).collect()),
            Command::Cache { cache: id, layers } => {
                let heads = self.kv_heads(self.shard).len();
                self.caches.insert(id, new_cache(self.precision, layers, heads, self.config.head_dim));
            }
            Command::Fork { cache, from, len } => {
                let fork = self.caches.get(&from).ok_or_else(unknown)?.fork(len)?;
                self.caches.insert(cache, fork);
            }
            Command::Drop { cache } => {
                self.caches.remove(&cache);
            }
            Command::Pass { start, tokens, verbs } => {
                self.start = start;
                self.tokens = tokens.len();
                for verb in verbs {
                    self.verb(Verb::decode(*verb)?, tokens)?;
                }
            }
            Command::Quit => {}
        }
        Ok(())
    }

    fn verb(&mut self, verb: Verb, tokens: &[u32]) -> Result<()> {
        match verb {
            Verb::Embed { table } => self.embed(table as usize, tokens),
            Verb::Qkv { gain, weight, cache, layer } => self.qkv(gain as usize, weight as usize, cache, layer as usize),
            Verb::Attend { cache, layer } => self.attend(cache, layer as usize),
            Verb::MatmulAdd { weight } => self.matmul_add(weight as usize),
            Verb::GateUp { gain, weight } => self.gate_up(gain as usize, weight as usize),
            Verb::Logits { gain, head, first, end } => {
                self.logits(gain as usize, head as usize, first as usize..end as usize)
            }
        }
    }

    fn heads(&self, shard: Shard) -> Range<usize> {
        shard.of(self.config.num_heads)
    }

    /// The key/value heads that a rank's query heads read.
    fn kv_heads(&self, shard: Shard) -> Range<usize> {
        let group = self.config.num_heads / self.config.num_kv_heads;
        let heads = self.heads(shard);
        if heads.is_empty() { 0..0 } else { heads.start / group..(heads.end - 1) / group + 1 }
    }

    /// A rank's rows among `rows` that are split by panels.
    fn rows(shard: Shard, rows: usize) -> Range<usize> {
        let panels = shard.of(rows.div_ceil(ROWS));
        (panels.start * ROWS).min(rows)..(panels.end * ROWS).min(rows)
    }

    /// Rows of a matrix that this rank holds.
    fn segments(&self, role: Role, rows: usize) -> Vec<Range<usize>> {
        let own = |rows, offset: usize| {
            let range = Self::rows(self.shard, rows);
            range.start + offset..range.end + offset
        };
        match role {
            Role::Embedding | Role::Head | Role::AttentionOut | Role::Down => vec![own(rows, 0)],
            Role::GateUp => vec![own(rows / 2, 0), own(rows / 2, rows / 2)],
            Role::Qkv => {
                let dim = self.config.head_dim;
                let heads = |range: Range<usize>, offset| range.start * dim + offset..range.end * dim + offset;
                let (width, kv) = (self.config.attention_width(), self.config.kv_width());
                let kv_heads = self.kv_heads(self.shard);
                vec![heads(self.heads(self.shard), 0), heads(kv_heads.clone(), width), heads(kv_heads, width + kv)]
            }
        }
    }

    fn embed(&mut self, table: usize, tokens: &[u32]) -> Result<()> {
        let table = self.matrices.get(table).ok_or_else(unknown)?;
        let (hidden, count) = (self.config.hidden_size, self.shard.count);
        let vocab = self.config.vocab_size;
        let ranges: Vec<_> = (0..count).map(|rank| Self::rows(Shard { rank, count }, vocab)).collect();
        let owner = |id: u32| ranges.iter().position(|range| range.contains(&(id as usize))).ok_or_else(unknown);
        let owners = tokens.iter().map(|id| owner(*id)).collect::<Result<Vec<_>>>()?;
        self.own.clear();
        for (id, _) in tokens.iter().zip(&owners).filter(|(_, owner)| **owner == self.shard.rank) {
            let at = self.own.len();
            self.own.resize(at + hidden, 0.0);
            let segment = table.segments.first().ok_or_else(unknown)?;
            segment.panels.read_row(*id as usize - segment.first, &mut self.own[at..]);
        }
        self.x.resize(tokens.len() * hidden, 0.0);
        if count == 1 {
            self.x.copy_from_slice(&self.own);
        } else {
            let before = owners.iter().filter(|owner| **owner < self.shard.rank).count() * hidden;
            self.gathered.resize(tokens.len() * hidden, 0.0);
            gather(&mut *self.exchange, &self.own, before, &mut self.gathered)?;
            let mut order: Vec<usize> = (0..tokens.len()).collect();
            order.sort_by_key(|token| owners[*token]);
            for (row, token) in self.gathered.chunks_exact(hidden).zip(order) {
                self.x[token * hidden..][..hidden].copy_from_slice(row);
            }
        }
        self.rotation.clear();
        for token in 0..tokens.len() {
            let position = (self.start + token) as f32;
            self.rotation.extend(self.inverse_frequencies.iter().map(|f| (position * f).sin_cos()));
        }
        Ok(())
    }

    /// `input` = RMSNorm of rows of x.
    fn norm(&mut self, gain: usize, rows: Range<usize>) -> Result<()> {
        let gain = self.gains.get(gain).ok_or_else(unknown)?;
        let hidden = self.config.hidden_size;
        let out = self.input.resize(rows.len(), hidden);
        for (x, out) in self.x[rows.start * hidden..].chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
            rms_norm(x, gain, self.config.rms_norm_eps, out);
        }
        self.input.prepare();
        Ok(())
    }

    fn qkv(&mut self, gain: usize, weight: usize, cache: u32, layer: usize) -> Result<()> {
        self.norm(gain, 0..self.tokens)?;
        let weight = self.matrices.get(weight).ok_or_else(unknown)?;
        let cache = self.caches.get_mut(&cache).ok_or_else(unknown)?;
        cache.grow(self.start + self.tokens)?;
        let dim = self.config.head_dim;
        let widths: Vec<usize> = weight.segments.iter().map(|s| s.panels.rows()).collect();
        let &[q_width, kv_width, _] = &widths[..] else { return Ok(()) };
        let stride = q_width + 2 * kv_width;
        self.own.resize(self.tokens * stride, 0.0);
        let mut column = 0;
        for segment in &weight.segments {
            let out = Output { values: &mut self.own, stride, column };
            segment.panels.multiply(&self.input, out, &mut self.scratch);
            column += segment.panels.rows();
        }
        let scale = 1.0 / (dim as f32).sqrt();
        self.q.clear();
        for (token, row) in self.own.chunks_exact_mut(stride).enumerate() {
            let rotation = &self.rotation[token * dim / 2..][..dim / 2];
            for head in row[..q_width + kv_width].chunks_exact_mut(dim) {
                rotate(head, rotation);
            }
            self.q.extend(row[..q_width].iter().map(|q| q * scale));
            let (keys, values) = row[q_width..].split_at(kv_width);
            for (head, (key, value)) in keys.chunks_exact(dim).zip(values.chunks_exact(dim)).enumerate() {
                cache.write(layer, head, self.start + token, key, value);
            }
        }
        Ok(())
    }

    fn attend(&mut self, cache: u32, layer: usize) -> Result<()> {
        let cache = self.caches.get(&cache).ok_or_else(unknown)?;
        let (dim, heads) = (self.config.head_dim, self.heads(self.shard));
        let group = self.config.num_heads / self.config.num_kv_heads;
        let own = heads.len() * dim;
        self.own.resize(self.tokens * own, 0.0);
        if own > 0 {
            for (token, (q, out)) in self.q.chunks_exact(own).zip(self.own.chunks_exact_mut(own)).enumerate() {
                let mut head = heads.start;
                while head < heads.end {
                    let kv = head / group;
                    let end = heads.end.min((kv + 1) * group);
                    let range = (head - heads.start) * dim..(end - heads.start) * dim;
                    let context = self.start + token + 1;
                    let kv = kv - heads.start / group;
                    cache.attend(layer, kv, context, &q[range.clone()], &mut self.attention_scratch, &mut out[range]);
                    head = end;
                }
            }
        }
        let out = self.input.resize(self.tokens, self.config.attention_width());
        let split = |shard: Shard| {
            let heads = shard.of(self.config.num_heads);
            heads.start * dim..heads.end * dim
        };
        join(&mut *self.exchange, self.shard, split, &self.own, &mut self.gathered, out, self.tokens)?;
        self.input.prepare();
        Ok(())
    }

    fn matmul_add(&mut self, weight: usize) -> Result<()> {
        let weight = self.matrices.get(weight).ok_or_else(unknown)?;
        let hidden = self.config.hidden_size;
        product(weight, 0, &self.input, &mut self.own, &mut self.scratch);
        self.second.resize(self.tokens * hidden, 0.0);
        let split = |shard| Self::rows(shard, hidden);
        join(&mut *self.exchange, self.shard, split, &self.own, &mut self.gathered, &mut self.second, self.tokens)?;
        self.x.iter_mut().zip(&self.second).for_each(|(x, y)| *x += y);
        Ok(())
    }

    fn gate_up(&mut self, gain: usize, weight: usize) -> Result<()> {
        self.norm(gain, 0..self.tokens)?;
        let weight = self.matrices.get(weight).ok_or_else(unknown)?;
        product(weight, 0, &self.input, &mut self.own, &mut self.scratch);
        product(weight, 1, &self.input, &mut self.second, &mut self.scratch);
        silu_mul(&mut self.own, &self.second);
        let width = self.config.intermediate_size;
        let out = self.input.resize(self.tokens, width);
        let split = |shard| Self::rows(shard, width);
        join(&mut *self.exchange, self.shard, split, &self.own, &mut self.gathered, out, self.tokens)?;
        self.input.prepare();
        Ok(())
    }

    fn logits(&mut self, gain: usize, head: usize, rows: Range<usize>) -> Result<()> {
        let count = rows.len();
        self.norm(gain, rows)?;
        let head = self.matrices.get(head).ok_or_else(unknown)?;
        product(head, 0, &self.input, &mut self.own, &mut self.scratch);
        let vocab = self.config.vocab_size;
        self.logits.resize(count * vocab, 0.0);
        let own = Self::rows(self.shard, vocab);
        // Row by row: a gathering need not hold more than one row of logits.
        for (token, logits) in self.logits.chunks_exact_mut(vocab).enumerate() {
            let part = &self.own[token * own.len()..][..own.len()];
            gather(&mut *self.exchange, part, own.start, logits)?;
        }
        Ok(())
    }
}

/// out (tokens, rows) = one segment's product; empty where the rank has no such rows.
fn product(weight: &Matrix, segment: usize, input: &Inputs, out: &mut Vec<f32>, scratch: &mut Scratch) {
    let Some(Segment { panels, .. }) = weight.segments.get(segment) else {
        out.clear();
        return;
    };
    out.resize(input.tokens() * panels.rows(), 0.0);
    panels.multiply(input, Output { values: out, stride: panels.rows(), column: 0 }, scratch);
}

fn gather(exchange: &mut dyn Exchange, own: &[f32], offset: usize, all: &mut [f32]) -> Result<()> {
    exchange.all_gather(bytemuck::cast_slice(own), offset, bytemuck::cast_slice_mut(all))
}

/// out (tokens, width) from every rank's (tokens, own columns); `split` says which columns are whose.
fn join(
    exchange: &mut dyn Exchange,
    shard: Shard,
    split: impl Fn(Shard) -> Range<usize>,
    own: &[f32],
    gathered: &mut Vec<f32>,
    out: &mut [f32],
    tokens: usize,
) -> Result<()> {
    if tokens == 1 || shard.count == 1 {
        return gather(exchange, own, split(shard).start, out);
    }
    gathered.resize(out.len(), 0.0);
    gather(exchange, own, split(shard).start * tokens, gathered)?;
    let width = out.len() / tokens;
    for rank in 0..shard.count {
        let columns = split(Shard { rank, ..shard });
        if columns.is_empty() {
            continue;
        }
        let part = &gathered[columns.start * tokens..columns.end * tokens];
        for (out, part) in out.chunks_exact_mut(width).zip(part.chunks_exact(columns.len())) {
            out[columns.clone()].copy_from_slice(part);
        }
    }
    Ok(())
}

/// Rotates the pairs (j, j + head_dim/2) of one head; `rotation` holds (sin, cos) of each.
fn rotate(head: &mut [f32], rotation: &[(f32, f32)]) {
    let (low, high) = head.split_at_mut(rotation.len());
    for ((a, b), (sin, cos)) in low.iter_mut().zip(high).zip(rotation) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

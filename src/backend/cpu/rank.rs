//! One thread's share of a model: its rows of every matrix, its heads, and the verbs on them.
//!
//! | split | rank's share | gathered |
//! | --- | --- | --- |
//! | `embed`, `logits` | rows of the vocabulary | x; logits |
//! | `qkv`, `attend` | query heads, and the key/value heads that they read | a |
//! | `gate_up` | gate and up rows of the same index | f |
//! | `matmul_add` | rows | x |

use super::Cpu;
use super::attention::{Cache, new_cache};
use super::command::{Command, Verb};
use super::lanes::{F4, madd};
use super::math::{rms_norm, silu_mul};
use super::panels::{Inputs, Output, Panels, ROWS, Scratch};
use super::team::{Exchange, Shard};
use crate::backend::{Precision, Role};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::rope::Rope;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// A run of a matrix's rows.
struct Part {
    /// First row that is held.
    first: usize,
    panels: Panels,
    /// Rows that this rank computes: all that are held, but where the leader holds every row and shares the work.
    own: Range<usize>,
}

impl Part {
    /// `own`, counted from the first row that is held.
    fn own_rows(&self) -> Range<usize> {
        self.own.start - self.first..self.own.end - self.first
    }

    /// Appends the panels of some rows, as they are held.
    fn export(&self, rows: Range<usize>, words: &mut Vec<u32>) {
        let panels = (rows.start - self.first) / ROWS..(rows.end - self.first).div_ceil(ROWS);
        panels.for_each(|panel| self.panels.export(panel, words));
    }
}

/// The rows of a matrix that this rank holds: none, or a run in each part (query, key and value rows; gate and up rows).
struct Matrix {
    role: Role,
    rows: usize,
    cols: usize,
    parts: Vec<Part>,
}

impl Matrix {
    fn panel_words(&self) -> usize {
        // Every matrix has a part, and all parts are held alike.
        self.parts.first().map_or(1, |part| part.panels.panel_words())
    }
}

pub struct Rank {
    config: Config,
    pub precision: Precision,
    /// This rank's place among all.
    team: Shard,
    /// What it computes now: its share, or, where the leader is alone, everything.
    shard: Shard,
    /// Whether every row of every matrix is held here.
    whole: bool,
    pub exchange: Box<dyn Exchange>,
    matrices: Vec<Matrix>,
    gains: Vec<Vec<f32>>,
    caches: HashMap<u32, Box<dyn Cache>>,
    rope: Rope,
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
    /// Of [`Rank::make_room`].
    room: VecDeque<Vec<Panels>>,
    probe: Vec<f32>,
}

fn unknown() -> Error {
    Error::internal("a command names what was never made")
}

impl Rank {
    pub fn new(config: &Config, precision: Precision, shard: Shard, exchange: Box<dyn Exchange>) -> Self {
        Rank {
            rope: config.rope(),
            config: config.clone(),
            precision,
            team: shard,
            shard,
            whole: shard == Shard::ALL,
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
            room: VecDeque::new(),
            probe: vec![1.0; 4096],
        }
    }

    /// Whether there is no other rank, or none that computes now.
    pub fn alone(&self) -> bool {
        self.shard.count == 1
    }

    /// Ranks there are.
    pub fn count(&self) -> usize {
        self.team.count
    }

    /// Whether [`part`](Self::part) is possible without `Command::Collect`.
    pub fn whole(&self) -> bool {
        self.whole
    }

    /// Whether rows can be handed over: where heads are whole panels.
    pub fn divisible(&self) -> bool {
        self.config.head_dim.is_multiple_of(ROWS)
    }

    /// The leader computes everything from now on; it holds all weights, or there are none yet.
    pub fn part(&mut self) {
        self.whole = true;
        self.divide(Shard::ALL);
    }

    /// The leader computes its share from now on.
    pub fn join(&mut self) {
        self.divide(self.team);
    }

    fn divide(&mut self, shard: Shard) {
        self.shard = shard;
        for matrix in &mut self.matrices {
            let ranges = ranges(&self.config, shard, matrix.role, matrix.rows);
            matrix.parts.iter_mut().zip(ranges).for_each(|(part, own)| part.own = own);
        }
    }

    /// Room for every row of every matrix, which `Command::Collect` then fills, one after the other.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; nothing has changed then.
    pub fn make_room(&mut self) -> Result<()> {
        let (config, precision) = (&self.config, self.precision);
        let room = |matrix: &Matrix| {
            let all = ranges(config, Shard::ALL, matrix.role, matrix.rows);
            let packing = matrix.role.packing(precision);
            all.into_iter().map(|range| Panels::new(range.len(), matrix.cols, packing)).collect()
        };
        self.room = self.matrices.iter().map(room).collect::<Result<_>>()?;
        Ok(())
    }

    /// What another rank computes of a matrix, in pieces that fit into a message: (part, first row, panels as they are held).
    pub fn export(&self, matrix: u32, rank: usize) -> impl Iterator<Item = (usize, usize, Vec<u32>)> {
        let matrix = self.matrices.get(matrix as usize);
        let pieces = matrix.map(|matrix| pieces(&self.config, matrix, Shard { rank, ..self.team }));
        matrix.into_iter().zip(pieces).flat_map(|(matrix, pieces)| {
            pieces.into_iter().map(|(part, rows)| {
                let mut words = Vec::new();
                matrix.parts[part].export(rows.clone(), &mut words);
                (part, rows.start, words)
            })
        })
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
                let part = |own: Range<usize>| {
                    Ok(Part { first: own.start, panels: Panels::new(own.len(), cols, packing)?, own })
                };
                let ranges = ranges(&self.config, self.shard, role, rows);
                let parts = ranges.into_iter().map(part).collect::<Result<_>>()?;
                self.matrices.push(Matrix { role, rows, cols, parts });
            }
            Command::WriteRows { matrix, first, packing, words } => {
                let matrix = self.matrices.get_mut(matrix as usize).ok_or_else(unknown)?;
                let width = packing.row_bytes(matrix.cols);
                let bytes: &[u8] = bytemuck::cast_slice(words);
                for part in &mut matrix.parts {
                    let start = first.max(part.first);
                    let end = (first + bytes.len() / width).min(part.first + part.panels.rows());
                    if start < end {
                        let rows = &bytes[(start - first) * width..(end - first) * width];
                        part.panels.write_rows(start - part.first, packing, rows)?;
                    }
                }
            }
            Command::Gain { words } => self.gains.push(words.iter().map(|w| f32::from_bits(*w)).collect()),
            Command::Cache { cache: id, layers } => {
                // The leader has room for what it may compute alone one day.
                let heads = kv_heads(&self.config, if self.team.rank == 0 { Shard::ALL } else { self.team }).len();
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
            Command::Collect { matrix } => self.collect(matrix as usize)?,
            Command::Panels { matrix, part, first, words } => {
                let matrix = self.matrices.get_mut(matrix as usize).ok_or_else(unknown)?;
                let Some(part) = matrix.parts.get_mut(part).filter(|_| self.team.rank > 0) else { return Ok(()) };
                for (i, words) in words.chunks_exact(part.panels.panel_words()).enumerate() {
                    let row = first + i * ROWS;
                    if part.own.contains(&row) {
                        part.panels.import((row - part.first) / ROWS, words);
                    }
                }
            }
            Command::Sync { cache, from, to, up } => self.sync(cache, from..to, up)?,
            Command::Probe { units } => {
                self.work(units);
                let own = [self.probe[0].to_bits()];
                self.gathered.resize(self.team.count, 0.0);
                let all: &mut [u32] = bytemuck::cast_slice_mut(&mut self.gathered);
                self.exchange.all_gather(&own, self.team.rank, all)?;
            }
            Command::Quit => {}
        }
        Ok(())
    }

    /// What products do, some microseconds a unit, for nothing.
    pub fn work(&mut self, units: u32) {
        for _ in 0..units {
            for four in std::hint::black_box(&mut self.probe[..]).as_chunks_mut::<4>().0 {
                madd(F4::load(four), F4::splat(0.5), F4::splat(0.5)).store(four);
            }
        }
    }

    /// Every rank hands its rows of a matrix to the leader, which holds all of them from then on.
    fn collect(&mut self, index: usize) -> Result<()> {
        let matrix = self.matrices.get_mut(index).ok_or_else(unknown)?;
        let all = ranges(&self.config, Shard::ALL, matrix.role, matrix.rows);
        let mut room = if self.team.rank == 0 { self.room.pop_front().ok_or_else(unknown)? } else { Vec::new() };
        let (mut words, mut received) = (Vec::new(), Vec::new());
        for rank in 0..self.team.count {
            for (part, rows) in pieces(&self.config, matrix, Shard { rank, ..self.team }) {
                words.clear();
                if rank == self.team.rank {
                    matrix.parts[part].export(rows.clone(), &mut words);
                }
                if rank > 0 {
                    received.resize(rows.len().div_ceil(ROWS) * matrix.panel_words(), 0);
                    self.exchange.all_gather(&words, 0, &mut received)?;
                }
                if let Some(panels) = room.get_mut(part) {
                    panels.import((rows.start - all[part].start) / ROWS, if rank > 0 { &received } else { &words });
                }
            }
        }
        for ((part, panels), range) in matrix.parts.iter_mut().zip(room).zip(all) {
            (part.first, part.panels) = (range.start, panels);
        }
        Ok(())
    }

    /// Keys and values of some positions, from each rank to the leader (`up`) or from the leader to each.
    fn sync(&mut self, cache: u32, positions: Range<usize>, up: bool) -> Result<()> {
        let cache = self.caches.get_mut(&cache).ok_or_else(unknown)?;
        cache.grow(positions.end)?;
        let (layers, dim) = (cache.layers(), self.config.head_dim);
        let base = if self.team.rank == 0 { 0 } else { kv_heads(&self.config, self.team).start };
        for rank in 1..self.team.count {
            let heads = kv_heads(&self.config, Shard { rank, ..self.team });
            let size = layers * heads.len() * 2 * dim;
            if size == 0 {
                continue;
            }
            let (sender, receiver) = if up { (rank, 0) } else { (0, rank) };
            let step = (message_words(&self.config) / size).max(1);
            for start in positions.clone().step_by(step) {
                let some = start..positions.end.min(start + step);
                let places = || {
                    let heads = |layer| heads.clone().map(move |head| (layer, head - base));
                    some.clone().flat_map(move |position| {
                        (0..layers).flat_map(heads).map(move |(layer, head)| (position, layer, head))
                    })
                };
                self.own.resize(if self.team.rank == sender { some.len() * size } else { 0 }, 0.0);
                for (pair, (position, layer, head)) in self.own.chunks_exact_mut(2 * dim).zip(places()) {
                    let (key, value) = pair.split_at_mut(dim);
                    cache.read(layer, head, position, key, value);
                }
                self.gathered.resize(some.len() * size, 0.0);
                gather(&mut *self.exchange, self.team, &self.own, 0, &mut self.gathered)?;
                if self.team.rank == receiver {
                    for (pair, (position, layer, head)) in self.gathered.chunks_exact(2 * dim).zip(places()) {
                        let (key, value) = pair.split_at(dim);
                        cache.write(layer, head, position, key, value);
                    }
                }
            }
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

    fn heads(&self) -> Range<usize> {
        self.shard.of(self.config.num_heads)
    }

    fn embed(&mut self, table: usize, tokens: &[u32]) -> Result<()> {
        let table = self.matrices.get(table).ok_or_else(unknown)?;
        let (hidden, count) = (self.config.hidden_size, self.shard.count);
        let vocab = self.config.vocab_size;
        let ranges: Vec<_> = (0..count).map(|rank| split_rows(Shard { rank, count }, vocab)).collect();
        let owner = |id: u32| ranges.iter().position(|range| range.contains(&(id as usize))).ok_or_else(unknown);
        let owners = tokens.iter().map(|id| owner(*id)).collect::<Result<Vec<_>>>()?;
        self.own.clear();
        for (id, _) in tokens.iter().zip(&owners).filter(|(_, owner)| **owner == self.shard.rank) {
            let at = self.own.len();
            self.own.resize(at + hidden, 0.0);
            let part = table.parts.first().ok_or_else(unknown)?;
            part.panels.read_row(*id as usize - part.first, &mut self.own[at..]);
        }
        self.x.resize(tokens.len() * hidden, 0.0);
        if count == 1 {
            self.x.copy_from_slice(&self.own);
        } else {
            let before = owners.iter().filter(|owner| **owner < self.shard.rank).count() * hidden;
            self.gathered.resize(tokens.len() * hidden, 0.0);
            gather(&mut *self.exchange, self.shard, &self.own, before, &mut self.gathered)?;
            let mut order: Vec<usize> = (0..tokens.len()).collect();
            order.sort_by_key(|token| owners[*token]);
            for (row, token) in self.gathered.chunks_exact(hidden).zip(order) {
                self.x[token * hidden..][..hidden].copy_from_slice(row);
            }
        }
        self.rotation.clear();
        for token in 0..tokens.len() {
            self.rotation.extend(self.rope.rotation(self.start + token));
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
        let [q, k, _] = &weight.parts[..] else { return Err(unknown()) };
        let (q_width, kv_width) = (q.own.len(), k.own.len());
        self.q.clear();
        if q_width == 0 {
            return Ok(());
        }
        let stride = q_width + 2 * kv_width;
        self.own.resize(self.tokens * stride, 0.0);
        let mut column = 0;
        for part in &weight.parts {
            let out = Output { values: &mut self.own, stride, column };
            part.panels.multiply(part.own_rows(), &self.input, out, &mut self.scratch);
            column += part.own.len();
        }
        let scale = 1.0 / (dim as f32).sqrt();
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
        let (dim, heads) = (self.config.head_dim, self.heads());
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
        let split = |shard| split_rows(shard, hidden);
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
        let split = |shard| split_rows(shard, width);
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
        let own = split_rows(self.shard, vocab);
        // Row by row: a gathering need not hold more than one row of logits.
        for (token, logits) in self.logits.chunks_exact_mut(vocab).enumerate() {
            let part = &self.own[token * own.len()..][..own.len()];
            gather(&mut *self.exchange, self.shard, part, own.start, logits)?;
        }
        Ok(())
    }
}

/// out (tokens, rows) = the product of what this rank computes of a part.
fn product(weight: &Matrix, part: usize, input: &Inputs, out: &mut Vec<f32>, scratch: &mut Scratch) {
    let part = &weight.parts[part];
    out.resize(input.tokens() * part.own.len(), 0.0);
    let output = Output { values: out, stride: part.own.len(), column: 0 };
    part.panels.multiply(part.own_rows(), input, output, scratch);
}

/// The key/value heads that a rank's query heads read.
fn kv_heads(config: &Config, shard: Shard) -> Range<usize> {
    let group = config.num_heads / config.num_kv_heads;
    let heads = shard.of(config.num_heads);
    if heads.is_empty() { 0..0 } else { heads.start / group..(heads.end - 1) / group + 1 }
}

/// A rank's rows among `rows` that are split by panels.
fn split_rows(shard: Shard, rows: usize) -> Range<usize> {
    let panels = shard.of(rows.div_ceil(ROWS));
    (panels.start * ROWS).min(rows)..(panels.end * ROWS).min(rows)
}

/// (parts, rows) of a matrix that a rank computes.
fn ranges(config: &Config, shard: Shard, role: Role, all: usize) -> Vec<Range<usize>> {
    match role {
        Role::Embedding | Role::Head | Role::AttentionOut | Role::Down => vec![split_rows(shard, all)],
        Role::GateUp => {
            let gate = split_rows(shard, all / 2);
            vec![gate.clone(), gate.start + all / 2..gate.end + all / 2]
        }
        Role::Qkv => {
            let dim = config.head_dim;
            let heads = |range: Range<usize>, offset| range.start * dim + offset..range.end * dim + offset;
            let (width, kv) = (config.attention_width(), config.kv_width());
            let kv_heads = kv_heads(config, shard);
            vec![heads(shard.of(config.num_heads), 0), heads(kv_heads.clone(), width), heads(kv_heads, width + kv)]
        }
    }
}

/// Words that one message carries besides its header.
fn message_words(config: &Config) -> usize {
    Cpu::exchange_words(config) - Command::HEADER
}

/// What a rank computes of a matrix, in runs of rows whose panels fit into a message: (part, rows).
fn pieces(config: &Config, matrix: &Matrix, shard: Shard) -> Vec<(usize, Range<usize>)> {
    let step = (message_words(config) / matrix.panel_words()).max(1) * ROWS;
    let ranges = ranges(config, shard, matrix.role, matrix.rows).into_iter().enumerate();
    ranges
        .flat_map(|(part, rows)| rows.clone().step_by(step).map(move |row| (part, row..rows.end.min(row + step))))
        .collect()
}

fn gather(exchange: &mut dyn Exchange, shard: Shard, own: &[f32], offset: usize, all: &mut [f32]) -> Result<()> {
    if shard.count == 1 {
        all[offset..offset + own.len()].copy_from_slice(own);
        return Ok(());
    }
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
        return gather(exchange, shard, own, split(shard).start, out);
    }
    gathered.resize(out.len(), 0.0);
    gather(exchange, shard, own, split(shard).start * tokens, gathered)?;
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

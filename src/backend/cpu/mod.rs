//! The verbs on the CPU.
//!
//! ```text
//! Cpu (Backend): records verbs --submit--> Command --team--> every Rank: verbs on its rows
//! Rank: panels (products), attention (KV cache), math; all written in lanes
//! ```
//! [`naive`] is the oracle.

mod attention;
mod command;
mod lanes;
mod math;
pub mod naive;
mod panels;
mod rank;
mod team;

pub use rank::Rank;
#[cfg(not(target_arch = "wasm32"))]
pub use team::Threads;
pub use team::{Exchange, Shard, Solo};

use crate::backend::sampler::{Sampler, Sampling};
use crate::backend::{Activation, Backend, Input, Packing, Precision, Role};
use crate::bytes::Bytes;
use crate::config::Config;
use crate::error::{Error, Result};
use command::{Command, Verb, VerbWords};
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Most rows of one pass: enough that widening a tile of weights costs little beside using it, few enough that an
/// abort acts soon.
const MAX_ROWS: usize = 64;

/// Words of weights that go to the team at a time.
const PIECE: usize = 1 << 18;

/// The CPU backend. It leads the other ranks, where there are any.
pub struct Cpu {
    config: Config,
    rank: Rank,
    matrices: u32,
    gains: u32,
    caches: u32,
    /// Caches whose last owner is gone.
    dropped: Rc<RefCell<Vec<u32>>>,
    start: usize,
    tokens: Vec<u32>,
    verbs: Vec<VerbWords>,
    message: Vec<u32>,
    sampler: Sampler,
    chosen: u32,
}

/// A matrix's number, and its columns.
pub struct Matrix {
    number: u32,
    cols: usize,
}

/// A gain's number.
pub struct Gain(u32);

/// A cache's number; dropping it frees every rank's share at the next command.
pub struct Cache {
    number: u32,
    layers: usize,
    capacity: usize,
    dropped: Rc<RefCell<Vec<u32>>>,
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.dropped.borrow_mut().push(self.number);
    }
}

impl Cpu {
    /// One thread.
    pub fn new(config: &Config, precision: Precision) -> Self {
        Self::lead(config, precision, Shard::ALL, Box::new(Solo))
    }

    /// The leader, rank 0, of as many ranks as `shard` says. Each of the others is a [`Rank`] that follows.
    pub fn lead(config: &Config, precision: Precision, shard: Shard, exchange: Box<dyn Exchange>) -> Self {
        Cpu {
            rank: Rank::new(config, precision, shard, exchange),
            config: config.clone(),
            matrices: 0,
            gains: 0,
            caches: 0,
            dropped: Rc::default(),
            start: 0,
            tokens: Vec::new(),
            verbs: Vec::new(),
            message: Vec::new(),
            sampler: Sampler::new(&Sampling::default(), config.vocab_size, &[], &[]),
            chosen: 0,
        }
    }

    /// The leader of `count` threads of this process. The others end with it.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn with_threads(config: &Config, precision: Precision, count: usize) -> Self {
        let mut team = Threads::team(count).into_iter().enumerate();
        let leader = team.next().map_or(Box::new(Solo) as Box<dyn Exchange>, |(_, exchange)| Box::new(exchange));
        for (rank, exchange) in team {
            let config = config.clone();
            // A follower's failure is told to the leader, whose next command returns it.
            let shard = Shard { rank, count };
            std::thread::spawn(move || Rank::new(&config, precision, shard, Box::new(exchange)).follow());
        }
        Self::lead(config, precision, Shard { rank: 0, count }, leader)
    }

    /// Words that an [`Exchange`] must be able to carry for this model.
    pub fn exchange_words(config: &Config) -> usize {
        let widest = config.hidden_size.max(config.intermediate_size).max(config.attention_width());
        (MAX_ROWS * widest).max(config.vocab_size).max(PIECE + widest) + Command::HEADER
    }

    /// What the kernels are compiled to: `scalar`, `simd128` or `relaxed-simd`.
    pub fn lanes() -> &'static str {
        lanes::NAME
    }

    fn command(&mut self, command: Command) -> Result<()> {
        for cache in self.dropped.take() {
            self.tell(Command::Drop { cache })?;
        }
        self.tell(command)
    }

    fn tell(&mut self, command: Command) -> Result<()> {
        if !self.rank.alone() {
            command.encode(&mut self.message);
            self.rank.exchange.send(&self.message)?;
        }
        self.rank.run(command)
    }

    fn next_cache(&mut self, layers: usize, capacity: usize) -> Cache {
        self.caches += 1;
        Cache { number: self.caches, layers, capacity, dropped: self.dropped.clone() }
    }

    fn record(&mut self, verb: Verb) -> Result<()> {
        self.verbs.push(verb.encode());
        Ok(())
    }
}

impl Drop for Cpu {
    fn drop(&mut self) {
        // Followers that are gone already need no message.
        let _ = self.tell(Command::Quit);
    }
}

/// Room for `count` values, or an error where memory ends.
fn reserved<T>(count: usize, what: &str) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let bytes = (count * size_of::<T>()) as u64;
    values.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { what: what.into(), bytes })?;
    Ok(values)
}

/// Part `number` of those of `size` values; `values` are filled up with `value` to its end, no sooner than that is needed: filling
/// everything first would cost a load another pass through memory.
fn fill_up<T: Clone>(values: &mut Vec<T>, number: usize, size: usize, value: T) -> &mut [T] {
    let end = (number + 1) * size;
    if values.len() < end {
        values.resize(end, value);
    }
    &mut values[end - size..end]
}

impl Backend for Cpu {
    type Matrix = Matrix;
    type Gain = Gain;
    type Cache = Cache;
    type Ticket = u32;

    fn precision(&self) -> Precision {
        self.rank.precision
    }

    fn new_matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<Matrix> {
        self.command(Command::Matrix { role, rows, cols })?;
        self.matrices += 1;
        Ok(Matrix { number: self.matrices - 1, cols })
    }

    fn write_rows(
        &mut self,
        matrix: &mut Matrix,
        first: usize,
        packing: Packing,
        bytes: &dyn Bytes,
        range: Range<usize>,
    ) -> Result<()> {
        let row_bytes = packing.row_bytes(matrix.cols);
        // Whole panels, where rows are not too long for that.
        let step = (4 * PIECE / row_bytes / panels::ROWS * panels::ROWS).max(1) * row_bytes;
        let mut words = vec![0u32; step.min(range.len()).div_ceil(4)];
        for start in range.clone().step_by(step) {
            let length = step.min(range.end - start);
            let words = &mut words[..length.div_ceil(4)];
            bytes.read(start, &mut bytemuck::cast_slice_mut(words)[..length]);
            let first = first + (start - range.start) / row_bytes;
            self.command(Command::WriteRows { matrix: matrix.number, first, packing, words })?;
        }
        Ok(())
    }

    fn new_gain(&mut self, values: &[f32]) -> Result<Gain> {
        self.command(Command::Gain { words: bytemuck::cast_slice(values) })?;
        self.gains += 1;
        Ok(Gain(self.gains - 1))
    }

    fn new_cache(&mut self, layers: usize, capacity: usize) -> Result<Cache> {
        let cache = self.next_cache(layers, capacity);
        self.command(Command::Cache { cache: cache.number, layers })?;
        Ok(cache)
    }

    fn fork(&mut self, from: &Cache, len: usize) -> Result<Cache> {
        let cache = self.next_cache(from.layers, from.capacity);
        self.command(Command::Fork { cache: cache.number, from: from.number, len })?;
        Ok(cache)
    }

    fn max_rows(&self) -> usize {
        MAX_ROWS
    }

    fn embed(&mut self, table: &Matrix, input: Input, start: usize) -> Result<()> {
        self.start = start;
        self.tokens.clear();
        match input {
            Input::Tokens(ids) => self.tokens.extend_from_slice(ids),
            Input::Chosen => self.tokens.push(self.chosen),
        }
        self.verbs.clear();
        self.record(Verb::Embed { table: table.number })
    }

    fn qkv(&mut self, gain: &Gain, weight: &Matrix, cache: &mut Cache, layer: usize) -> Result<()> {
        if self.start + self.tokens.len() > cache.capacity {
            let tokens = self.start + self.tokens.len();
            return Err(Error::ContextOverflow { tokens, capacity: cache.capacity });
        }
        self.record(Verb::Qkv { gain: gain.0, weight: weight.number, cache: cache.number, layer: layer as u32 })
    }

    fn attend(&mut self, cache: &Cache, layer: usize) -> Result<()> {
        self.record(Verb::Attend { cache: cache.number, layer: layer as u32 })
    }

    fn matmul_add(&mut self, weight: &Matrix, _: Activation) -> Result<()> {
        // Either activation is what the ranks computed last.
        self.record(Verb::MatmulAdd { weight: weight.number })
    }

    fn gate_up(&mut self, gain: &Gain, weight: &Matrix) -> Result<()> {
        self.record(Verb::GateUp { gain: gain.0, weight: weight.number })
    }

    fn logits(&mut self, gain: &Gain, head: &Matrix, rows: Range<usize>) -> Result<()> {
        self.record(Verb::Logits { gain: gain.0, head: head.number, first: rows.start as u32, end: rows.end as u32 })
    }

    fn submit(&mut self) -> Result<()> {
        let (tokens, verbs) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.verbs));
        let result = self.command(Command::Pass { start: self.start, tokens: &tokens, verbs: &verbs });
        (self.tokens, self.verbs) = (tokens, verbs);
        result
    }

    async fn read_logits(&mut self) -> Result<Vec<f32>> {
        Ok(self.rank.logits.clone())
    }

    fn begin_sampling(&mut self, sampling: &Sampling, prompt: &[u32], answer: &[u32]) -> Result<()> {
        self.sampler = Sampler::new(sampling, self.config.vocab_size, prompt, answer);
        Ok(())
    }

    fn choose(&mut self, uniform: f32) -> Result<u32> {
        self.chosen = self.sampler.choose(&self.rank.logits, uniform);
        Ok(self.chosen)
    }

    async fn chosen(&mut self, ticket: u32) -> Result<u32> {
        Ok(ticket)
    }

    fn in_flight(&self) -> usize {
        1
    }
}

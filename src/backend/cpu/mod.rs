//! The verbs on the CPU.
//!
//! ```text
//! Cpu (Backend): records verbs --submit--> Command --team--> every Rank: verbs on its rows
//! Rank: panels (products), attention (KV cache), math; all written in lanes
//! balance: whether all ranks together are faster than the leader alone, by the clock
//! ```
//! [`naive`] is the oracle.

mod attention;
mod balance;
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
use balance::{Balance, GAIN, Stretch};
use command::{Command, Verb, VerbWords};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use web_time::Instant;

/// Most rows of one pass: enough that widening a tile of weights costs little beside using it, few enough that an
/// abort acts soon.
const MAX_ROWS: usize = 64;

/// Words of weights that go to the team at a time.
const PIECE: usize = 1 << 18;

/// Stretches in which it is measured whether several threads pay: long enough to meet whatever else wants the cores, which the system
/// lets run for some milliseconds at a time. The first good one decides.
const STRETCH: Duration = Duration::from_millis(10);
/// Work between two meetings of a stretch: several times what a meeting takes in code that is not compiled yet.
const ROUND: Duration = Duration::from_micros(250);
/// Stretches at load, while the browser still compiles what they run.
const TRIAL: usize = 5;
/// While an answer is under way.
const RETRIAL: usize = 1;

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
    balance: Balance,
    /// Whether there are other ranks that answer.
    others: bool,
    /// Whether they hold weights; not where the leader was alone from the start.
    given: bool,
    /// Positions of each cache.
    progress: HashMap<u32, Progress>,
    /// The cache that the pass under way writes.
    writes: Option<u32>,
    /// Whether the others were sent a [`Command::Probe`] that the leader has not run.
    called: bool,
    /// Why so many threads compute.
    why: String,
}

/// Positions of a cache.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// Written, by whoever computed them.
    written: usize,
    /// Of these, known to every rank as far as its heads go, and to the leader for all heads.
    shared: usize,
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
            balance: Balance::new(shard.count, Instant::now()),
            others: shard.count > 1,
            given: true,
            progress: HashMap::new(),
            writes: None,
            called: false,
            why: String::new(),
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
            self.progress.remove(&cache);
            self.tell(Command::Drop { cache })?;
        }
        self.tell(command)
    }

    fn tell(&mut self, command: Command) -> Result<()> {
        // Alone, the leader computes for itself; what there is, every rank knows.
        let shared = !matches!(command, Command::Pass { .. } | Command::WriteRows { .. });
        if self.called && shared {
            self.called = false;
            self.run(Command::Probe { units: 1 })?;
        }
        if self.others && (shared || !self.rank.alone()) {
            command.encode(&mut self.message);
            if let Err(error) = self.rank.exchange.send(&self.message) {
                if !self.rank.alone() {
                    return Err(error);
                }
                self.others = false;
            }
        }
        self.run(command)
    }

    /// The leader's part of a command. Where it is alone, a failure of the others does not stop it: it does without them from then on.
    fn run(&mut self, command: Command) -> Result<()> {
        let meets = matches!(command, Command::Probe { .. } | Command::Sync { .. });
        if meets && !self.others {
            return Ok(());
        }
        match self.rank.run(command) {
            Err(_) if meets && self.rank.alone() => {
                self.others = false;
                Ok(())
            }
            result => result,
        }
    }

    /// Before the weights come: measures how fast all ranks are together. Of two that lose, one sleeps and the leader
    /// begins alone. Returns false where half as many would be faster.
    ///
    /// # Errors
    /// [`Error::Threads`] if another rank failed.
    pub fn settle(&mut self) -> Result<bool> {
        if !self.others || self.matrices > 0 || !self.rank.divisible() {
            return Ok(true);
        }
        // The first wakes them up.
        self.tell(Command::Probe { units: 1 })?;
        let count = self.rank.count();
        let enough = GAIN.max(0.45 * count as f64);
        let speedup = self.probe(TRIAL, enough)?;
        let times = format!("{speedup:.1} times as fast as one");
        if speedup >= enough {
            self.why = format!("{count} CPU threads: {times}");
            return Ok(true);
        }
        if count > 2 {
            return Ok(false);
        }
        self.part()?;
        self.balance.begin_alone(Instant::now());
        self.why = format!("one CPU thread at first: two were {times}");
        Ok(true)
    }

    /// Threads that compute now.
    pub fn threads(&self) -> usize {
        if self.rank.alone() { 1 } else { self.rank.count() }
    }

    /// Why, in a phrase; empty where there was no choice.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Lets the leader go on alone, with the same results. For what measures or tests; [`Backend::submit`] does it by the clock.
    pub fn part(&mut self) -> Result<()> {
        if !self.others || self.rank.alone() || !self.rank.divisible() {
            return Ok(());
        }
        if self.matrices == 0 {
            self.given = false;
        } else if !self.rank.whole() {
            if self.rank.make_room().is_err() {
                // There is no memory for it: together they stay.
                self.balance.join(Instant::now());
                return Ok(());
            }
            (0..self.matrices).try_for_each(|matrix| self.tell(Command::Collect { matrix }))?;
        }
        self.sync(true)?;
        self.rank.part();
        self.balance.part(Instant::now());
        Ok(())
    }

    /// Lets all ranks compute again.
    pub fn join(&mut self) -> Result<()> {
        if !self.others || !self.rank.alone() {
            return Ok(());
        }
        if !self.given {
            for matrix in 0..self.matrices {
                for rank in 1..self.rank.count() {
                    let pieces: Vec<_> = self.rank.export(matrix, rank).collect();
                    for (part, first, words) in pieces {
                        self.tell(Command::Panels { matrix, part, first, words: &words })?;
                    }
                }
            }
            self.given = true;
        }
        self.sync(false)?;
        if !self.others {
            return Ok(());
        }
        self.rank.join();
        self.balance.join(Instant::now());
        Ok(())
    }

    /// Hands over the keys and values that one side has not seen.
    fn sync(&mut self, up: bool) -> Result<()> {
        let mut caches: Vec<_> = self.progress.iter().map(|(cache, progress)| (*cache, *progress)).collect();
        caches.sort_by_key(|(cache, _)| *cache);
        for (cache, Progress { written, shared }) in caches {
            if shared < written {
                self.tell(Command::Sync { cache, from: shared, to: written, up })?;
                self.progress.insert(cache, Progress { written, shared: written });
            }
        }
        Ok(())
    }

    /// How many times as fast as the leader alone all ranks together are now, by a little work of no use in at most so many
    /// [`STRETCH`]es; the first of at least `enough` ends it. The others are awake.
    fn probe(&mut self, stretches: usize, enough: f64) -> Result<f64> {
        // New code gets faster while it runs, so it is timed anew for each stretch.
        let mut speedup = 0.0;
        for _ in 0..stretches {
            let units = self.units();
            let mut stretch = Stretch::default();
            while stretch.duration() < STRETCH && self.others {
                self.rank.exchange.take_waited();
                let start = Instant::now();
                self.tell(Command::Probe { units })?;
                stretch.add(start.elapsed(), self.rank.exchange.take_waited());
            }
            speedup = stretch.speedup(self.rank.count());
            if speedup >= enough {
                break;
            }
        }
        Ok(speedup)
    }

    /// Units of [`Rank::work`] that take the leader a [`ROUND`].
    fn units(&mut self) -> u32 {
        let mut units = 1;
        loop {
            let start = Instant::now();
            self.rank.work(units);
            if start.elapsed() >= ROUND || units >= 1 << 16 {
                return units;
            }
            units *= 2;
        }
    }

    /// Alone, from time to time: all ranks again, if that has become faster. They are called first and the pass goes on; only once
    /// all have heard it is there something to measure.
    fn try_together(&mut self) -> Result<()> {
        if !self.others || !self.rank.alone() || !self.balance.due(Instant::now()) {
            return Ok(());
        }
        if !self.called {
            Command::Probe { units: 1 }.encode(&mut self.message);
            self.called = true;
            if self.rank.exchange.post(&self.message).is_err() {
                self.others = false;
            }
            return Ok(());
        }
        if !self.rank.exchange.met() {
            return Ok(());
        }
        let speedup = self.probe(RETRIAL, GAIN)?;
        if !self.others {
            // One of them failed, and is not needed.
            return Ok(());
        }
        if speedup < GAIN {
            self.balance.postpone(Instant::now());
            return Ok(());
        }
        self.why = format!("{} CPU threads again: {speedup:.1} times as fast as one", self.rank.count());
        self.join()
    }

    /// Takes the pass that was just computed into account.
    fn settle_accounts(&mut self, start: Instant) -> Result<()> {
        if let Some(cache) = self.writes {
            let progress = self.progress.entry(cache).or_default();
            // What a session went back over is gone.
            progress.shared = progress.shared.min(self.start);
            progress.written = self.start + self.tokens.len();
        }
        if self.others && !self.rank.alone() {
            let waited = self.rank.exchange.take_waited();
            if self.balance.loses(start.elapsed(), waited) {
                self.part()?;
                let count = self.rank.count();
                self.why = format!("one CPU thread for now: {count} wait for each other longer than they compute");
            }
        }
        Ok(())
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
        let Progress { shared, .. } = self.progress.get(&from.number).copied().unwrap_or_default();
        self.progress.insert(cache.number, Progress { written: len, shared: shared.min(len) });
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
        self.writes = None;
        self.record(Verb::Embed { table: table.number })
    }

    fn qkv(&mut self, gain: &Gain, weight: &Matrix, cache: &mut Cache, layer: usize) -> Result<()> {
        if self.start + self.tokens.len() > cache.capacity {
            let tokens = self.start + self.tokens.len();
            return Err(Error::ContextOverflow { tokens, capacity: cache.capacity });
        }
        self.writes = Some(cache.number);
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
        self.try_together()?;
        let start = Instant::now();
        self.rank.exchange.take_waited();
        let (tokens, verbs) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.verbs));
        let result = self.command(Command::Pass { start: self.start, tokens: &tokens, verbs: &verbs });
        (self.tokens, self.verbs) = (tokens, verbs);
        result?;
        self.settle_accounts(start)
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

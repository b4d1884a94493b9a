//! Every verb of a backend against the plain loops of [`Naive`], on awkward shapes. Runs natively in tests and ships in
//! the wasm, where it is the diagnostic for a browser whose GPU is in doubt.
//!
//! A verb is seen through what follows it: each case runs a short chain of verbs on the same seeded weights on both
//! backends and compares the logits of every row. Chains share all but one verb, so a failing one names its culprit.

use crate::backend::cpu::naive::Naive;
use crate::backend::sampler::Sampling;
use crate::backend::{Activation, Backend, Input, Packing, Precision, Role};
use crate::config::{Config, DepthSchedule};
use crate::error::{Error, Result};
use half::f16;
use std::collections::VecDeque;
use std::fmt;

/// The verbs between `embed` and `logits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    /// None: checks `embed` and `logits`.
    Head,
    /// `qkv`, `attend`, `matmul_add`.
    Attention,
    /// `gate_up`, `matmul_add`.
    FeedForward,
}

/// One chain on one shape: `rows` rows that end at position `context - 1`.
#[derive(Debug, Clone, Copy)]
struct Case {
    chain: Chain,
    hidden: usize,
    intermediate: usize,
    /// Query heads, key/value heads, head_dim.
    heads: (usize, usize, usize),
    rows: usize,
    context: usize,
}

const VOCAB: usize = 259;

impl Case {
    fn config(&self) -> Config {
        let (num_heads, num_kv_heads, head_dim) = self.heads;
        Config {
            model_type: "mobilellm".into(),
            vocab_size: VOCAB,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_blocks: 1,
            num_heads,
            num_kv_heads,
            head_dim,
            rope_theta: 10_000.0,
            rope_scaling: Default::default(),
            rms_norm_eps: 1e-5,
            max_positions: 2048,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            tied: true,
            schedule: DepthSchedule::Plain,
        }
    }
}

fn cases() -> Vec<Case> {
    let mut list = Vec::new();
    for (hidden, intermediate, heads) in
        [(576, 1536, (9, 3, 64)), (960, 2560, (15, 5, 64)), (1600, 4352, (25, 5, 64)), (32, 96, (4, 2, 8))]
    {
        for rows in [1, 2, 7] {
            for chain in [Chain::Head, Chain::Attention, Chain::FeedForward] {
                list.push(Case { chain, hidden, intermediate, heads, rows, context: rows });
            }
        }
    }
    for rows in [31, 64, 65, 130] {
        for chain in [Chain::Head, Chain::Attention, Chain::FeedForward] {
            list.push(Case { chain, hidden: 288, intermediate: 160, heads: (9, 3, 32), rows, context: rows + 3 });
        }
    }
    let attention =
        Case { chain: Chain::Attention, hidden: 64, intermediate: 32, heads: (9, 3, 64), rows: 1, context: 1 };
    for (rows, context) in [(1, 63), (1, 64), (1, 65), (33, 65), (1, 1025), (1, 2047), (130, 2047)] {
        list.push(Case { rows, context, ..attention });
    }
    for heads in [(4, 4, 16), (5, 1, 32), (4, 2, 24), (3, 1, 128), (2, 1, 256), (4, 1, 80)] {
        for (rows, context) in [(1, 70), (20, 70)] {
            list.push(Case { heads, rows, context, ..attention });
        }
    }
    list
}

/// What a run of the suite found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Cases compared.
    pub cases: usize,
    /// Largest relative error of all rows, and the case that has it.
    pub worst: f32,
    pub worst_case: String,
    /// One line for each failure: what was run, what was wrong.
    pub failures: Vec<String>,
}

impl Report {
    fn add(&mut self, name: String, error: f32, tolerance: f32) {
        self.cases += 1;
        if error.is_nan() || error > self.worst {
            self.worst = error;
            self.worst_case = name.clone();
        }
        if error.is_nan() || error > tolerance {
            self.failures.push(format!("{name}: relative error {error:.2e}, allowed {tolerance:.0e}"));
        }
    }

    /// # Errors
    /// [`Error::Internal`] that lists every failure.
    pub fn into_result(self) -> Result<Self> {
        if self.failures.is_empty() { Ok(self) } else { Err(Error::internal(self)) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} cases, worst relative error {:.2e} ({})", self.cases, self.worst, self.worst_case)?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n{failure}"))
    }
}

/// Runs every case on backends that `make` gives and on the oracle, whose weights are of the same `precision`.
///
/// `tolerance` bounds, for each row of logits, max |difference| / max |oracle|: 1e-3 for f32 arithmetic on f16 weights,
/// more where keys and values are held as f16 or weights in 8 bits.
pub async fn check<B: Backend>(
    make: impl Fn(&Config) -> Result<B>,
    precision: Precision,
    tolerance: f32,
) -> Result<Report> {
    let mut report = Report { cases: 0, worst: 0.0, worst_case: String::new(), failures: Vec::new() };
    for case in cases() {
        let config = case.config();
        let expected = run(&case, &config, &mut Naive::with_precision(&config, precision)).await?;
        let got = run(&case, &config, &mut make(&config)?).await?;
        let error = worst_row(&expected, &got, VOCAB);
        report.add(format!("{case:?}"), error, tolerance);
    }
    check_sessions(&make, precision, tolerance, &mut report).await?;
    check_sampling(&make, precision, &mut report).await?;
    Ok(report)
}

/// The largest of max |difference| / max |expected| of the rows of `width`; NaN if one is, or if the lengths differ.
pub(crate) fn worst_row(expected: &[f32], got: &[f32], width: usize) -> f32 {
    if expected.len() != got.len() {
        return f32::NAN;
    }
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.fold(0.0f32, |max, v| if v.is_nan() { v } else { max.max(v.abs()) })
    };
    let rows = expected.chunks_exact(width).zip(got.chunks_exact(width));
    rows.map(|(e, g)| {
        largest(&mut e.iter().zip(g).map(|(e, g)| e - g)) / largest(&mut e.iter().copied()).max(f32::MIN_POSITIVE)
    })
    .fold(0.0, |max, v| if v.is_nan() || v > max { v } else { max })
}

/// Uniform in [-1, 1), a function of its index alone (splitmix64).
fn noise(seed: u64, index: u64) -> f32 {
    let mut z = (seed << 40).wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// A matrix whose product with a vector of unit variance has about the variance `gain`^2.
fn matrix<B: Backend>(backend: &mut B, role: Role, rows: usize, cols: usize, gain: f32) -> Result<B::Matrix> {
    let mut matrix = backend.new_matrix(role, rows, cols)?;
    let scale = gain * (3.0 / cols as f32).sqrt();
    let bytes: Vec<u8> =
        (0..rows * cols).flat_map(|i| f16::from_f32(scale * noise(role as u64 + 1, i as u64)).to_le_bytes()).collect();
    let (split, width) = (rows / 3, cols * 2);
    backend.write_rows(&mut matrix, 0, Packing::F16, &bytes, 0..split * width)?;
    backend.write_rows(&mut matrix, split, Packing::F16, &bytes, split * width..rows * width)?;
    Ok(matrix)
}

fn gain<B: Backend>(backend: &mut B, width: usize, seed: u64) -> Result<B::Gain> {
    let values: Vec<f32> = (0..width).map(|i| 1.0 + 0.5 * noise(seed, i as u64)).collect();
    backend.new_gain(&values)
}

fn ids(count: usize, vocab: usize) -> Vec<u32> {
    (0..count).map(|i| ((noise(99, i as u64) + 1.0) / 2.0 * vocab as f32) as u32).collect()
}

async fn run<B: Backend>(case: &Case, c: &Config, backend: &mut B) -> Result<Vec<f32>> {
    let embedding = matrix(backend, Role::Embedding, c.vocab_size, c.hidden_size, (c.hidden_size as f32).sqrt())?;
    let qkv = matrix(backend, Role::Qkv, c.qkv_rows(), c.hidden_size, 1.5)?;
    let out = matrix(backend, Role::AttentionOut, c.hidden_size, c.attention_width(), 4.0)?;
    let gate_up = matrix(backend, Role::GateUp, 2 * c.intermediate_size, c.hidden_size, 1.5)?;
    let down = matrix(backend, Role::Down, c.hidden_size, c.intermediate_size, 2.0)?;
    let (norm, head_norm) = (gain(backend, c.hidden_size, 7)?, gain(backend, c.hidden_size, 8)?);
    let mut cache = backend.new_cache(1, case.context.max(case.rows))?;
    let ids = ids(case.context, c.vocab_size);
    let before = case.context - case.rows;
    let mut start = 0;
    while start < before {
        let end = before.min(start + backend.max_rows());
        backend.embed(&embedding, Input::Tokens(&ids[start..end]), start)?;
        backend.qkv(&norm, &qkv, &mut cache, 0)?;
        backend.submit()?;
        start = end;
    }
    let mut logits = Vec::new();
    while start < case.context {
        let end = case.context.min(start + backend.max_rows());
        backend.embed(&embedding, Input::Tokens(&ids[start..end]), start)?;
        match case.chain {
            Chain::Head => {}
            Chain::Attention => {
                backend.qkv(&norm, &qkv, &mut cache, 0)?;
                backend.attend(&cache, 0)?;
                backend.matmul_add(&out, Activation::Attention)?;
            }
            Chain::FeedForward => {
                backend.gate_up(&norm, &gate_up)?;
                backend.matmul_add(&down, Activation::FeedForward)?;
            }
        }
        backend.logits(&head_norm, &embedding, 0..end - start)?;
        backend.submit()?;
        logits.extend(backend.read_logits().await?);
        start = end;
    }
    Ok(logits)
}

/// Two caches that share a prefix go their own ways; logits of some rows only; positions written anew after a step back.
async fn check_sessions<B: Backend>(
    make: &impl Fn(&Config) -> Result<B>,
    precision: Precision,
    tolerance: f32,
    report: &mut Report,
) -> Result<()> {
    let case = Case { chain: Chain::Attention, hidden: 64, intermediate: 32, heads: (4, 2, 16), rows: 5, context: 90 };
    let config = case.config();
    let expected = timelines(&config, &mut Naive::with_precision(&config, precision)).await?;
    let got = timelines(&config, &mut make(&config)?).await?;
    report.add("forked and rewritten caches".into(), worst_row(&expected, &got, VOCAB), tolerance);
    Ok(())
}

async fn timelines<B: Backend>(c: &Config, backend: &mut B) -> Result<Vec<f32>> {
    let embedding = matrix(backend, Role::Embedding, c.vocab_size, c.hidden_size, 8.0)?;
    let qkv = matrix(backend, Role::Qkv, c.qkv_rows(), c.hidden_size, 1.5)?;
    let out = matrix(backend, Role::AttentionOut, c.hidden_size, c.attention_width(), 4.0)?;
    let norm = gain(backend, c.hidden_size, 7)?;
    let mut all = Vec::new();
    let mut caches = vec![backend.new_cache(2, 70)?];
    for (which, start, count) in [(0, 0, 20), (0, 20, 11), (1, 31, 1), (0, 31, 4), (1, 32, 9), (0, 25, 7), (0, 69, 1)] {
        if which == caches.len() {
            let fork = backend.fork(&caches[0], start)?;
            caches.push(fork);
        }
        let cache = &mut caches[which];
        let ids: Vec<u32> = (0..count).map(|i| ((start + i) * 13 + which * 5 + count) as u32 % VOCAB as u32).collect();
        backend.embed(&embedding, Input::Tokens(&ids), start)?;
        for layer in 0..2 {
            backend.qkv(&norm, &qkv, cache, layer)?;
            backend.attend(cache, layer)?;
            backend.matmul_add(&out, Activation::Attention)?;
        }
        backend.logits(&norm, &embedding, count - 1..count)?;
        backend.submit()?;
        if start != 69 {
            // position 69 follows a gap: it is only there to touch the last row of the cache
            all.extend(backend.read_logits().await?);
        }
    }
    Ok(all)
}

/// A model of one head matrix: the next id depends on the last one alone.
struct Bigram<B: Backend> {
    backend: B,
    table: B::Matrix,
    head: B::Matrix,
    norm: B::Gain,
}

impl<B: Backend> Bigram<B> {
    fn new(mut backend: B, vocab: usize) -> Result<Self> {
        Ok(Bigram {
            table: matrix(&mut backend, Role::Embedding, vocab, 32, 6.0)?,
            head: matrix(&mut backend, Role::Head, vocab, 32, 3.0)?,
            norm: gain(&mut backend, 32, 7)?,
            backend,
        })
    }

    fn pass(&mut self, input: Input, start: usize) -> Result<()> {
        self.backend.embed(&self.table, input, start)?;
        self.backend.logits(&self.norm, &self.head, 0..1)?;
        self.backend.submit()
    }

    /// `count` ids, each drawn after its forerunner, with as many steps in flight as the backend wants.
    async fn walk(&mut self, sampling: &Sampling, count: usize) -> Result<Vec<u32>> {
        self.backend.begin_sampling(sampling, &[3, 4, 5], &[5])?;
        self.pass(Input::Tokens(&[5]), 0)?;
        let mut tickets = VecDeque::from([self.backend.choose(sampling.uniform(0))?]);
        let mut ids = Vec::new();
        let mut step = 1;
        while let Some(ticket) = tickets.pop_front() {
            while step < count && tickets.len() + 1 < self.backend.in_flight() {
                self.pass(Input::Chosen, step)?;
                tickets.push_back(self.backend.choose(sampling.uniform(step as u64))?);
                step += 1;
            }
            ids.push(self.backend.chosen(ticket).await?);
            if tickets.is_empty() && step < count {
                self.pass(Input::Chosen, step)?;
                tickets.push_back(self.backend.choose(sampling.uniform(step as u64))?);
                step += 1;
            }
        }
        Ok(ids)
    }

    /// Ids drawn from the logits that follow id `last`, one for each uniform; nothing is remembered between them.
    async fn draws(&mut self, sampling: &Sampling, last: u32, uniforms: &[f32]) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for &uniform in uniforms {
            self.backend.begin_sampling(sampling, &[1, 7, 7], &[2, 2, 9])?;
            self.pass(Input::Tokens(&[last]), 0)?;
            let ticket = self.backend.choose(uniform)?;
            ids.push(self.backend.chosen(ticket).await?);
        }
        Ok(ids)
    }
}

/// Ids chosen by the backend against those of the CPU sampler, for the same uniforms.
async fn check_sampling<B: Backend>(
    make: &impl Fn(&Config) -> Result<B>,
    precision: Precision,
    report: &mut Report,
) -> Result<()> {
    let shape = Case { chain: Chain::Head, hidden: 32, intermediate: 32, heads: (1, 1, 32), rows: 1, context: 1 };
    let base = Sampling { temperature: 0.8, seed: 11, ..Sampling::default() };
    let penalties =
        Sampling { repetition_penalty: 1.3, presence_penalty: 0.4, frequency_penalty: 0.2, ..Sampling::default() };
    for vocab in [37, 32_000] {
        let config = Config { vocab_size: vocab, ..shape.config() };
        let mut oracle = Bigram::new(Naive::with_precision(&config, precision), vocab)?;
        let mut device = Bigram::new(make(&config)?, vocab)?;
        let all = [
            Sampling::default(),
            penalties.clone(),
            base.clone(),
            Sampling { top_k: 5, ..base.clone() },
            Sampling { top_p: 0.9, ..base.clone() },
            Sampling { top_p: 0.3, temperature: 2.5, ..base.clone() },
            Sampling { min_p: 0.1, ..base.clone() },
            Sampling { top_k: 50, top_p: 0.95, min_p: 0.01, temperature: 1.3, ..penalties.clone() },
        ];
        for sampling in &all {
            // the cumulative sums of 32,000 f32 differ in their last digits: a uniform that falls between is no error
            let uniforms: Vec<f32> = (0..40).map(|step| sampling.uniform(step)).collect();
            let expected = oracle.draws(sampling, 6, &uniforms).await?;
            let got = device.draws(sampling, 6, &uniforms).await?;
            let different = expected.iter().zip(&got).filter(|(e, g)| e != g).count();
            let error = if different > 1 { different as f32 / 40.0 } else { 0.0 };
            report.add(format!("draws of {vocab} ids, {sampling:?}"), error, 0.0);
        }
        for sampling in [&all[0], &all[1], &all[3], &all[7]] {
            let same = oracle.walk(sampling, 24).await? == device.walk(sampling, 24).await?;
            report.add(format!("walk over {vocab} ids, {sampling:?}"), if same { 0.0 } else { 1.0 }, 0.0);
        }
    }
    Ok(())
}

/// Here rather than in `tests/`, so that the crate's own lanes are what is built when they are tested in wasm.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    /// Beside 8-bit weights, keys and values are held as f16, and one row of activations in integers of 16 bits.
    #[test]
    fn one_cpu_thread() {
        for (precision, tolerance) in [(Precision::F16, 1e-4), (Precision::Q8, 2e-3), (Precision::Q4, 2e-3)] {
            let report = pollster::block_on(check(|config| Ok(Cpu::new(config, precision)), precision, tolerance));
            let report = report.unwrap();
            println!("{} {precision:?}: {report}", Cpu::lanes());
            report.into_result().unwrap();
        }
    }
}

//! The self-check: a few passes through the first block of the loaded model, on the GPU and in the plain loops of the CPU.
//!
//! ```text
//! prompt of 66 rows (tiled product) -> one row by its id -> arg-max -> one row by the chosen id -> one row far away (attention
//! shared by workgroups) -> four draws
//! ```
//! What is checked is what answers run: the kernels as they were compiled for this model, bound to its own weights, which the
//! oracle gets read back. Of the vocabulary the oracle computes only some rows. A kernel that is wrong is off by as much
//! as its result; the tolerance only has to leave room for other orders of addition and for values held as f16.

use crate::backend::cpu::naive::{self, Naive};
use crate::backend::gpu::{CHUNK, Cache, Gpu, Matrix};
use crate::backend::sampler::{Sampler, Sampling, argmax};
use crate::backend::{Backend, Input};
use crate::config::Config;
use crate::conformance::worst_row;
use crate::error::Result;
use crate::model::{Model, Parts};

/// Largest allowed max |GPU - CPU| / max |CPU| of a row of logits; with tiles of f16, [`TOLERANCE_F16`].
const TOLERANCE: f32 = 5e-3;
const TOLERANCE_F16: f32 = 2e-2;

/// Rows of the prompt: more than a tile of 64.
const ROWS: usize = 66;
/// A position whose attention several workgroups share. Nothing is in the cache between the first rows and it: zeros, on both
/// sides.
const FAR: usize = CHUNK + 50;

/// What did not agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// `prefill`, `decode`, `argmax`, `next`, `long context` or `sampling`.
    pub check: &'static str,
    pub detail: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}: {}", self.check, self.detail)
    }
}

/// Logits that the GPU made, of one position.
struct Seen {
    check: &'static str,
    id: u32,
    position: usize,
    logits: Vec<f32>,
}

/// Runs the probe. Sessions of the model are not touched.
///
/// # Errors
/// What the device reports; that it computes wrongly is no error but a [`Failure`].
pub async fn probe(model: &mut Model<Gpu>) -> Result<Option<Failure>> {
    let Parts { config, backend, .. } = model.parts();
    let (config, f16) = (config.clone(), backend.variant().f16);
    let vocab = config.vocab_size;
    let prompt: Vec<u32> = (0..ROWS).map(|i| ((i * 7919 + 17) % vocab) as u32).collect();
    let mut seen = Vec::new();
    let choice = match on_gpu(model, &prompt, &mut seen).await? {
        Ok(choice) => choice,
        Err(failure) => return Ok(Some(failure)),
    };
    // Some of the vocabulary: what was put in, what was chosen, the first and last rows.
    let mut some: Vec<u32> = prompt.iter().step_by(2).copied().chain([0, choice, vocab as u32 - 1]).collect();
    some.extend(seen.iter().map(|s| s.id));
    some.sort_unstable();
    some.dedup();
    let mut oracle = Oracle::new(model, &config, &some, &prompt).await?;
    let tolerance = if f16 { TOLERANCE_F16 } else { TOLERANCE };
    for Seen { check, id, position, logits } in seen {
        let expected = oracle.logits(id, position).await?;
        let got: Vec<f32> = some.iter().map(|&id| logits[id as usize]).collect();
        let error = worst_row(&expected, &got, expected.len());
        if error.is_nan() || error > tolerance {
            let detail = format!("logits are off by {error:.1e} of the largest, {tolerance:.0e} is allowed");
            return Ok(Some(Failure { check, detail }));
        }
    }
    Ok(None)
}

/// The GPU's part; what can be judged by its own logits is judged here. Returns the id that it chose.
async fn on_gpu(
    model: &mut Model<Gpu>,
    prompt: &[u32],
    seen: &mut Vec<Seen>,
) -> Result<std::result::Result<u32, Failure>> {
    let Parts { backend, config, .. } = model.parts();
    let vocab = config.vocab_size;
    let mut cache = backend.new_cache(1, FAR + 1)?;
    // the last row of one tile, the first of the next
    pass(model, &mut cache, Input::Tokens(prompt), 0, 63..65)?;
    let rows = model.backend().read_logits().await?;
    for (position, logits) in (63..).zip(rows.chunks_exact(vocab)) {
        seen.push(Seen { check: "prefill", id: prompt[position], position, logits: logits.to_vec() });
    }
    let id = prompt[1];
    model.backend().begin_sampling(&Sampling::default(), &[], &[])?;
    pass(model, &mut cache, Input::Tokens(&[id]), ROWS, 0..1)?;
    let ticket = model.backend().choose(0.0)?;
    let choice = model.backend().chosen(ticket).await?;
    let logits = model.backend().read_logits().await?;
    let best = argmax(&logits);
    if choice != best {
        let detail = format!("{choice} was chosen, the highest logit is that of {best}");
        return Ok(Err(Failure { check: "argmax", detail }));
    }
    seen.push(Seen { check: "decode", id, position: ROWS, logits });
    pass(model, &mut cache, Input::Chosen, ROWS + 1, 0..1)?;
    let logits = model.backend().read_logits().await?;
    seen.push(Seen { check: "next", id: choice, position: ROWS + 1, logits });
    pass(model, &mut cache, Input::Tokens(&[id]), FAR, 0..1)?;
    let logits = model.backend().read_logits().await?;
    let sampling = Sampling { temperature: 2.0, top_p: 0.95, min_p: 1e-4, seed: 7, ..Sampling::default() };
    model.backend().begin_sampling(&sampling, &[], &[])?;
    let mut sampler = Sampler::new(&sampling, vocab, &[], &[]);
    let mut different = Vec::new();
    for step in 0..4 {
        let uniform = sampling.uniform(step);
        let ticket = model.backend().choose(uniform)?;
        let (got, expected) = (model.backend().chosen(ticket).await?, sampler.choose(&logits, uniform));
        if got != expected {
            different.push(format!("{got} instead of {expected}"));
        }
    }
    // One may lie on a border that sums in another order put elsewhere.
    if different.len() > 1 {
        return Ok(Err(Failure { check: "sampling", detail: format!("drew {}", different.join(", ")) }));
    }
    seen.push(Seen { check: "long context", id, position: FAR, logits });
    Ok(Ok(choice))
}

/// A pass through the first block alone.
fn pass(
    model: &mut Model<Gpu>,
    cache: &mut Cache,
    input: Input,
    start: usize,
    logits: std::ops::Range<usize>,
) -> Result<()> {
    let Parts { backend, embedding, head, norm, block, .. } = model.parts();
    backend.embed(embedding, input, start)?;
    block.run(backend, cache, 0)?;
    backend.logits(norm, head, logits)?;
    backend.submit()
}

/// The same block in plain loops.
struct Oracle {
    naive: Naive,
    /// Ids of the real vocabulary; its row is an id's number here.
    ids: Vec<u32>,
    table: naive::Matrix,
    head: naive::Matrix,
    norm: Vec<f32>,
    block: crate::model::Block<Naive>,
    cache: naive::Cache,
}

impl Oracle {
    /// With the keys and values of `prompt`, whose ids need not be among `ids`.
    async fn new(model: &mut Model<Gpu>, config: &Config, ids: &[u32], prompt: &[u32]) -> Result<Self> {
        let Parts { backend, embedding, head, norm, block, .. } = model.parts();
        let rows = |ids: &[u32]| ids.iter().map(|&id| (id as usize, 1)).collect::<Vec<_>>();
        let tables = [(embedding, rows(ids)), (head, rows(ids)), (embedding, rows(prompt))];
        let whole = |matrix: &Matrix| vec![(0, matrix.rows())];
        let matrices = [&block.qkv, &block.out, &block.gate_up, &block.down].map(|matrix| (matrix, whole(matrix)));
        let mut all = backend.read_rows(tables.iter().chain(&matrices)).await?.into_iter();
        let mut gains = backend.read_gains(&[norm, &block.attention_norm, &block.ffn_norm]).await?.into_iter();
        let mut next = |cols: usize| naive::Matrix::new(cols, all.next().unwrap_or_default());
        let mut gain = || gains.next().unwrap_or_default();
        let hidden = config.hidden_size;
        let (table, head, prompt_rows) = (next(hidden), next(hidden), next(hidden));
        let norm = gain();
        let block = crate::model::Block {
            qkv: next(hidden),
            out: next(config.attention_width()),
            gate_up: next(hidden),
            down: next(config.intermediate_size),
            attention_norm: gain(),
            ffn_norm: gain(),
        };
        let small = Config { vocab_size: ids.len(), num_blocks: 1, ..config.clone() };
        let mut naive = Naive::new(&small);
        let mut cache = naive.new_cache(1, FAR + 1)?;
        // Of one layer, rows need no more of each other than keys and values.
        let numbers: Vec<u32> = (0..prompt.len() as u32).collect();
        naive.embed(&prompt_rows, Input::Tokens(&numbers), 0)?;
        naive.qkv(&block.attention_norm, &block.qkv, &mut cache, 0)?;
        Ok(Oracle { naive, ids: ids.to_vec(), table, head, norm, block, cache })
    }

    /// Logits of the ids of this oracle after `id` at `position`.
    async fn logits(&mut self, id: u32, position: usize) -> Result<Vec<f32>> {
        let number = self.ids.binary_search(&id).unwrap_or(0) as u32;
        self.naive.embed(&self.table, Input::Tokens(&[number]), position)?;
        self.block.run(&mut self.naive, &mut self.cache, 0)?;
        self.naive.logits(&self.norm, &self.head, 0..1)?;
        self.naive.submit()?;
        self.naive.read_logits().await
    }
}

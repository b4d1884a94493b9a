//! One timeline of tokens over a model: the KV cache and the ids that it holds.
//!
//! ```text
//! prompt ids -> common prefix with the timeline kept, the rest dropped -> prefill in row batches -> choose, step, choose, ..
//! ```
//! A generation is pulled: nothing runs that was not asked for, so stopping is to stop asking. Whatever the cache holds
//! stays valid, and the next prompt computes only what is new.

use crate::backend::sampler::Sampling;
use crate::backend::{Backend, Input};
use crate::error::{Error, Result};
use crate::model::Model;
use std::collections::VecDeque;

/// A mutable timeline. Tokens in `tokens` have their keys and values in the cache, in order.
pub struct Session<B: Backend> {
    cache: B::Cache,
    capacity: usize,
    tokens: Vec<u32>,
}

impl<B: Backend> Session<B> {
    /// An empty timeline of at most `capacity` tokens.
    pub fn new(model: &mut Model<B>, capacity: usize) -> Result<Self> {
        Ok(Session { cache: model.new_cache(capacity)?, capacity, tokens: Vec::new() })
    }

    /// A copy that goes its own way from here.
    pub fn fork(&self, model: &mut Model<B>) -> Result<Self> {
        let cache = model.backend().fork(&self.cache, self.tokens.len())?;
        Ok(Session { cache, capacity: self.capacity, tokens: self.tokens.clone() })
    }

    /// Most tokens that the cache holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The ids whose keys and values the cache holds.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Drops everything after the longest common prefix with `prompt`, and returns that prefix's length. At least the
    /// prompt's last token is left to compute, since its logits are what comes next.
    fn sync(&mut self, prompt: &[u32]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        self.tokens.truncate(common.min(prompt.len().saturating_sub(1)));
        self.tokens.len()
    }

    /// Runs `ids` at the end of the timeline and returns the logits of the rows `logits` of them, (rows, vocab).
    /// The caller keeps `ids` within [`Backend::max_rows`] and the capacity.
    async fn run(
        &mut self,
        model: &mut Model<B>,
        ids: &[u32],
        logits: std::ops::Range<usize>,
    ) -> Result<Option<Vec<f32>>> {
        let wanted = !logits.is_empty();
        model.forward(&mut self.cache, Input::Tokens(ids), self.tokens.len(), logits)?;
        self.tokens.extend_from_slice(ids);
        if wanted { Ok(Some(model.backend().read_logits().await?)) } else { Ok(None) }
    }

    /// The logits after every token of `prompt` from position `from` on, in order: (prompt.len() - from, vocab).
    /// Calls `row(position, logits)` for each, so that no more than one batch of logits is held.
    pub async fn logits(
        &mut self,
        model: &mut Model<B>,
        prompt: &[u32],
        from: usize,
        mut row: impl FnMut(usize, &[f32]),
    ) -> Result<()> {
        check_prompt(prompt, model, self.capacity + 1)?;
        self.sync(&prompt[..(from + 1).min(prompt.len())]);
        let vocab = model.config().vocab_size;
        while self.tokens.len() < prompt.len() {
            let start = self.tokens.len();
            // 32 rows of logits at once: 4 MB for a vocabulary of 32,000
            let rows = if start + model.backend().max_rows() <= from { model.backend().max_rows() } else { 32 };
            let batch = &prompt[start..(start + rows.min(model.backend().max_rows())).min(prompt.len())];
            let wanted = from.saturating_sub(start).min(batch.len())..batch.len();
            let first = start + wanted.start;
            if let Some(logits) = self.run(model, batch, wanted).await? {
                for (i, values) in logits.chunks_exact(vocab).enumerate() {
                    row(first + i, values);
                }
            }
        }
        Ok(())
    }
}

/// `capacity` is the exclusive bound on the prompt's length.
fn check_prompt<B: Backend>(prompt: &[u32], model: &Model<B>, capacity: usize) -> Result<()> {
    if prompt.is_empty() {
        return Err(Error::option("prompt", "is empty: a model without a BOS token needs at least one token"));
    }
    if prompt.len() >= capacity {
        return Err(Error::ContextOverflow { tokens: prompt.len(), capacity: capacity - 1 });
    }
    match prompt.iter().find(|id| **id as usize >= model.config().vocab_size) {
        Some(id) => Err(Error::option("prompt", format!("token id {id} is outside the vocabulary"))),
        None => Ok(()),
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop id or a stop string.
    Stop,
    /// `maxTokens`.
    Length,
    /// The KV cache is full.
    Context,
    /// The caller wanted no more.
    Abort,
}

/// What one pull of a generation gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// `done` of `total` prompt tokens are in the cache.
    Prefill {
        done: usize,
        total: usize,
    },
    /// The next id and, where asked for, the logits it was chosen from.
    Token {
        id: u32,
        logits: Option<Vec<f32>>,
    },
    Done(FinishReason),
}

/// The answer under way on one session.
pub struct Generation<B: Backend> {
    prompt: Vec<u32>,
    /// Prompt tokens that the cache held already.
    cached: usize,
    sampling: Sampling,
    stop_ids: Vec<u32>,
    keep_logits: bool,
    /// Most ids to choose, and the reason to give when they are reached.
    limit: usize,
    limit_reason: FinishReason,
    tickets: VecDeque<B::Ticket>,
    /// Ids of the answer that `prompt` ends with, after a replay.
    replayed: usize,
    /// Ids chosen since, read or not.
    chosen: usize,
    /// Passes run for those: that many of them have keys and values.
    passes: usize,
    answer: Vec<u32>,
    finished: Option<FinishReason>,
}

/// How to generate.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    pub sampling: Sampling,
    /// Most ids to choose; `None`: as many as the context holds.
    pub max_tokens: Option<usize>,
    /// Ids that end the answer.
    pub stop_ids: Vec<u32>,
    /// Return the logits behind each id (for log-probabilities); costs a read-back each.
    pub keep_logits: bool,
}

impl<B: Backend> Generation<B> {
    /// Syncs the session to `prompt` and prepares the answer; computes nothing yet.
    ///
    /// # Errors
    /// [`Error::ContextOverflow`] if the prompt leaves no room for one token; [`Error::InvalidOption`] for a bad option.
    /// The session is unchanged then.
    pub fn begin(
        model: &mut Model<B>,
        session: &mut Session<B>,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Self> {
        check_prompt(prompt, model, session.capacity)?;
        options.sampling.validate()?;
        let room = session.capacity - prompt.len();
        let wanted = options.max_tokens.unwrap_or(usize::MAX);
        Ok(Generation {
            cached: session.sync(prompt),
            prompt: prompt.to_vec(),
            sampling: options.sampling.clone(),
            stop_ids: options.stop_ids.clone(),
            keep_logits: options.keep_logits,
            limit: room.min(wanted),
            limit_reason: if wanted <= room { FinishReason::Length } else { FinishReason::Context },
            tickets: VecDeque::new(),
            replayed: 0,
            chosen: 0,
            passes: 0,
            answer: Vec::new(),
            finished: None,
        })
    }

    /// Prompt tokens that the cache held already.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Every id of the answer so far, a stop id included.
    pub fn answer(&self) -> &[u32] {
        &self.answer
    }

    /// The next piece of work: one batch of the prompt, or one id. After `Done` it stays `Done`.
    pub async fn next(&mut self, model: &mut Model<B>, session: &mut Session<B>) -> Result<Step> {
        if let Some(reason) = self.finished {
            return Ok(Step::Done(reason));
        }
        if session.tokens.len() < self.prompt.len() {
            model.backend().keep_up().await?;
            return self.prefill(model, session);
        }
        if self.answer.len() == self.limit {
            return Ok(self.finish(session, self.limit_reason));
        }
        let ahead = if self.keep_logits { 1 } else { model.backend().in_flight() };
        while self.tickets.len() < ahead && self.replayed + self.chosen < self.limit {
            if self.chosen > 0 {
                model.forward(&mut session.cache, Input::Chosen, self.prompt.len() + self.passes, 0..1)?;
                self.passes += 1;
            }
            self.choose(model)?;
        }
        let ticket = self.tickets.pop_front().ok_or_else(|| Error::internal("no step under way"))?;
        let id = model.backend().chosen(ticket).await?;
        let logits = if self.keep_logits { Some(model.backend().read_logits().await?) } else { None };
        self.answer.push(id);
        self.remember(session);
        if self.stop_ids.contains(&id) {
            self.finish(session, FinishReason::Stop);
        }
        Ok(Step::Token { id, logits })
    }

    /// Ends the answer here (a stop string was found, or the caller wants no more); the session stays usable.
    pub fn finish(&mut self, session: &mut Session<B>, reason: FinishReason) -> Step {
        self.remember(session);
        Step::Done(*self.finished.get_or_insert(reason))
    }

    /// The same answer for a model that is loaded anew, perhaps on another backend, with an empty session: the next pulls
    /// compute prompt and answer so far, and go on where the answer was.
    pub fn replay<C: Backend>(mut self) -> Generation<C> {
        self.prompt.extend_from_slice(&self.answer[self.replayed..]);
        Generation {
            prompt: self.prompt,
            cached: self.cached,
            sampling: self.sampling,
            stop_ids: self.stop_ids,
            keep_logits: self.keep_logits,
            limit: self.limit,
            limit_reason: self.limit_reason,
            tickets: VecDeque::new(),
            replayed: self.answer.len(),
            chosen: 0,
            passes: 0,
            answer: self.answer,
            finished: self.finished,
        }
    }

    fn prefill(&mut self, model: &mut Model<B>, session: &mut Session<B>) -> Result<Step> {
        let done = session.tokens.len();
        let rows = (self.prompt.len() - done).min(model.backend().max_rows());
        let batch = &self.prompt[done..done + rows];
        let last = done + rows == self.prompt.len();
        if last {
            let (prompt, answer) = self.prompt.split_at(self.prompt.len() - self.replayed);
            model.backend().begin_sampling(&self.sampling, prompt, answer)?;
        }
        let logits = if last { rows - 1..rows } else { 0..0 };
        model.forward(&mut session.cache, Input::Tokens(batch), done, logits)?;
        session.tokens.extend_from_slice(batch);
        if last && self.replayed < self.limit {
            self.choose(model)?;
        }
        Ok(Step::Prefill { done: done + rows, total: self.prompt.len() })
    }

    fn choose(&mut self, model: &mut Model<B>) -> Result<()> {
        let ticket = model.backend().choose(self.sampling.uniform((self.replayed + self.chosen) as u64))?;
        self.tickets.push_back(ticket);
        self.chosen += 1;
        Ok(())
    }

    /// The session's timeline: the prompt (or what of it was run) and those ids of the answer that passes were run for.
    fn remember(&self, session: &mut Session<B>) {
        if session.tokens.len() >= self.prompt.len() {
            session.tokens.truncate(self.prompt.len());
            session.tokens.extend(self.answer[self.replayed..].iter().take(self.passes));
        }
    }
}

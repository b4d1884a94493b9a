//! What is loaded: a model on its backend, its text side, and the sessions open on it.
//!
//! Generic inside ([`Loaded`]), a closed enum at the edge ([`Engine`]). One generation runs at a time; whoever owns the
//! engine queues the others.

#[cfg(feature = "gpu")]
pub mod probe;

use crate::backend::cpu::Cpu;
#[cfg(feature = "gpu")]
use crate::backend::gpu::{Device, DeviceOptions, Gpu, Variant};
use crate::backend::sampler::{Sampling, log_softmax};
use crate::backend::{Backend, Precision};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::{Loader, Model};
use crate::session::{FinishReason, GenerateOptions, Generation, Session, Step};
use crate::text::{Decoder, StopStrings, TOOL_TEMPLATE, TextFiles, TextModel};
use crate::weights::TensorInfo;
use crate::weights::checkpoint::{Checkpoint, Report};
use crate::weights::formats::gguf::blocks;
use crate::weights::progress::Phase;
use crate::weights::source::{Host, Source, Store};
use futures_util::future::try_join4;
#[cfg(feature = "gpu")]
use probe::probe;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::rc::Rc;
use web_time::Instant;

/// How an answer is chosen and when it ends. Unknown fields are an error.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "GenerateRequest"))]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Tokens of the answer at most; `null`: until the context is full.
    pub max_tokens: Option<usize>,
    /// 0 (default): always the most probable token. Else logits are divided by it.
    pub temperature: f32,
    /// Keep the k most probable tokens; 0 (default): all.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens that reaches this probability; 1 (default): all.
    pub top_p: f32,
    /// Keep tokens at least this fraction as probable as the most probable one; 0 (default): all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or answer; 1 (default): off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that are in the answer; 0 (default): off.
    pub presence_penalty: f32,
    /// Subtracted once for each time that a token is in the answer; 0 (default): off.
    pub frequency_penalty: f32,
    /// Integer from 0 to 2^53 - 1. Same seed, same text.
    pub seed: u64,
    /// The answer ends before the first of these strings, which may span tokens; it is not part of the text.
    pub stop: Vec<String>,
    /// The answer ends at any of these tokens, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// With each token, its log-probability and those of the n most probable ones, 0 to 20. Default 0: none.
    pub logprobs: usize,
    /// Go on after the model's end-of-text token. Default false.
    pub ignore_eos: bool,
    /// Show control tokens in the text (a stop token never).
    pub special_tokens: bool,
}

impl Default for Options {
    fn default() -> Self {
        let sampling = Sampling::default();
        Options {
            max_tokens: None,
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            repetition_penalty: sampling.repetition_penalty,
            presence_penalty: sampling.presence_penalty,
            frequency_penalty: sampling.frequency_penalty,
            seed: sampling.seed,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            logprobs: 0,
            ignore_eos: false,
            special_tokens: false,
        }
    }
}

impl Options {
    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
        }
    }
}

/// A token and its natural log-probability, before temperature, penalties and cuts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Logprob {
    pub token_id: u32,
    pub logprob: f32,
}

/// The chosen token and the most probable ones, best first.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct TokenLogprobs {
    #[serde(flatten)]
    pub chosen: Logprob,
    pub top: Vec<Logprob>,
}

/// What an answer took, in tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    pub prompt_tokens: usize,
    /// Those of the prompt that the KV cache held already.
    pub cached_tokens: usize,
    /// Those of the answer, the final one included.
    pub completion_tokens: usize,
}

/// How long an answer took, by the wall clock; 0 where a phase had nothing to do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// Milliseconds from the call to the first token.
    pub ttft_ms: f64,
    /// Prompt tokens computed, over the time to the first token.
    pub prefill_tokens_per_second: f64,
    /// Tokens after the first, over the time after the first; 0 with fewer than two tokens.
    pub decode_tokens_per_second: f64,
}

/// What one pull gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "EngineEvent"))]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    Prefill {
        done: usize,
        total: usize,
    },
    /// `text` may be empty while a character or a possible stop string is incomplete.
    Token {
        text: String,
        token_id: u32,
        logprobs: Option<TokenLogprobs>,
    },
    Done {
        /// Text that was held back and now is certain.
        text: String,
        finish_reason: FinishReason,
        usage: Usage,
        timings: Timings,
    },
}

/// How probable a continuation is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// Natural log-likelihood of the continuation: the sum over its tokens.
    pub logprob: f64,
    /// Of each token of the continuation.
    pub tokens: Vec<Logprob>,
    /// Whether greedy decoding would have written exactly this.
    pub is_greedy: bool,
}

/// The answer under way.
struct Active<B: Backend> {
    session: u32,
    generation: Generation<B>,
    /// `None` once finished.
    decoder: Option<Decoder>,
    stops: StopStrings,
    options: Options,
    prompt_tokens: usize,
    started: Instant,
    first: Option<Instant>,
    done: Option<Event>,
}

impl<B: Backend> Active<B> {
    /// No id follows: what was held back becomes certain.
    fn last(&mut self, reason: FinishReason) -> Event {
        let rest = self.decoder.take().map(Decoder::finish).unwrap_or_default();
        let (mut text, hit) = self.stops.push(&rest);
        if !hit {
            text.push_str(&self.stops.finish());
        }
        self.finished(text, if hit { FinishReason::Stop } else { reason })
    }

    fn finished(&mut self, text: String, finish_reason: FinishReason) -> Event {
        let completion_tokens = self.generation.answer().len();
        let usage =
            Usage { prompt_tokens: self.prompt_tokens, cached_tokens: self.generation.cached(), completion_tokens };
        let now = Instant::now();
        let first = self.first.unwrap_or(now);
        let ttft = (first - self.started).as_secs_f64();
        let after = (now - first).as_secs_f64();
        let per_second = |tokens: usize, seconds: f64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        let timings = Timings {
            ttft_ms: ttft * 1e3,
            prefill_tokens_per_second: per_second(self.prompt_tokens - usage.cached_tokens, ttft),
            decode_tokens_per_second: per_second(completion_tokens.saturating_sub(1), after),
        };
        let event = Event::Done { text, finish_reason, usage, timings };
        self.done = Some(event.clone());
        event
    }
}

/// One model on one backend, with its sessions.
pub struct Loaded<B: Backend> {
    model: Model<B>,
    text: Rc<TextModel>,
    sessions: HashMap<u32, Session<B>>,
    next_session: u32,
    active: Option<Active<B>>,
}

impl<B: Backend> Loaded<B> {
    pub fn new(model: Model<B>, text: Rc<TextModel>) -> Self {
        Loaded { model, text, sessions: HashMap::new(), next_session: 1, active: None }
    }

    /// Streams the checkpoint's weights into `backend`.
    async fn load<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>>(
        checkpoint: &Checkpoint<H, S, T>,
        config: Config,
        backend: B,
        text: Rc<TextModel>,
    ) -> Result<(Self, Report)> {
        let mut loader = Loader::new(config, backend);
        let report = checkpoint.load(&mut loader).await?;
        checkpoint.skipped(loader.skipped());
        checkpoint.enter(Phase::Compile);
        Ok((Loaded::new(loader.finish()?, text), report))
    }

    /// Opens an empty session of at most `capacity` tokens and returns its number.
    pub fn open_session(&mut self, capacity: usize) -> Result<u32> {
        let session = Session::new(&mut self.model, capacity)?;
        Ok(self.insert(session))
    }

    /// A copy of a session, with its keys and values.
    pub fn fork_session(&mut self, id: u32) -> Result<u32> {
        let fork = self.sessions.get(&id).ok_or(CLOSED)?.fork(&mut self.model)?;
        Ok(self.insert(fork))
    }

    /// Frees a session's memory; an answer under way on it ends.
    pub fn close_session(&mut self, id: u32) {
        self.active.take_if(|a| a.session == id);
        self.sessions.remove(&id);
    }

    /// Takes over the sessions of a model whose device was lost: their caches start empty, so that the next prompt computes
    /// its tokens again, and the answer under way goes on where it was.
    fn inherit<A: Backend>(&mut self, old: Loaded<A>) -> Result<()> {
        for (id, session) in &old.sessions {
            let empty = Session::new(&mut self.model, session.capacity())?;
            self.sessions.insert(*id, empty);
        }
        self.next_session = old.next_session;
        self.active = old.active.map(|a| Active {
            session: a.session,
            generation: a.generation.replay(),
            decoder: a.decoder,
            stops: a.stops,
            options: a.options,
            prompt_tokens: a.prompt_tokens,
            started: a.started,
            first: a.first,
            done: a.done,
        });
        Ok(())
    }

    /// The ids that a session's cache holds.
    pub fn session_tokens(&self, id: u32) -> Result<&[u32]> {
        Ok(self.sessions.get(&id).ok_or(CLOSED)?.tokens())
    }

    fn insert(&mut self, session: Session<B>) -> u32 {
        let id = self.next_session;
        self.next_session += 1;
        self.sessions.insert(id, session);
        id
    }

    /// Starts an answer to `prompt` on a session; one that was under way ends where it is.
    pub fn begin(&mut self, id: u32, prompt: &[u32], options: &Options) -> Result<()> {
        self.stop();
        let session = self.sessions.get_mut(&id).ok_or(CLOSED)?;
        let mut options = options.clone();
        options.stop_token_ids.extend(special_stops(&self.text, &options)?);
        let mut stop_ids = options.stop_token_ids.clone();
        if !options.ignore_eos {
            stop_ids.extend(self.text.eos());
        }
        let generate = GenerateOptions {
            sampling: options.sampling(),
            max_tokens: options.max_tokens,
            stop_ids,
            keep_logits: options.logprobs > 0,
        };
        let generation = Generation::begin(&mut self.model, session, prompt, &generate)?;
        self.active = Some(Active {
            session: id,
            generation,
            decoder: Some(self.text.tokenizer().decoder(prompt.last().copied(), options.special_tokens)),
            stops: StopStrings::new(&options.stop),
            options,
            prompt_tokens: prompt.len(),
            started: Instant::now(),
            first: None,
            done: None,
        });
        Ok(())
    }

    /// Ends the answer under way; its session keeps what was computed.
    pub fn stop(&mut self) {
        if let Some(mut active) = self.active.take()
            && let Some(session) = self.sessions.get_mut(&active.session)
        {
            active.generation.finish(session, FinishReason::Stop);
        }
    }

    /// Ends the answer under way where it is and returns its `Done`; its session keeps what was computed.
    pub fn interrupt(&mut self) -> Result<Event> {
        let active = self.active.as_mut().ok_or(Error::Closed { what: "the generation" })?;
        if let Some(done) = &active.done {
            return Ok(done.clone());
        }
        let session = self.sessions.get_mut(&active.session).ok_or(CLOSED)?;
        active.generation.finish(session, FinishReason::Abort);
        Ok(active.last(FinishReason::Abort))
    }

    /// The next batch of the prompt or the next token. After `Done` it repeats `Done`.
    pub async fn next(&mut self) -> Result<Event> {
        let active = self.active.as_mut().ok_or(Error::Closed { what: "the generation" })?;
        if let Some(done) = &active.done {
            return Ok(done.clone());
        }
        let session = self.sessions.get_mut(&active.session).ok_or(CLOSED)?;
        match active.generation.next(&mut self.model, session).await? {
            Step::Prefill { done, total } => Ok(Event::Prefill { done, total }),
            Step::Done(reason) => Ok(active.last(reason)),
            Step::Token { id, logits } => {
                active.first.get_or_insert_with(Instant::now);
                let ends = active.options.stop_token_ids.contains(&id)
                    || (!active.options.ignore_eos && self.text.eos().contains(&id));
                let text = active.decoder.as_mut().filter(|_| !ends).map(|d| d.push(id)).unwrap_or_default();
                let (text, hit) = active.stops.push(&text);
                if hit {
                    active.generation.finish(session, FinishReason::Stop);
                }
                let logprobs = logits.map(|logits| token_logprobs(&logits, id, active.options.logprobs));
                if hit {
                    // What follows a stop string is dropped, also what the decoder still holds.
                    active.finished(String::new(), FinishReason::Stop);
                }
                Ok(Event::Token { text, token_id: id, logprobs })
            }
        }
    }

    /// Logits after each of `prompt` from position `from` on, (vocab) each, with their position.
    pub async fn logits(&mut self, prompt: &[u32], from: usize, visit: impl FnMut(usize, &[f32])) -> Result<()> {
        let mut session = Session::new(&mut self.model, prompt.len().max(1))?;
        session.logits(&mut self.model, prompt, from, visit).await
    }

    /// Logits after the last of `prompt`, (vocab).
    pub async fn last_logits(&mut self, prompt: &[u32]) -> Result<Vec<f32>> {
        let mut last = Vec::new();
        self.logits(prompt, prompt.len().saturating_sub(1), |_, logits| last = logits.to_vec()).await?;
        Ok(last)
    }

    /// Log-likelihoods of continuations of one context, each (context, continuation) given as ids: `split` ids of context.
    pub async fn score(&mut self, sequences: &[(Vec<u32>, usize)]) -> Result<Vec<Score>> {
        let longest = sequences.iter().map(|(ids, _)| ids.len()).max().unwrap_or(0);
        let mut session = Session::new(&mut self.model, longest.max(1))?;
        let mut scores = Vec::with_capacity(sequences.len());
        for (ids, split) in sequences {
            if *split == 0 {
                return Err(Error::option("context", "is empty: a model without a BOS token needs at least one token"));
            }
            let mut score = Score { logprob: 0.0, tokens: Vec::new(), is_greedy: true };
            let run = &ids[..ids.len() - 1];
            let visit = |position: usize, logits: &[f32]| {
                let id = ids[position + 1];
                let logprob = log_softmax(logits)[id as usize];
                score.logprob += logprob as f64;
                score.is_greedy &= crate::backend::sampler::argmax(logits) == id;
                score.tokens.push(Logprob { token_id: id, logprob });
            };
            if *split < ids.len() {
                session.logits(&mut self.model, run, split - 1, visit).await?;
            }
            scores.push(score);
        }
        Ok(scores)
    }
}

/// Ids of the stop strings that are special tokens: the text of an answer leaves those out, so they are never found there.
///
/// # Errors
/// [`Error::InvalidOption`] for one that has a special token and more, where the text does not show them.
fn special_stops(text: &TextModel, options: &Options) -> Result<Vec<u32>> {
    let tokenizer = text.tokenizer();
    let mut ids = Vec::new();
    for stop in &options.stop {
        match tokenizer.token_id(stop) {
            Some(id) if tokenizer.is_control(id) => ids.push(id),
            _ if options.special_tokens || !tokenizer.spells_out_control(stop) => {}
            _ => {
                let problem =
                    format!("{stop:?} has a special token and more: give that token alone, or its id as stopTokenIds");
                return Err(Error::option("stop", problem));
            }
        }
    }
    Ok(ids)
}

const CLOSED: Error = Error::Closed { what: "the session" };

fn token_logprobs(logits: &[f32], id: u32, top: usize) -> TokenLogprobs {
    let all = log_softmax(logits);
    let of = |token_id: u32| Logprob { token_id, logprob: all[token_id as usize] };
    let mut order: Vec<u32> = (0..all.len() as u32).collect();
    let by_probability = |a: &u32, b: &u32| all[*b as usize].total_cmp(&all[*a as usize]).then(a.cmp(b));
    let top = top.min(order.len());
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, by_probability);
    }
    order.truncate(top);
    order.sort_unstable_by(by_probability);
    TokenLogprobs { chosen: of(id), top: order.into_iter().map(of).collect() }
}

/// What came of a self-check, as it is kept.
#[cfg(feature = "gpu")]
#[derive(Serialize, Deserialize)]
struct Verdict {
    /// What passed; `None`: nothing.
    passed: Option<Variant>,
    /// What did not, and where it failed.
    failures: Vec<String>,
}

#[cfg(feature = "gpu")]
impl Loaded<Gpu> {
    /// Has the device prove itself, with simpler kernels if need be, or takes the verdict of an earlier time.
    ///
    /// # Errors
    /// [`Error::SelfCheck`] if even plain kernels compute something wrong; what the device reports.
    async fn check<T: Store>(
        &mut self,
        device: &Device,
        store: &T,
        model: &str,
        how: &SelfCheck,
        info: &mut Info,
    ) -> Result<()> {
        let environment = match how {
            SelfCheck::Never => {
                info.reason.push_str("; its self-check was not wanted");
                return Ok(());
            }
            SelfCheck::Always => None,
            SelfCheck::Once { environment } => Some(environment),
        };
        let key = environment.map(|environment| self.verdict_key(model, &device.name(), environment));
        let kept = match &key {
            // A store that fails costs another check, no more.
            Some(key) => store.verdict(key).await.ok().flatten(),
            None => None,
        };
        let kept: Option<Verdict> = kept.and_then(|kept| serde_json::from_str(&kept).ok());
        let known = kept.is_some();
        let verdict = match kept {
            Some(verdict) => verdict,
            None => {
                let started = Instant::now();
                let verdict = self.examine(device).await?;
                info.self_check_ms = Some(started.elapsed().as_secs_f64() * 1e3);
                if let Some(key) = &key
                    && let Ok(text) = serde_json::to_string(&verdict)
                {
                    // As above.
                    let _ = store.put_verdict(key, &text).await;
                }
                verdict
            }
        };
        let Some(passed) = verdict.passed else {
            return Err(Error::SelfCheck { problem: verdict.failures.join("; ") });
        };
        if passed != self.model.backend().variant() {
            self.model.backend().set_variant(passed)?;
            self.model.backend().ready().await;
        }
        info.reason.push_str(if known { " and passed its self-check before" } else { " and passed its self-check" });
        if !verdict.failures.is_empty() {
            let failed = verdict.failures.join("; ");
            info.reason.push_str(&format!(" with {passed}, after {failed}"));
            info.fallbacks.push(format!("the GPU failed its self-check: {failed}; {passed} took over"));
        }
        Ok(())
    }

    async fn examine(&mut self, device: &Device) -> Result<Verdict> {
        let mut failures = Vec::new();
        for variant in device.variant().simpler() {
            if variant != self.model.backend().variant() {
                self.model.backend().set_variant(variant)?;
                self.model.backend().ready().await;
            }
            let found = match probe(&mut self.model).await {
                Ok(None) => return Ok(Verdict { passed: Some(variant), failures }),
                Ok(Some(failure)) => failure.to_string(),
                // Kernels that the driver does not take are wrong kernels, unless it is gone.
                Err(Error::Gpu { problem }) if device.lost().is_none() && variant != Variant::PLAIN => {
                    device.forgive();
                    problem
                }
                Err(error) => return Err(error),
            };
            failures.push(format!("{variant}: {found}"));
        }
        Ok(Verdict { passed: None, failures })
    }

    /// Whatever a verdict depends on.
    fn verdict_key(&mut self, model: &str, adapter: &str, environment: &str) -> String {
        let config = format!("{:?}", self.model.config());
        let (variant, precision) = (self.model.backend().variant(), self.model.backend().precision());
        let shaders: String =
            crate::backend::gpu::texts(variant, precision).into_iter().map(|(_, text)| text).collect();
        let shaders = crate::synthetic::fnv1a64(shaders.as_bytes());
        let version = env!("CARGO_PKG_VERSION");
        format!("{model}|{config}|{precision:?}|{adapter}|{variant}|{environment}|{version} {shaders:016x}")
    }
}

/// Which hardware is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// WebGPU where it can be had and passes its self-check, else the CPU.
    #[default]
    Auto,
    WebGpu,
    Cpu,
}

/// How to open a model.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    pub device: DeviceChoice,
    /// Tokens of KV cache of each session; `None`: the smaller of the model's and 2048.
    pub context_length: Option<usize>,
    /// How weights are held: [`nearest_precision`], or what was asked for. The caller makes the CPU backend with the same.
    pub precision: Precision,
    pub self_check: SelfCheck,
    /// GPU time that a submission may take, in milliseconds; `None`: [`crate::backend::gpu::BUDGET_MS`].
    pub gpu_budget_ms: Option<f64>,
    #[cfg(feature = "gpu")]
    pub gpu: DeviceOptions,
}

/// Whether a GPU must prove itself before it is used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SelfCheck {
    /// At every load.
    #[default]
    Always,
    /// At the first load in this environment (browser and version); the verdict is kept in the store.
    Once {
        environment: String,
    },
    Never,
}

/// Which hardware computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "Device"))]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    WebGpu,
    Cpu,
}

/// What was opened and where it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "EngineInfo"))]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Name of the model: hub id or address of the folder.
    pub model: String,
    /// Stored parameters; a shared matrix counts once.
    pub parameters: u64,
    /// Transformer blocks in the checkpoint.
    pub stored_blocks: usize,
    /// Layers a token passes through: more than `storedBlocks` where layers are shared.
    pub executed_layers: usize,
    pub hidden_size: usize,
    pub vocab_size: usize,
    /// Tokens of KV cache.
    pub context_length: usize,
    pub device: DeviceKind,
    pub dtype: Precision,
    /// Name of the GPU adapter, as far as the browser tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub adapter: Option<String>,
    /// What the chosen tier uses, such as `shader-f16`, `subgroups`, `simd128`, `relaxed-simd`.
    pub features: Vec<String>,
    /// Why this tier was chosen, in a sentence.
    pub reason: String,
    /// Whether the model has a chat template; without one it only completes text.
    pub chat: bool,
    /// From the model card, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub license: Option<String>,
    /// Where the weights came from.
    pub storage: Report,
    /// What was tried first and given up, in order.
    pub fallbacks: Vec<String>,
    /// Milliseconds that the GPU's self-check took; null if it did not run.
    pub self_check_ms: Option<f64>,
}

/// A model on the backend that was chosen.
pub enum Engine {
    Cpu(Box<Loaded<Cpu>>),
    #[cfg(feature = "gpu")]
    Gpu(Box<Loaded<Gpu>>),
}

/// Runs the expression on whichever backend is inside.
macro_rules! each {
    ($engine:expr, $loaded:ident => $result:expr) => {
        match $engine {
            Engine::Cpu($loaded) => $result,
            #[cfg(feature = "gpu")]
            Engine::Gpu($loaded) => $result,
        }
    };
}

impl Engine {
    /// Opens a checkpoint: configuration and tokenizer first, then the weights, straight into the backend. `cpu` makes the
    /// CPU backend, with as many threads as it can have.
    ///
    /// # Errors
    /// Whatever is wrong with the files or the device. With [`DeviceChoice::Auto`] a GPU that cannot be had is no error:
    /// [`Info::reason`] says why the CPU was taken.
    pub async fn open<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>>(
        checkpoint: &Checkpoint<H, S, T>,
        options: &OpenOptions,
        cpu: impl AsyncFnOnce(&Config) -> Result<Cpu>,
    ) -> Result<(Self, Info)> {
        let text = |bytes: Option<Vec<u8>>, file: &str| {
            bytes.map(|b| String::from_utf8(b).map_err(|_| Error::checkpoint(file, "not UTF-8"))).transpose()
        };
        let file = async |name: &str| checkpoint.file(name).await;
        let config = config(checkpoint).await?;
        let context_length = context_length(&config, options.context_length)?;
        let (tokenizer_json, tokenizer_config, generation_config, chat_template) = try_join4(
            file("tokenizer.json"),
            file("tokenizer_config.json"),
            file("generation_config.json"),
            file("chat_template.jinja"),
        )
        .await?;
        let tokenizer_model = if tokenizer_json.is_none() { file("tokenizer.model").await? } else { None };
        if tokenizer_json.is_none() && tokenizer_model.is_none() {
            let names = ["tokenizer.json", "tokenizer.model"];
            return Err(checkpoint.source().missing("tokenizer.json or tokenizer.model", &names));
        }
        let files = TextFiles {
            tokenizer_json,
            tokenizer_model,
            tokenizer_config: text(tokenizer_config, "tokenizer_config.json")?,
            generation_config: text(generation_config, "generation_config.json")?,
            chat_template: text(chat_template, "chat_template.jinja")?,
            tool_template: text(checkpoint.near_file(TOOL_TEMPLATE).await, TOOL_TEMPLATE)?,
        };
        checkpoint.expect_load();
        let text = Rc::new(TextModel::new(checkpoint.id(), &config, &files)?);
        let mut info = Info {
            model: checkpoint.id().into(),
            parameters: config.parameters(),
            stored_blocks: config.num_blocks,
            executed_layers: config.order().len(),
            hidden_size: config.hidden_size,
            vocab_size: config.vocab_size,
            context_length,
            dtype: options.precision,
            device: DeviceKind::Cpu,
            adapter: None,
            features: Vec::new(),
            reason: "device: 'cpu' was asked for".into(),
            chat: text.has_chat_template(),
            license: checkpoint.optional_file("README.md").await.as_deref().and_then(license),
            storage: Report::default(),
            fallbacks: Vec::new(),
            self_check_ms: None,
        };
        #[cfg(feature = "gpu")]
        if options.device != DeviceChoice::Cpu {
            let mut opened = Self::open_gpu(checkpoint, &config, &text, options, &mut info).await;
            if let Err(error @ (Error::DeviceLost { .. } | Error::Gpu { .. })) = &opened {
                // In browsers what was under way fails before the loss is told: either may be a lost device.
                info.fallbacks.push(format!("while the model was loaded: {error}; it was loaded again"));
                opened = Self::open_gpu(checkpoint, &config, &text, options, &mut info).await;
            }
            match opened {
                Ok(loaded) => {
                    info.device = DeviceKind::WebGpu;
                    return Ok((Engine::Gpu(Box::new(loaded)), info));
                }
                Err(error) if options.device == DeviceChoice::Auto && error.is_of_the_gpu() => {
                    info.reason = error.to_string();
                    info.adapter = None;
                    info.features.clear();
                    // A browser without WebGPU was never another tier.
                    if !matches!(error, Error::WebGpuUnavailable { .. }) {
                        info.fallbacks.push(format!("{error}; the CPU took over"));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        #[cfg(not(feature = "gpu"))]
        if options.device == DeviceChoice::WebGpu {
            return Err(Error::WebGpuUnavailable { reason: "this build has no GPU backend".into() });
        }
        let backend = cpu(&config).await?;
        info.features.push(Cpu::lanes().into());
        let (loaded, report) = Loaded::load(checkpoint, config, backend, text).await?;
        info.storage = report;
        Ok((Engine::Cpu(Box::new(loaded)), info))
    }

    /// The model on the GPU. Under [`DeviceChoice::Auto`] a GPU that is itself a program on the CPU counts as none: the
    /// CPU backend is faster.
    #[cfg(feature = "gpu")]
    async fn open_gpu<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>>(
        checkpoint: &Checkpoint<H, S, T>,
        config: &Config,
        text: &Rc<TextModel>,
        options: &OpenOptions,
        info: &mut Info,
    ) -> Result<Loaded<Gpu>> {
        let device = Device::open(&options.gpu).await?;
        if options.device == DeviceChoice::Auto && device.is_software() {
            return Err(Error::WebGpuUnavailable { reason: format!("{} computes on the CPU", device.name()) });
        }
        let mut gpu = Gpu::new(&device, config, options.precision)?;
        gpu.prepare();
        if let Some(milliseconds) = options.gpu_budget_ms {
            gpu.set_budget(milliseconds);
        }
        let loaded = Loaded::load(checkpoint, config.clone(), gpu, text.clone()).await;
        // A buffer that the device has not makes what follows fail too: it is the reason to give.
        device.settle().await?;
        let (mut loaded, report) = loaded?;
        info.storage = report;
        info.reason = "WebGPU is available".into();
        loaded.model.backend().ready().await;
        device.check()?;
        checkpoint.enter(Phase::SelfCheck);
        loaded.check(&device, checkpoint.store(), checkpoint.id(), &options.self_check, info).await?;
        info.adapter = Some(device.name());
        info.features = loaded.model.backend().variant().features();
        Ok(loaded)
    }

    /// Loads the model again after its device was lost, and goes on: sessions stay open and the answer under way continues.
    ///
    /// # Errors
    /// As [`open`](Self::open); the engine is as it was then, and this may be tried again.
    pub async fn recover<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>>(
        &mut self,
        checkpoint: &Checkpoint<H, S, T>,
        options: &OpenOptions,
        cpu: impl AsyncFnOnce(&Config) -> Result<Cpu>,
    ) -> Result<Info> {
        let (fresh, info) = Self::open(checkpoint, options, cpu).await?;
        match std::mem::replace(self, fresh) {
            Engine::Cpu(old) => each!(self, loaded => loaded.inherit(*old)?),
            #[cfg(feature = "gpu")]
            Engine::Gpu(old) => each!(self, loaded => loaded.inherit(*old)?),
        }
        Ok(info)
    }

    /// Why the GPU device was lost, once it was. In browsers what was under way fails a moment before the loss is told.
    pub fn device_lost(&mut self) -> Option<String> {
        match self {
            Engine::Cpu(_) => None,
            #[cfg(feature = "gpu")]
            Engine::Gpu(loaded) => loaded.model.backend().device().lost(),
        }
    }

    /// Loses the GPU device on purpose, as a driver reset would; for tests of [`recover`](Self::recover).
    pub fn lose_device(&mut self) {
        #[cfg(feature = "gpu")]
        if let Engine::Gpu(loaded) = self {
            loaded.model.backend().device().destroy();
        }
    }

    /// CPU threads that compute now, and why so many; `None` on the GPU.
    pub fn threads(&mut self) -> Option<(usize, String)> {
        match self {
            Engine::Cpu(loaded) => {
                let cpu = loaded.model.backend();
                Some((cpu.threads(), cpu.why().into()))
            }
            #[cfg(feature = "gpu")]
            Engine::Gpu(_) => None,
        }
    }

    pub fn text(&self) -> &Rc<TextModel> {
        each!(self, loaded => &loaded.text)
    }

    pub fn open_session(&mut self, capacity: usize) -> Result<u32> {
        each!(self, loaded => loaded.open_session(capacity))
    }

    pub fn fork_session(&mut self, id: u32) -> Result<u32> {
        each!(self, loaded => loaded.fork_session(id))
    }

    pub fn close_session(&mut self, id: u32) {
        each!(self, loaded => loaded.close_session(id))
    }

    pub fn session_tokens(&self, id: u32) -> Result<&[u32]> {
        each!(self, loaded => loaded.session_tokens(id))
    }

    pub fn begin(&mut self, id: u32, prompt: &[u32], options: &Options) -> Result<()> {
        each!(self, loaded => loaded.begin(id, prompt, options))
    }

    pub fn stop(&mut self) {
        each!(self, loaded => loaded.stop())
    }

    pub fn interrupt(&mut self) -> Result<Event> {
        each!(self, loaded => loaded.interrupt())
    }

    pub async fn next(&mut self) -> Result<Event> {
        each!(self, loaded => loaded.next().await)
    }

    pub async fn score(&mut self, sequences: &[(Vec<u32>, usize)]) -> Result<Vec<Score>> {
        each!(self, loaded => loaded.score(sequences).await)
    }

    /// Logits after each of `prompt` from position `from` on, (vocab) each, with their position.
    pub async fn logits(&mut self, prompt: &[u32], from: usize, visit: impl FnMut(usize, &[f32])) -> Result<()> {
        each!(self, loaded => loaded.logits(prompt, from, visit).await)
    }

    /// Logits after the last of `prompt`, (vocab).
    pub async fn last_logits(&mut self, prompt: &[u32]) -> Result<Vec<f32>> {
        each!(self, loaded => loaded.last_logits(prompt).await)
    }
}

/// The configuration of a checkpoint.
pub async fn config<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>>(
    checkpoint: &Checkpoint<H, S, T>,
) -> Result<Config> {
    let file = checkpoint.file("config.json").await?;
    let file = file.ok_or_else(|| checkpoint.source().missing("config.json", &["config.json"]))?;
    Config::parse(&String::from_utf8(file).map_err(|_| Error::checkpoint("config.json", "not UTF-8"))?)
}

/// The precision of the fewest bits that holds every weight of a checkpoint as it is. Published in 16 bits or more: f16.
pub fn nearest_precision<H: Host, S: Source<Bytes = H::Bytes>, T: Store<Bytes = H::Bytes>>(
    checkpoint: &Checkpoint<H, S, T>,
) -> Precision {
    nearest(&checkpoint.plan().infos())
}

fn nearest(tensors: &[TensorInfo]) -> Precision {
    let holds = |precision: Precision| {
        tensors.iter().filter(|tensor| tensor.shape.len() > 1).all(|tensor| match tensor.name.as_str() {
            // 8 bits lose nothing that shows of a table of fewer (docs/quantisation.md).
            "model.embed_tokens.weight" | "lm_head.weight" => tensor.dtype.block().0 > 1,
            _ => blocks::holds(precision.of_blocks(), tensor.dtype),
        })
    };
    [Precision::Q4, Precision::Q8].into_iter().find(|precision| holds(*precision)).unwrap_or(Precision::F16)
}

/// The licence that a model card names: `license` of its YAML front matter, or `license_name` where that is `other`.
fn license(card: &[u8]) -> Option<String> {
    let (front, _) = std::str::from_utf8(card).ok()?.strip_prefix("---\n")?.split_once("\n---")?;
    let field = |name: &str| {
        let value = front.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let value = value.trim().trim_matches(['"', '\'']);
        (!value.is_empty()).then(|| value.to_owned())
    };
    match field("license") {
        Some(other) if other == "other" => field("license_name").or(Some(other)),
        license => license,
    }
}

/// Tokens of KV cache: those wanted if the model can have so many, else its default.
pub fn context_length(config: &Config, wanted: Option<usize>) -> Result<usize> {
    match wanted {
        None => Ok(config.max_positions.min(2048)),
        Some(n) if (1..=config.max_positions).contains(&n) => Ok(n),
        Some(n) => {
            let problem = format!("{n} is not from 1 to {}, the longest context of this model", config.max_positions);
            Err(Error::option("contextLength", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn licences_of_model_cards() {
        let license = |card: &str| super::license(card.as_bytes());
        assert_eq!(license("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n").as_deref(), Some("apache-2.0"));
        assert_eq!(license("---\nlicense: other\nlicense_name: \"fair\"\n---\n").as_deref(), Some("fair"));
        assert_eq!(license("---\nlicense: other\n---\n").as_deref(), Some("other"));
        for none in [
            "",
            "# Model\nlicense: mit\n",
            "---\nlicense:\n---\n",
            "---\nlicense: mit\n",
            "---\ntags: [a]\n---\nlicense: mit\n",
        ] {
            assert_eq!(license(none), None, "{none}");
        }
    }
}

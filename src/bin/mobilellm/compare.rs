//! `compare`: what is lost with fewer bits, as the rows of a Markdown table.

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::engine::{DeviceChoice, Engine, Event, OpenOptions, Options};
use mobilellm_web::error::{Error, Result};
use mobilellm_web::text::ChatInput;
use mobilellm_web::weights::source::{DirSource, NativeHost};
use mobilellm_web::weights::{self, Checkpoint, NoStore};
use pollster::block_on;
use serde_json::Value;
use std::path::PathBuf;

/// Tokens of a greedy run.
const GREEDY: usize = 64;

#[derive(clap::Args)]
pub struct Compare {
    /// JSON with `perplexity.text` and `prompts` of `prompt` or `messages`.
    reference: PathBuf,
    /// Folders or GGUF files, each with @f16, @q8 or @q4 behind it for how weights are held; the first is what the others are compared with.
    #[arg(required = true)]
    models: Vec<String>,
    /// CPU threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// What a model says.
struct Said {
    bytes: u64,
    /// Natural log-probabilities after each token of the text but the last, (tokens - 1, vocab).
    logprobs: Vec<Vec<f32>>,
    /// The text's ids.
    ids: Vec<u32>,
    runs: Vec<Vec<u32>>,
}

pub fn compare(arguments: &Compare) -> Result<()> {
    let path = arguments.reference.display().to_string();
    let io = |problem: String| Error::Io { path: path.clone(), problem };
    let text = std::fs::read_to_string(&arguments.reference).map_err(|e| io(e.to_string()))?;
    let reference: Value = serde_json::from_str(&text).map_err(|e| io(e.to_string()))?;
    let mut base: Option<Said> = None;
    println!(
        "| weights | MB | perplexity | same best token | mean KL | equal runs |\n| --- | --- | --- | --- | --- | --- |"
    );
    for model in &arguments.models {
        let said = listen(model, &reference, arguments.threads)?;
        let base = base.get_or_insert_with(|| Said {
            bytes: 0,
            logprobs: said.logprobs.clone(),
            ids: said.ids.clone(),
            runs: said.runs.clone(),
        });
        if said.ids != base.ids {
            return Err(Error::InvalidOption {
                name: "models".into(),
                problem: format!("{model} has another tokenizer"),
            });
        }
        let count = said.logprobs.len() as f64;
        let loss: f64 = said.logprobs.iter().zip(&said.ids[1..]).map(|(row, &id)| -f64::from(row[id as usize])).sum();
        let pairs = || base.logprobs.iter().zip(&said.logprobs);
        let same = pairs().filter(|(a, b)| best(a) == best(b)).count();
        let kl: f64 = pairs().map(|(a, b)| divergence(a, b)).sum();
        let equal = base.runs.iter().zip(&said.runs).filter(|(a, b)| a == b).count();
        let name = model.rsplit('/').next().unwrap_or(model);
        println!(
            "| {name} | {:.1} | {:.3} | {:.2}% | {:.2e} | {equal} of {} |",
            said.bytes as f64 / 1e6,
            (loss / count).exp(),
            same as f64 / count * 100.0,
            kl / count,
            said.runs.len()
        );
    }
    Ok(())
}

fn best(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (id, value)| if *value > row[best] { id } else { best })
}

/// Kullback-Leibler divergence of `b` from `a`, in nats.
fn divergence(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a).exp() * f64::from(a - b)).sum()
}

fn listen(model: &str, reference: &Value, threads: usize) -> Result<Said> {
    let (path, precision) = match model.rsplit_once('@') {
        Some((path, "q8")) => (path, Precision::Q8),
        Some((path, "q4")) => (path, Precision::Q4),
        Some((path, "f16")) => (path, Precision::F16),
        Some((_, other)) => {
            let problem = format!("@{other} is none of @f16, @q8 and @q4");
            return Err(Error::InvalidOption { name: "models".into(), problem });
        }
        None => (model, Precision::F16),
    };
    let (host, source) = (NativeHost::default(), DirSource::new(path));
    let opened = Checkpoint::open(host, source, NoStore::default(), weights::Options::default(), |_| ());
    let checkpoint = block_on(opened)?;
    let options = OpenOptions { device: DeviceChoice::Cpu, context_length: None, ..OpenOptions::default() };
    let cpu = async |config: &_| Ok(Cpu::with_threads(config, precision, threads));
    let (mut engine, info) = block_on(Engine::open(&checkpoint, &options, cpu))?;
    let ids = engine.text().encode_prompt(reference["perplexity"]["text"].as_str().unwrap_or_default(), false)?;
    let mut logprobs = Vec::with_capacity(ids.len());
    let keep = |_: usize, logits: &[f32]| logprobs.push(mobilellm_web::backend::sampler::log_softmax(logits));
    block_on(engine.logits(&ids[..ids.len().saturating_sub(1)], 0, keep))?;
    let mut runs = Vec::new();
    for prompt in reference["prompts"].as_array().into_iter().flatten() {
        let ids = match prompt["messages"].as_array() {
            None => engine.text().encode_prompt(prompt["prompt"].as_str().unwrap_or_default(), false)?,
            Some(messages) => {
                let chat = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
                engine.text().encode_chat(&chat)?
            }
        };
        let session = engine.open_session(info.context_length)?;
        let options = Options { max_tokens: Some(GREEDY), ignore_eos: true, ..Options::default() };
        engine.begin(session, &ids, &options)?;
        let mut run = Vec::new();
        loop {
            match block_on(engine.next())? {
                Event::Token { token_id, .. } => run.push(token_id),
                Event::Done { .. } => break,
                Event::Prefill { .. } => {}
            }
        }
        engine.close_session(session);
        runs.push(run);
    }
    let bytes = checkpoint.plan().files.iter().map(|file| file.size).sum();
    Ok(Said { bytes, logprobs, ids, runs })
}

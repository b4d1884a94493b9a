//! `mobilellm`: the engine without a browser, for debugging, tests and preparing checkpoints.

mod compare;
mod convert;

use clap::{Parser, Subcommand, ValueEnum};
use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::engine::{DeviceChoice, Engine, Event, OpenOptions, Options, nearest_precision};
use mobilellm_web::error::{Error, Result};
use mobilellm_web::synthetic;
use mobilellm_web::text::ChatInput;
use mobilellm_web::weights::source::{DirSource, NativeHost};
use mobilellm_web::weights::{self, Checkpoint, NoStore};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer a prompt: text on standard output, timings on standard error.
    Run(Run),
    /// Write a checkpoint with seeded random weights, for benchmarks and tests.
    Synth(Synth),
    /// Rewrite a checkpoint as FP16 shards with a manifest of hashes.
    Convert(convert::Convert),
    /// Compare models with fewer bits: size, perplexity, agreement, greedy runs.
    Compare(compare::Compare),
    /// Check a converted checkpoint against its manifest.
    Verify(convert::Verify),
}

#[derive(clap::Args)]
struct Run {
    /// Folder of a checkpoint in Hugging Face layout.
    folder: PathBuf,
    prompt: String,
    /// Put the prompt through the model's chat template, as the user's message.
    #[arg(long)]
    chat: bool,
    /// Read special tokens that the prompt spells out as such.
    #[arg(long, conflicts_with = "chat")]
    special_tokens: bool,
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    device: Device,
    /// How weights are held in memory; default: in the fewest bits that lose nothing.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
    /// CPU threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Tokens of KV cache; default: the smaller of the model's and 2048.
    #[arg(long)]
    context_length: Option<usize>,
    #[arg(long)]
    max_tokens: Option<usize>,
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object instead: prompt ids, last-position logits, ids, text, usage, timings.
    #[arg(long)]
    logits: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F16,
    Q8,
    Q4,
}

#[derive(Clone, Copy, ValueEnum)]
enum Device {
    Auto,
    Webgpu,
    Cpu,
}

#[derive(clap::Args)]
struct Synth {
    /// Folder to write.
    folder: PathBuf,
    /// config.json to follow.
    config: PathBuf,
    #[arg(long, default_value_t = 1)]
    shards: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => pollster::block_on(answer(&run)),
        Command::Synth(synth) => write_synthetic(&synth),
        Command::Convert(arguments) => convert::convert(&arguments),
        Command::Compare(arguments) => compare::compare(&arguments),
        Command::Verify(arguments) => convert::verify(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error [{}]: {error}\n{}", error.code(), error.remedy());
            ExitCode::FAILURE
        }
    }
}

async fn answer(run: &Run) -> Result<()> {
    let (host, source) = (NativeHost::default(), DirSource::new(&run.folder));
    let checkpoint = Checkpoint::open(host, source, NoStore::default(), weights::Options::default(), |_| ()).await?;
    let device = match run.device {
        Device::Auto => DeviceChoice::Auto,
        Device::Webgpu => DeviceChoice::WebGpu,
        Device::Cpu => DeviceChoice::Cpu,
    };
    let precision = match run.dtype {
        Some(Dtype::F16) => Precision::F16,
        Some(Dtype::Q8) => Precision::Q8,
        Some(Dtype::Q4) => Precision::Q4,
        None => nearest_precision(&checkpoint),
    };
    let options = OpenOptions { device, precision, context_length: run.context_length, ..OpenOptions::default() };
    let started = Instant::now();
    let (mut engine, info) =
        Engine::open(&checkpoint, &options, async |config| Ok(Cpu::with_threads(config, precision, run.threads)))
            .await?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let prompt = if run.chat {
        let messages = [json!({"role": "user", "content": run.prompt})];
        let chat = ChatInput { messages: &messages, add_generation_prompt: true, ..ChatInput::default() };
        engine.text().encode_chat(&chat)?
    } else {
        engine.text().encode_prompt(&run.prompt, run.special_tokens)?
    };
    let options = Options {
        max_tokens: run.max_tokens,
        temperature: run.temperature,
        top_k: run.top_k,
        top_p: run.top_p,
        min_p: run.min_p,
        repetition_penalty: run.repetition_penalty,
        seed: run.seed,
        special_tokens: run.chat,
        ..Options::default()
    };
    let session = engine.open_session(info.context_length)?;
    engine.begin(session, &prompt, &options)?;
    let (mut answer, mut ids) = (String::new(), Vec::new());
    loop {
        let text = match engine.next().await? {
            Event::Prefill { .. } => continue,
            Event::Token { text, token_id, .. } => {
                ids.push(token_id);
                text
            }
            Event::Done { text, finish_reason, usage, timings } => {
                emit(run, &text, &mut answer)?;
                if run.logits {
                    let logits = engine.last_logits(&prompt).await?;
                    let result = json!({"info": info, "loadMs": load_ms, "promptIds": prompt, "logits": logits, "tokenIds": ids,
                        "text": answer, "finishReason": finish_reason, "usage": usage, "timings": timings});
                    println!("{result}");
                } else {
                    println!();
                    eprintln!(
                        "{} on {:?} ({}): load {load_ms:.0} ms, first token {:.1} ms, prefill {:.1} tok/s, decode {:.1} tok/s, {} + {} tokens, {finish_reason:?}",
                        info.model,
                        info.device,
                        info.reason,
                        timings.ttft_ms,
                        timings.prefill_tokens_per_second,
                        timings.decode_tokens_per_second,
                        usage.prompt_tokens,
                        usage.completion_tokens
                    );
                }
                return Ok(());
            }
        };
        emit(run, &text, &mut answer)?;
    }
}

fn write_synthetic(synth: &Synth) -> Result<()> {
    let config = std::fs::read_to_string(&synth.config)
        .map_err(|e| Error::Io { path: synth.config.display().to_string(), problem: e.to_string() })?;
    synthetic::write_checkpoint(&synth.folder, &config, synth.seed, synth.shards)
}

fn emit(run: &Run, text: &str, answer: &mut String) -> Result<()> {
    answer.push_str(text);
    if run.logits {
        return Ok(());
    }
    let mut out = std::io::stdout();
    let io = |e: std::io::Error| Error::Io { path: "standard output".into(), problem: e.to_string() };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(io)
}

//! `convert` and `verify`, with a progress bar.

use indicatif::{ProgressBar, ProgressStyle};
use mobilellm_web::backend::Precision;
use mobilellm_web::error::{Error, Result};
use mobilellm_web::weights::Dtype;
use mobilellm_web::weights::convert;
use mobilellm_web::weights::formats::gguf;
use mobilellm_web::weights::plan::Plan;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Convert {
    /// Folder of a checkpoint (safetensors or pytorch_model.bin, config.json and tokenizer), or a GGUF.
    from: PathBuf,
    /// Folder to write, or a GGUF if the name ends with .gguf; it must not exist.
    to: PathBuf,
    /// How weights are written.
    #[arg(long, value_enum, default_value_t = Type::F16)]
    dtype: Type,
    /// Longest shard, such as 16MiB; a single tensor may be longer.
    #[arg(long, default_value = "16MiB", value_parser = parse_size)]
    shard_size: u64,
}

/// A folder takes f16, q8 and q4; a GGUF those of its own.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Type {
    F16,
    Q8,
    Q4,
    F32,
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_0")]
    Q4_0,
    #[value(name = "q4_1")]
    Q4_1,
    #[value(name = "q5_0")]
    Q5_0,
    #[value(name = "q5_1")]
    Q5_1,
}

impl Type {
    /// Of a folder.
    fn precision(self) -> Result<Precision> {
        match self {
            Type::F16 => Ok(Precision::F16),
            Type::Q8 => Ok(Precision::Q8),
            Type::Q4 => Ok(Precision::Q4),
            _ => Err(wrong("a folder takes f16, q8 or q4; the other types are a GGUF's")),
        }
    }

    /// Of a GGUF.
    fn gguf(self) -> Result<Dtype> {
        Ok(match self {
            Type::Q8 | Type::Q4 => {
                return Err(wrong("q8 and q4 are a folder's; a GGUF takes q8_0, q4_0, q4_1 and others"));
            }
            Type::F32 => Dtype::F32,
            Type::F16 => Dtype::F16,
            Type::Bf16 => Dtype::Bf16,
            Type::Q8_0 => Dtype::Q8_0,
            Type::Q4_0 => Dtype::Q4_0,
            Type::Q4_1 => Dtype::Q4_1,
            Type::Q5_0 => Dtype::Q5_0,
            Type::Q5_1 => Dtype::Q5_1,
        })
    }
}

fn wrong(problem: &str) -> Error {
    Error::InvalidOption { name: "dtype".into(), problem: problem.into() }
}

#[derive(clap::Args)]
pub struct Verify {
    /// Folder that `convert` wrote.
    folder: PathBuf,
}

pub fn convert(arguments: &Convert) -> Result<()> {
    let bar = bar();
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    if arguments.to.extension().is_some_and(|extension| extension == "gguf") {
        let tensors = gguf::write::write(&arguments.from, &arguments.to, arguments.dtype.gguf()?, &progress)?;
        bar.finish_and_clear();
        println!("wrote {}: {tensors} tensors", arguments.to.display());
        return Ok(());
    }
    let precision = arguments.dtype.precision()?;
    let plan = convert::convert(&arguments.from, &arguments.to, precision, arguments.shard_size, &progress)?;
    bar.finish_and_clear();
    report("wrote and verified", &arguments.to, &plan)
}

pub fn verify(arguments: &Verify) -> Result<()> {
    let bar = bar();
    let plan = convert::verify(&arguments.folder, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    report("verified", &arguments.folder, &plan)
}

fn report(what: &str, folder: &Path, plan: &Plan) -> Result<()> {
    let bytes: u64 = plan.files.iter().chain(&plan.others).map(|f| f.size).sum();
    let (shards, tensors) = (plan.files.len(), plan.tensors.len());
    println!("{what} {}: {tensors} tensors in {shards} files, {:.1} MB", folder.display(), bytes as f64 / 1e6);
    Ok(())
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}, {eta}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn parse_size(text: &str) -> std::result::Result<u64, Error> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(Error::InvalidOption {
            name: "shard-size".into(),
            problem: format!("{text:?} is not a size such as 16MiB"),
        }),
    }
}

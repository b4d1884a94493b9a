//! Any checkpoint -> shards of f16 or of fewer bits in Hugging Face's sharded layout, a manifest with every hash, and the files beside them.
//!
//! ```text
//! plan of SRC -> tensors in order, packed into shards -> f16 -> temporary folder -> verified -> renamed to DST
//! ```
//! The same input gives the same bytes. A tensor is never split, so one longer than the shard size has a shard of its own;
//! the manifest gives the hash of each piece of such a file.

use super::digest::Digest;
use super::file::{FileMeta, PIECE};
use super::formats::gguf::{self, blocks};
use super::names::{EMBEDDING, HEAD, Use, uses};
use super::plan::{MANIFEST, Plan, TensorPlan};
use super::source::{DirSource, Source};
use super::{Dtype, TensorInfo};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::packed::{Packing, Precision, q4, q8, repack};
use half::f16;
use serde_json::{Value, json};
use sha2::Digest as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Default length of a shard in bytes: one piece.
pub const SHARD_SIZE: u64 = 16 << 20;
/// Files beside the weights that are copied where they exist. `config.json` is copied with its dtype changed.
const COPIED: [&str; 14] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "configuration_mobilellm.py",
    "modeling_mobilellm.py",
    "LICENSE",
    "LICENSE.txt",
    "README.md",
    "MODEL_CARD.md",
];
/// Bytes of a tensor that are read at a time.
const READ: usize = 1 << 20;
/// Longest file beside the weights, in bytes.
const MAX_SMALL: u64 = 64 << 20;

/// Converts the checkpoint at `from` (a folder, or a GGUF) into the new folder `to`, its weights held as `precision` says:
/// what is held so already is copied. `progress` hears (bytes done, bytes in all) of the
/// tensors as they are written. Returns the manifest's plan.
///
/// # Errors
/// Whatever is wrong with the source; [`Error::Tensor`] for a value that f16 cannot hold; [`Error::Io`] if `to` exists
/// or cannot be written. Then nothing is left behind.
pub fn convert(
    from: &Path,
    to: &Path,
    precision: Precision,
    shard_size: u64,
    progress: &dyn Fn(u64, u64),
) -> Result<Plan> {
    if to.exists() {
        return Err(io_error(to, "exists already"));
    }
    let source = DirSource::new(from);
    let (plan, keys) = pollster::block_on(Plan::read(&source))?;
    let small = |name: &str| small_file(&source, keys.as_ref(), name);
    let config_text = required_text(&source, keys.as_ref(), "config.json")?;
    let config = Config::parse(&config_text)?;
    let tensors = output_tensors(&plan, &config, precision)?;
    let shards = pack(&tensors, shard_size);

    let folder = Partial::new(to)?;
    let total = tensors.iter().map(|(_, info)| info.bytes()).sum();
    let mut done = 0;
    let mut written = Plan::default();
    let mut weight_map = serde_json::Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
        };
        let header = header(shard);
        let mut file = Hashing::create(&folder.0, &name)?;
        file.write(&(header.len() as u64).to_le_bytes())?;
        file.write(&header)?;
        let mut start = 8 + header.len() as u64;
        for &(tensor, ref info) in *shard {
            written.tensors.push(TensorPlan { info: info.clone(), file: number, start });
            weight_map.insert(info.name.clone(), name.clone().into());
            start += info.bytes();
            copy_tensor(&source, &plan, &plan.tensors[tensor], packing(info.dtype), config.head_dim, |bytes| {
                file.write(bytes)?;
                done += bytes.len() as u64;
                progress(done, total);
                Ok(())
            })?;
        }
        written.files.push(file.finish()?);
    }
    if shards.len() > 1 {
        weight_map.sort_keys();
        let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
        written.others.push(write_file(&folder.0, "model.safetensors.index.json", pretty(&index)?.as_bytes())?);
    }
    written.others.push(write_file(&folder.0, "config.json", half_config(&config_text)?.as_bytes())?);
    for name in COPIED {
        if let Some(bytes) = small(name)? {
            written.others.push(write_file(&folder.0, name, &bytes)?);
        }
    }
    write_file(&folder.0, MANIFEST, written.to_manifest()?.as_bytes())?;
    verify(&folder.0, &|_, _| {})?;
    folder.rename(to)?;
    Ok(written)
}

/// Checks every file of a converted folder against its manifest, and the manifest against the shards' own headers.
/// `progress` hears (bytes read, bytes in all).
pub fn verify(folder: &Path, progress: &dyn Fn(u64, u64)) -> Result<Plan> {
    let manifest = folder.join(MANIFEST);
    let text = fs::read(&manifest).map_err(|e| io_error(&manifest, e))?;
    let plan = Plan::from_manifest(&text)?
        .ok_or_else(|| Error::checkpoint(MANIFEST, "not a manifest of `mobilellm convert`"))?;
    let files = || plan.files.iter().chain(&plan.others);
    let total = files().map(|f| f.size).sum();
    let mut done = 0;
    for expected in files() {
        let path = folder.join(&expected.name);
        let mut file = File::open(&path).map_err(|e| io_error(&path, e))?;
        let mut hashes = Hashes::default();
        let mut block = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut block).map_err(|e| io_error(&path, e))?;
            if n == 0 {
                break;
            }
            hashes.update(&block[..n]);
            done += n as u64;
            progress(done, total);
        }
        compare(expected, &hashes.finish(&expected.name))?;
    }
    let headers = pollster::block_on(Plan::of_weights(&DirSource::new(folder)))?;
    let places = |plan: &Plan| {
        let mut places: Vec<_> =
            plan.tensors.iter().map(|t| (plan.files[t.file].name.clone(), t.start, t.info.clone())).collect();
        places.sort_by(|a, b| a.2.name.cmp(&b.2.name));
        places
    };
    match places(&plan).iter().zip(&places(&headers)).find(|(a, b)| a != b) {
        Some(((_, _, info), _)) => Err(Error::tensor(&info.name, "the manifest and the shard's header disagree")),
        None if plan.tensors.len() != headers.tensors.len() => {
            Err(Error::checkpoint(MANIFEST, "lists other tensors than the shards hold"))
        }
        None => Ok(plan),
    }
}

fn compare(expected: &FileMeta, got: &FileMeta) -> Result<()> {
    let error = |piece: String, a: String, b: String| {
        Err(Error::Integrity { file: expected.name.clone(), piece, expected: a, got: b })
    };
    if let Some(n) = (0..expected.pieces.len()).find(|&n| got.pieces.get(n) != Some(&expected.pieces[n])) {
        let found = got.pieces.get(n).map_or_else(|| "nothing".into(), Digest::to_string);
        return error(format!("piece {n}"), expected.pieces[n].to_string(), found);
    }
    if expected.size != got.size {
        return error("size".into(), expected.size.to_string(), got.size.to_string());
    }
    match (expected.sha256, got.sha256) {
        (Some(a), Some(b)) if a != b => error("the whole file".into(), a.to_string(), b.to_string()),
        _ => Ok(()),
    }
}

/// The tensors to write, by number in `plan`, under their usual names and in their new types. Of a shared matrix one copy, under
/// the embedding's name: under `lm_head.weight` alone transformers takes it for the head and leaves the embedding random.
fn output_tensors(plan: &Plan, config: &Config, precision: Precision) -> Result<Vec<(usize, TensorInfo)>> {
    let uses = uses(config, &plan.infos())?;
    let both = uses.contains(&Use::Weight(EMBEDDING.into()));
    let mut kept = Vec::with_capacity(uses.len());
    for (number, (used, t)) in uses.into_iter().zip(&plan.tensors).enumerate() {
        let name = match used {
            Use::Weight(name) if config.tied && name == HEAD && both => continue,
            Use::Weight(name) if config.tied && name == HEAD => EMBEDDING.into(),
            Use::Weight(name) => name,
            Use::Skipped { .. } => continue,
        };
        let held = match name.as_str() {
            _ if t.info.shape.len() < 2 => Packing::F16,
            EMBEDDING | HEAD => precision.of_tables(),
            _ => precision.of_blocks(),
        };
        let dtype = match held {
            Packing::F16 => Dtype::F16,
            Packing::Q8 => Dtype::Q8_0,
            Packing::Q4 => Dtype::Q4_1,
        };
        kept.push((number, TensorInfo { name, dtype, rope_pairs: false, ..t.info.clone() }));
    }
    Ok(kept)
}

/// Cuts the list where a shard, header included, would grow longer than `shard_size`.
fn pack(tensors: &[(usize, TensorInfo)], shard_size: u64) -> Vec<&[(usize, TensorInfo)]> {
    let mut shards = Vec::new();
    let mut start = 0;
    for end in 1..=tensors.len() {
        let shard = &tensors[start..end];
        let bytes: u64 = shard.iter().map(|(_, info)| info.bytes()).sum();
        if shard.len() > 1 && 8 + header(shard).len() as u64 + bytes > shard_size {
            shards.push(&tensors[start..end - 1]);
            start = end - 1;
        }
    }
    shards.push(&tensors[start..]);
    shards
}

/// JSON header of a shard, padded to a multiple of 8 bytes as the format's own writer does.
fn header(shard: &[(usize, TensorInfo)]) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    let mut metadata = serde_json::Map::from_iter([("format".to_owned(), "pt".into())]);
    let mut at = 0;
    for (_, info) in shard {
        let end = at + info.bytes();
        let offsets = [at, end];
        let entry = match info.dtype {
            Dtype::F16 => json!({"dtype": "F16", "shape": info.shape, "data_offsets": offsets}),
            // As `safetensors::packed` reads it.
            packed => {
                metadata.insert(info.name.clone(), json!(packed));
                json!({"dtype": "U8", "shape": [info.shape[0], info.row_bytes()], "data_offsets": offsets})
            }
        };
        entries.insert(info.name.clone(), entry);
        at = end;
    }
    entries.insert("__metadata__".into(), metadata.into());
    let mut header = Value::Object(entries).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    header
}

/// A file beside the weights of a folder, or as a GGUF's header gives it.
pub(super) fn small_file(source: &DirSource, header: Option<&gguf::Header>, name: &str) -> Result<Option<Vec<u8>>> {
    match header {
        Some(header) => header.small_file(name),
        None => pollster::block_on(source.read_all(name, MAX_SMALL)),
    }
}

pub(super) fn required_text(source: &DirSource, header: Option<&gguf::Header>, name: &str) -> Result<String> {
    let missing = || Error::FileNotFound { file: name.into(), searched: source.id() };
    let bytes = small_file(source, header, name)?.ok_or_else(missing)?;
    String::from_utf8(bytes).map_err(|_| Error::checkpoint(name, "not UTF-8"))
}

/// Reads a tensor in parts of whole rows, of so many that `unit` divides them, and hands them on.
pub(super) fn read_rows(
    source: &DirSource,
    plan: &Plan,
    tensor: &TensorPlan,
    unit: usize,
    mut take: impl FnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    let unit_bytes = tensor.info.row_bytes() * unit;
    let part = (READ / unit_bytes).max(1) * unit_bytes;
    for start in (tensor.start..tensor.end()).step_by(part) {
        let end = tensor.end().min(start + part as u64);
        take(pollster::block_on(source.read(&plan.files[tensor.file], start..end, 0, &|_| {}))?)?;
    }
    Ok(())
}

/// What the rows of a written tensor are.
fn packing(dtype: Dtype) -> Packing {
    match dtype {
        Dtype::Q8_0 => Packing::Q8,
        Dtype::Q4_1 => Packing::Q4,
        _ => Packing::F16,
    }
}

/// Reads a tensor in parts and hands them on packed, rows of q and k in two halves.
fn copy_tensor(
    source: &DirSource,
    plan: &Plan,
    tensor: &TensorPlan,
    held: Packing,
    head_dim: usize,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let info = &tensor.info;
    let unit = if info.rope_pairs { head_dim } else { 1 };
    read_rows(source, plan, tensor, unit, |bytes| {
        let rows = packed_rows(info, held, bytes)?;
        match info.rope_pairs {
            true => {
                let row_bytes = held.row_bytes(info.shape.last().copied().unwrap_or(1));
                write(&gguf::half_split(&rows, row_bytes, head_dim))
            }
            false => write(&rows),
        }
    })
}

/// Whole rows as `held`; fitted to the values that the source gives, not to these rounded to f16.
fn packed_rows(info: &TensorInfo, held: Packing, bytes: Vec<u8>) -> Result<Vec<u8>> {
    if let Some((packing, rows)) = blocks::packed(info.dtype, held, &bytes) {
        let packed = repack(packing, held, &rows).map_err(|problem| Error::tensor(&info.name, problem))?;
        return Ok(packed.into_owned());
    }
    if held == Packing::F16 {
        return to_f16(info, bytes);
    }
    let mut values = Vec::new();
    info.dtype.to_f32(&bytes, &mut values);
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::tensor(&info.name, format!("holds {value}")));
    }
    let groups = values.as_chunks().0.iter();
    Ok(match held {
        Packing::Q8 => groups.flat_map(|group| q8::Group::fit(group).to_bytes()).collect(),
        _ => groups.flat_map(|group| q4::Group::fit(group).to_bytes()).collect(),
    })
}

fn to_f16(info: &TensorInfo, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let narrow = |value: f32| {
        let half = f16::from_f32(value);
        if half.is_finite() {
            Ok(half.to_le_bytes())
        } else {
            Err(Error::tensor(&info.name, format!("holds {value}, which f16 cannot")))
        }
    };
    let halves: Result<Vec<[u8; 2]>> = match info.dtype {
        Dtype::F16 => {
            let (halves, _) = bytes.as_chunks::<2>();
            return match halves.iter().find(|h| !f16::from_le_bytes(**h).is_finite()) {
                Some(h) => Err(Error::tensor(&info.name, format!("holds {}", f16::from_le_bytes(*h)))),
                None => Ok(bytes),
            };
        }
        dtype => {
            let mut values = Vec::new();
            dtype.to_f32(&bytes, &mut values);
            values.into_iter().map(narrow).collect()
        }
    };
    Ok(halves?.into_flattened())
}

/// `config.json` with the dtype that the weights now have.
fn half_config(text: &str) -> Result<String> {
    let mut config: Value = serde_json::from_str(text).map_err(|e| Error::config("config.json", e))?;
    for field in ["torch_dtype", "dtype"] {
        if let Some(dtype) = config.get_mut(field) {
            *dtype = "float16".into();
        }
    }
    pretty(&config)
}

fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).map(|text| text + "\n").map_err(Error::internal)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<FileMeta> {
    let mut file = Hashing::create(folder, name)?;
    file.write(bytes)?;
    file.finish()
}

fn io_error(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Io { path: path.display().to_string(), problem: problem.to_string() }
}

/// SHA-256 of a file and of its pieces.
#[derive(Default)]
struct Hashes {
    size: u64,
    whole: sha2::Sha256,
    piece: sha2::Sha256,
    pieces: Vec<Digest>,
}

impl Hashes {
    fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        while !bytes.is_empty() {
            let room = (PIECE - self.size % PIECE).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(room as usize);
            self.piece.update(now);
            self.size += room;
            if self.size.is_multiple_of(PIECE) {
                self.pieces.push(Digest(self.piece.finalize_reset().into()));
            }
            bytes = later;
        }
    }

    fn finish(mut self, name: &str) -> FileMeta {
        if !self.size.is_multiple_of(PIECE) {
            self.pieces.push(Digest(self.piece.finalize().into()));
        }
        if self.size <= PIECE {
            self.pieces.clear();
        }
        let sha256 = Some(Digest(self.whole.finalize().into()));
        FileMeta { sha256, pieces: self.pieces, ..FileMeta::new(name, self.size) }
    }
}

/// A new file that is hashed as it is written.
struct Hashing {
    path: PathBuf,
    name: String,
    file: File,
    hashes: Hashes,
}

impl Hashing {
    fn create(folder: &Path, name: &str) -> Result<Self> {
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|e| io_error(&path, e))?;
        Ok(Self { path, name: name.into(), file, hashes: Hashes::default() })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hashes.update(bytes);
        self.file.write_all(bytes).map_err(|e| io_error(&self.path, e))
    }

    fn finish(self) -> Result<FileMeta> {
        self.file.sync_all().map_err(|e| io_error(&self.path, e))?;
        Ok(self.hashes.finish(&self.name))
    }
}

/// A folder under a temporary name beside its final one; it disappears unless it is renamed.
struct Partial(PathBuf);

impl Partial {
    fn new(to: &Path) -> Result<Self> {
        let name = to.file_name().ok_or_else(|| io_error(to, "not a folder's name"))?.to_string_lossy();
        let path = to.with_file_name(format!(".{name}.partial-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| io_error(&path, e))?;
        Ok(Self(path))
    }

    fn rename(self, to: &Path) -> Result<()> {
        fs::rename(&self.0, to).map_err(|e| io_error(to, e))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing left under this name.
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! Any checkpoint -> one GGUF, as llama.cpp reads it.
//!
//! ```text
//! plan of SRC -> keys (numbers, tokenizer, template) and tensors -> header
//!             -> tensors in order, as f32 -> blocks -> file under a temporary name -> renamed to DST
//! ```
//! Values go from what SRC holds straight to the blocks. The blocks of a model that shares its layers are written as often as
//! they run, since the format has no word for that: such a file is larger than its model, and computes the same.

use super::blocks::encode;
use super::{BLOCK_NAMES, TOP_NAMES, files, half_split_row};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::rope::RopeScaling;
use crate::text::{TextFiles, TextModel, sentencepiece_pieces};
use crate::weights::Dtype;
use crate::weights::convert::{read_rows, required_text, small_file};
use crate::weights::plan::Plan;
use crate::weights::source::DirSource;
use half::{bf16, f16};
use serde_json::Value;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

const ALIGNMENT: u64 = 32;

/// The types that are written, with `general.file_type` and the type of embedding and head.
const TYPES: [(Dtype, u32, Dtype); 8] = [
    (Dtype::F32, 0, Dtype::F32),
    (Dtype::F16, 1, Dtype::F16),
    (Dtype::Bf16, 32, Dtype::Bf16),
    (Dtype::Q8_0, 7, Dtype::Q8_0),
    (Dtype::Q4_0, 2, Dtype::Q8_0),
    (Dtype::Q4_1, 3, Dtype::Q8_0),
    (Dtype::Q5_0, 8, Dtype::Q8_0),
    (Dtype::Q5_1, 9, Dtype::Q8_0),
];

/// `enum ggml_type`.
fn number(dtype: Dtype) -> u32 {
    (0..64).find(|&number| super::header::dtype(number) == Some(dtype)).unwrap_or_default()
}

/// Keys and values as bytes.
#[derive(Default)]
struct Keys {
    count: u64,
    bytes: Vec<u8>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Keys {
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.count += 1;
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        &mut self.bytes
    }

    fn u32(&mut self, key: &str, value: usize) -> Result<()> {
        let value = u32::try_from(value).map_err(|_| Error::config(key, format!("{value} is too large")))?;
        self.key(key, 4).extend(value.to_le_bytes());
        Ok(())
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.key(key, 6).extend(value.to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key, 7).push(value.into());
    }

    fn text(&mut self, key: &str, value: &str) {
        let out = self.key(key, 8);
        text(out, value);
    }

    fn list<T>(&mut self, key: &str, kind: u32, values: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
        let out = self.key(key, 9);
        out.extend(kind.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| write(out, value));
    }
}

/// One tensor of the new file: from number `from` of the plan.
struct Output {
    name: String,
    from: usize,
    dtype: Dtype,
    bytes: u64,
}

/// Converts the checkpoint at `from` (a folder, or a GGUF) into the new file `to`, its matrices in `dtype`, embedding and head
/// in 8 bits where `dtype` has fewer, gains in f32. `progress` hears (bytes written, bytes in all). Returns the number of tensors.
///
/// # Errors
/// Whatever is wrong with the source; [`Error::InvalidOption`] for a type that is not written; [`Error::Tokenizer`] for a
/// tokenizer that the format cannot say; [`Error::Io`] if `to` exists or cannot be written. Then nothing is left behind.
pub fn write(from: &Path, to: &Path, dtype: Dtype, progress: &dyn Fn(u64, u64)) -> Result<usize> {
    let Some((_, file_type, wide)) = TYPES.into_iter().find(|(written, ..)| *written == dtype) else {
        return Err(Error::option("type", format!("{dtype:?} is not written")));
    };
    let io = |e: std::io::Error| Error::Io { path: to.display().to_string(), problem: e.to_string() };
    if to.exists() {
        return Err(io(std::io::ErrorKind::AlreadyExists.into()));
    }
    let named = to.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if super::parts(named).is_some() {
        return Err(Error::option("to", format!("{named} is the name of a part of a split file")));
    }
    let source = DirSource::new(from);
    let (plan, header) = pollster::block_on(Plan::read(&source))?;
    let small = |name: &str| small_file(&source, header.as_ref(), name);
    let config = Config::parse(&required_text(&source, header.as_ref(), "config.json")?)?;
    let mut keys = Keys::default();
    let name = from.file_stem().map_or("model".into(), |name| name.to_string_lossy());
    model_keys(&mut keys, &config, &name, file_type)?;
    tokenizer_keys(&mut keys, &config, &small)?;

    if config.rope_scaling != RopeScaling::None {
        return Err(Error::unsupported("rope_scaling", "is not written into GGUF files"));
    }
    let outputs = outputs(&plan, &config, dtype, wide)?;
    let mut head = Vec::new();
    head.extend(b"GGUF");
    head.extend(3u32.to_le_bytes());
    head.extend((outputs.len() as u64).to_le_bytes());
    head.extend(keys.count.to_le_bytes());
    head.extend(keys.bytes);
    let mut offset = 0u64;
    for Output { name, from, dtype, bytes } in &outputs {
        let shape = &plan.tensors[*from].info.shape;
        text(&mut head, name);
        head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&n| head.extend((n as u64).to_le_bytes()));
        head.extend(number(*dtype).to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + bytes).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);

    let partial = Partial(to.with_file_name(format!(".{name}.partial-{}", std::process::id())));
    let mut out = BufWriter::new(File::create_new(&partial.0).map_err(io)?);
    out.write_all(&head).map_err(io)?;
    let total: u64 = outputs.iter().map(|output| output.bytes).sum();
    let mut done = 0;
    for output in &outputs {
        convert(&source, &plan, output, config.head_dim, |bytes| {
            done += bytes.len() as u64;
            progress(done, total);
            out.write_all(bytes).map_err(io)
        })?;
        let padding = output.bytes.next_multiple_of(ALIGNMENT) - output.bytes;
        out.write_all(&vec![0; padding as usize]).map_err(io)?;
    }
    out.into_inner().map_err(|e| io(e.into_error()))?.sync_all().map_err(io)?;
    fs::rename(&partial.0, to).map_err(io)?;
    Ok(outputs.len())
}

/// A file under a temporary name; it disappears unless it is renamed.
struct Partial(std::path::PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // After the rename there is nothing left under this name.
        let _ = fs::remove_file(&self.0);
    }
}

fn utf8(name: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::checkpoint(name, "not UTF-8"))
}

type Small<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>>;

fn model_keys(keys: &mut Keys, config: &Config, name: &str, file_type: u32) -> Result<()> {
    keys.text("general.architecture", "llama");
    keys.text("general.type", "model");
    keys.text("general.name", name);
    keys.u32("general.file_type", file_type as usize)?;
    keys.u32("general.quantization_version", 2)?;
    for (key, value) in [
        ("block_count", config.order().len()),
        ("context_length", config.max_positions),
        ("embedding_length", config.hidden_size),
        ("feed_forward_length", config.intermediate_size),
        ("attention.head_count", config.num_heads),
        ("attention.head_count_kv", config.num_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("vocab_size", config.vocab_size),
    ] {
        keys.u32(&format!("llama.{key}"), value)?;
    }
    keys.f32("llama.rope.freq_base", config.rope_theta as f32);
    keys.f32("llama.attention.layer_norm_rms_epsilon", config.rms_norm_eps);
    Ok(())
}

/// The vocabulary: text, score and type of each token.
type Vocabulary = Vec<(String, f32, i32)>;

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

fn tokenizer_keys(keys: &mut Keys, config: &Config, small: Small) -> Result<()> {
    let text = |name: &str| small(name)?.map(|bytes| utf8(name, bytes)).transpose();
    let files = TextFiles {
        tokenizer_json: small("tokenizer.json")?,
        tokenizer_model: small("tokenizer.model")?,
        tokenizer_config: text("tokenizer_config.json")?,
        generation_config: text("generation_config.json")?,
        chat_template: text("chat_template.jinja")?,
        tool_template: None,
    };
    let model = TextModel::new("the model", config, &files)?;
    let mut merges = None;
    let (mut vocabulary, add_space) = match (&files.tokenizer_model, &files.tokenizer_json) {
        (Some(file), _) => {
            let (pieces, add_space) = sentencepiece_pieces(file)?;
            (pieces, Some(add_space))
        }
        (None, Some(json)) => {
            let json: Value = serde_json::from_slice(json).map_err(|e| Error::tokenizer("tokenizer.json", e))?;
            if json["model"]["byte_fallback"] == true {
                let (vocabulary, add_space) = byte_fallback(&json)?;
                (vocabulary, Some(add_space))
            } else {
                keys.text("tokenizer.ggml.pre", pre_tokenizer(&json)?);
                merges = Some(merge_texts(&json)?);
                (byte_level(&json)?, None)
            }
        }
        (None, None) => return Err(Error::internal("a text model without a tokenizer")),
    };
    for id in vocabulary.len()..config.vocab_size {
        vocabulary.push(padded(id));
    }
    keys.text("tokenizer.ggml.model", if merges.is_some() { "gpt2" } else { "llama" });
    keys.list("tokenizer.ggml.tokens", 8, &vocabulary, |out, (token, ..)| self::text(out, token));
    keys.list("tokenizer.ggml.scores", 6, &vocabulary, |out, (_, score, _)| out.extend(score.to_le_bytes()));
    keys.list("tokenizer.ggml.token_type", 5, &vocabulary, |out, (.., kind)| out.extend(kind.to_le_bytes()));
    if let Some(merges) = &merges {
        keys.list("tokenizer.ggml.merges", 8, merges, |out, merge| self::text(out, merge));
    }
    if let Some(add_space) = add_space {
        keys.flag("tokenizer.ggml.add_space_prefix", add_space);
    }
    let special = model.special();
    let ends = special.eos.iter().map(|id| Some(*id));
    for (part, id) in ["bos", "eos", "eot", "eom"].into_iter().zip(std::iter::once(special.bos).chain(ends)) {
        if let Some(id) = id {
            keys.u32(&format!("tokenizer.ggml.{part}_token_id"), id as usize)?;
        }
    }
    if let Some(id) = vocabulary.iter().position(|(.., kind)| *kind == UNKNOWN) {
        keys.u32("tokenizer.ggml.unknown_token_id", id)?;
    }
    keys.flag("tokenizer.ggml.add_bos_token", special.add_bos);
    keys.flag("tokenizer.ggml.add_eos_token", false);
    let settings: Value = match &files.tokenizer_config {
        None => Value::Null,
        Some(text) => serde_json::from_str(text).map_err(|e| Error::tokenizer("tokenizer_config.json", e))?,
    };
    let named = settings["chat_template"].as_array().map(Vec::as_slice).unwrap_or_default();
    let default = named.iter().find(|template| template["name"] == "default").map(|template| &template["template"]);
    let template = files.chat_template.as_deref().or(default.unwrap_or(&settings["chat_template"]).as_str());
    if let Some(template) = template {
        keys.text("tokenizer.chat_template", template);
    }
    Ok(())
}

fn refused(what: impl std::fmt::Display) -> Error {
    Error::tokenizer("tokenizer.json", format!("{what}, which GGUF cannot say"))
}

/// Every token by id, added ones over others.
fn tokens(json: &Value) -> Result<Vec<Option<(String, i32)>>> {
    let mut tokens = Vec::new();
    let mut put = |id: u64, token: (String, i32)| {
        // The tokenizer was read: its ids have an end.
        let id = id as usize;
        if tokens.len() <= id {
            tokens.resize(id + 1, None);
        }
        tokens[id] = Some(token);
    };
    for (token, id) in json["model"]["vocab"].as_object().into_iter().flatten() {
        put(id.as_u64().unwrap_or_default(), (token.clone(), NORMAL));
    }
    let unknown = json["model"]["unk_token"].as_str();
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"] == true {
            _ if unknown == Some(content) => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        put(added["id"].as_u64().unwrap_or_default(), (content.to_owned(), kind));
    }
    Ok(tokens)
}

fn padded(id: usize) -> (String, f32, i32) {
    (format!("[PAD{id}]"), 0.0, UNUSED)
}

fn byte_level(json: &Value) -> Result<Vocabulary> {
    let each = tokens(json)?.into_iter().enumerate();
    Ok(each.map(|(id, token)| token.map_or_else(|| padded(id), |(token, kind)| (token, 0.0, kind))).collect())
}

/// A BPE with byte fallback is SentencePiece's, if a token's score says when it is merged.
fn byte_fallback(json: &Value) -> Result<(Vocabulary, bool)> {
    let mut add_space = false;
    for step in files::steps(&json["normalizer"], "normalizers")
        .into_iter()
        .chain(files::steps(&json["pre_tokenizer"], "pretokenizers"))
    {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == "▁" => add_space = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => {}
            Some("Metaspace") if step["replacement"] == "▁" && step["split"] == false => {
                add_space = step["prepend_scheme"] != "never";
            }
            other => return Err(refused(format!("has the step {}", other.unwrap_or("without a type")))),
        }
    }
    let mut scores = HashMap::new();
    for (rank, merge) in merge_pairs(json)?.into_iter().enumerate() {
        scores.entry(merge.concat()).or_insert(-(rank as f32) - 1.0);
    }
    let mut vocabulary = Vec::new();
    for (id, token) in tokens(json)?.into_iter().enumerate() {
        let Some((token, kind)) = token else {
            vocabulary.push(padded(id));
            continue;
        };
        let byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = if byte && kind == NORMAL { BYTE } else { kind };
        let score = match scores.get(&token) {
            Some(score) => *score,
            None if kind != NORMAL || token.chars().nth(1).is_none() => 0.0,
            None => return Err(refused(format!("token {token:?} comes of no merge"))),
        };
        vocabulary.push((token, score, kind));
    }
    Ok((vocabulary, add_space))
}

fn merge_pairs(json: &Value) -> Result<Vec<[String; 2]>> {
    let broken = |merge: &Value| Error::tokenizer("tokenizer.json", format!("merge {merge} is not two tokens"));
    let list = json["model"]["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pair = |merge: &Value| {
        let two = match merge {
            Value::String(text) => text.split_once(' ').map(|(a, b)| [a.to_owned(), b.to_owned()]),
            other => other[0].as_str().zip(other[1].as_str()).map(|(a, b)| [a.to_owned(), b.to_owned()]),
        };
        two.ok_or_else(|| broken(merge))
    };
    list.iter().filter(|merge| merge.as_str().is_none_or(|text| !text.starts_with("#version"))).map(pair).collect()
}

fn merge_texts(json: &Value) -> Result<Vec<String>> {
    let pairs = merge_pairs(json)?;
    match pairs.iter().flatten().find(|token| token.contains(' ')) {
        Some(token) => Err(refused(format!("token {token:?} of a merge holds a space"))),
        None => Ok(pairs.iter().map(|pair| pair.join(" ")).collect()),
    }
}

/// The name of the way in which a byte-level BPE splits a text.
fn pre_tokenizer(json: &Value) -> Result<&'static str> {
    let ignore_merges = json["model"]["ignore_merges"] == true;
    let steps = files::steps(&json["pre_tokenizer"], "pretokenizers");
    let normalizer: Vec<_> =
        files::steps(&json["normalizer"], "normalizers").iter().map(|step| &step["type"]).collect();
    files::pre_tokenizer_name(&steps, &normalizer, ignore_merges).ok_or_else(|| {
        let kinds: Vec<_> = steps.iter().map(|step| step["type"].as_str().unwrap_or("?")).collect();
        refused(format!("its pre-tokenizer ({}) is none of those with a name", kinds.join(", ")))
    })
}

/// The tensors to write. Of a shared matrix one copy.
fn outputs(plan: &Plan, config: &Config, dtype: Dtype, wide: Dtype) -> Result<Vec<Output>> {
    let find = |name: &str| plan.tensors.iter().position(|t| t.info.name == name);
    let output = |name: String, from: &str, wanted: Dtype| {
        let missing = || Error::tensor(from, "missing from the checkpoint");
        let number = find(from).ok_or_else(missing)?;
        let info = &plan.tensors[number].info;
        let columns = info.shape.last().copied().unwrap_or(0) as u64;
        let dtype = if info.shape.len() < 2 { Dtype::F32 } else { wanted };
        if !columns.is_multiple_of(dtype.block().0) {
            return Err(Error::tensor(from, format!("rows of {columns} are not whole blocks of {dtype:?}")));
        }
        let bytes = dtype.bytes(info.shape.iter().map(|&n| n as u64).product());
        Ok(Output { name, from: number, dtype, bytes })
    };
    let [(embedding, from), (norm, norm_from), (head, head_from)] = TOP_NAMES;
    // A published conversion keeps the shared matrix under the head's name only.
    let shared = if config.tied && find(from).is_none() { head_from } else { from };
    let mut list = vec![output(embedding.into(), shared, wide)?];
    for (layer, block) in config.order().into_iter().enumerate() {
        for (gguf, part) in BLOCK_NAMES {
            let from = format!("model.layers.{block}.{part}.weight");
            list.push(output(format!("blk.{layer}.{gguf}.weight"), &from, dtype)?);
        }
    }
    list.push(output(norm.into(), norm_from, dtype)?);
    if !config.tied {
        list.push(output(head.into(), head_from, wide)?);
    }
    Ok(list)
}

/// Reads a tensor in whole rows (of q and k: whole heads) and hands them on in the new type and in GGUF's order.
fn convert(
    source: &DirSource,
    plan: &Plan,
    output: &Output,
    head_dim: usize,
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let tensor = &plan.tensors[output.from];
    let info = &tensor.info;
    let columns = info.shape.last().copied().unwrap_or(1);
    let turned = !info.rope_pairs && ["attn_q", "attn_k"].iter().any(|part| output.name.contains(part));
    let unit = if turned { head_dim } else { 1 };
    let (mut values, mut out) = (Vec::new(), Vec::new());
    read_rows(source, plan, tensor, unit, |bytes| {
        values.clear();
        info.dtype.to_f32(&bytes, &mut values);
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(Error::tensor(&info.name, format!("holds {value}")));
        }
        if turned {
            let halves = values.clone();
            for (row, out) in values.chunks_exact_mut(columns).enumerate() {
                out.copy_from_slice(&halves[half_split_row(row, head_dim) * columns..][..columns]);
            }
        }
        out.clear();
        encode_values(&info.name, output.dtype, &values, &mut out)?;
        write(&out)
    })
}

pub(super) fn encode_values(name: &str, dtype: Dtype, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    let block = match dtype {
        Dtype::F32 => {
            out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            return Ok(());
        }
        Dtype::Bf16 => {
            out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()));
            return Ok(());
        }
        Dtype::F16 => {
            for &value in values {
                let half = f16::from_f32(value);
                if !half.is_finite() {
                    return Err(Error::tensor(name, format!("holds {value}, which f16 cannot")));
                }
                out.extend(half.to_le_bytes());
            }
            return Ok(());
        }
        Dtype::Q8_0 => encode::q8_0,
        Dtype::Q4_0 => encode::q4_0,
        Dtype::Q4_1 => encode::q4_1,
        Dtype::Q5_0 => encode::q5_0,
        Dtype::Q5_1 => encode::q5_1,
        other => return Err(Error::internal(format!("{other:?} is not written"))),
    };
    values.as_chunks().0.iter().for_each(|values| block(values, out));
    Ok(())
}

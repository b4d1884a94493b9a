//! The header's keys -> the small files of a checkpoint in Hugging Face layout.

use super::Header;
use super::header::Number;
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};

/// Regular expressions by which published tokenizers split a text, each as its tokenizer.json has it.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// What llama.cpp does where a file names no pre-tokenizer: the text is split by each in turn.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// `enum llama_token_type`.
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;
const UNUSED: i128 = 5;

/// How a byte-level BPE tokenizer of this name splits a text.
struct PreTokenizer {
    steps: Vec<Value>,
    normalizer: Value,
    /// A word that is in the vocabulary is one token, whatever the merges would make of it.
    ignore_merges: bool,
    /// Whether BOS begins a text where the file does not say.
    add_bos: bool,
}

fn pre_tokenizer(name: &str) -> Option<PreTokenizer> {
    let split =
        |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let plain = |steps| PreTokenizer { steps, normalizer: Value::Null, ignore_merges: false, add_bos: false };
    let by = |regex| plain(vec![split(regex), byte_level(false)]);
    Some(match name {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "trillion" | "gigachat" | "mellum" | "modern-bert" => {
            plain(vec![byte_level(true)])
        }
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
            plain(vec![json!({"type": "Digits", "individual_digits": true}), byte_level(true)])
        }
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "pixtral" => {
            PreTokenizer { ignore_merges: true, add_bos: true, ..by(LLAMA3) }
        }
        "dbrx" | "smaug-bpe" => by(LLAMA3),
        "qwen2" | "deepseek-r1-qwen" => PreTokenizer { normalizer: json!({"type": "NFC"}), ..by(QWEN2) },
        "stablelm2" => by(QWEN2),
        "tekken" => PreTokenizer { ignore_merges: true, add_bos: true, ..by(TEKKEN) },
        "gpt-4o" | "llama4" => by(GPT4O),
        "default" => plain(DEFAULT.iter().map(|regex| split(regex)).chain([byte_level(false)]).collect()),
        _ => return None,
    })
}

/// Names that are tried for a tokenizer that another program named not at all; of two that split alike the first.
#[cfg(not(target_arch = "wasm32"))]
const NAMES: [&str; 9] = ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "stablelm2", "tekken", "gpt-4o", "default"];

/// The name of the pre-tokenizer with these steps and normalizers.
#[cfg(not(target_arch = "wasm32"))]
pub fn pre_tokenizer_name(steps: &[&Value], normalizers: &[&Value], ignore_merges: bool) -> Option<&'static str> {
    // What tells two steps apart; offsets do not matter here.
    let said = |step: &Value| -> Vec<Value> {
        ["type", "pattern", "behavior", "invert", "use_regex", "add_prefix_space", "individual_digits"]
            .iter()
            .map(|field| match (*field, &step[field]) {
                ("use_regex", Value::Null) if step["type"] == "ByteLevel" => true.into(),
                (_, value) => value.clone(),
            })
            .collect()
    };
    let wanted: Vec<_> = steps.iter().map(|step| said(step)).collect();
    NAMES.into_iter().find(|name| {
        pre_tokenizer(name).is_some_and(|known| {
            let normalizer = self::steps(&known.normalizer, "normalizers");
            known.ignore_merges == ignore_merges
                && known.steps.iter().map(said).eq(wanted.iter().cloned())
                && normalizer.iter().map(|step| &step["type"]).eq(normalizers.iter().copied())
        })
    })
}

/// The steps of a component of tokenizer.json, those within others too; none of a null.
#[cfg(not(target_arch = "wasm32"))]
pub fn steps<'a>(component: &'a Value, list: &str) -> Vec<&'a Value> {
    match component[list].as_array() {
        Some(inner) => inner.iter().flat_map(|step| steps(step, list)).collect(),
        None if component.is_null() => Vec::new(),
        None => vec![component],
    }
}

impl Header {
    /// What the file `name` of a checkpoint in Hugging Face layout would hold; `None` for one that it would not have.
    pub fn small_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let sentencepiece = match name {
            "tokenizer.json" | "tokenizer.model" => self.is_sentencepiece()?,
            _ => false,
        };
        let json = match name {
            "config.json" => self.config()?,
            "tokenizer.json" if !sentencepiece => self.tokenizer_json()?,
            "tokenizer.model" if sentencepiece => return self.sentencepiece().map(Some),
            "tokenizer_config.json" => self.tokenizer_config()?,
            "generation_config.json" => self.generation_config()?,
            "README.md" => return Ok(self.model_card()?.map(String::into_bytes)),
            _ => return Ok(None),
        };
        Ok(Some(json.to_string().into_bytes()))
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::checkpoint(self.file(), format!("has no {key}")))
    }

    fn config(&self) -> Result<Value> {
        let architecture = self.required("general.architecture", self.text("general.architecture")?)?;
        if architecture != "llama" {
            return Err(Error::unsupported("general.architecture", format!("\"{architecture}\" is not llama")));
        }
        let whole = |key: &str| self.whole(&format!("llama.{key}"));
        let real = |key: &str| -> Result<Option<f64>> {
            Ok(self.number(&format!("llama.{key}"))?.map(|number| match number {
                Number::Whole(n) => n as f64,
                Number::Real(x) => x,
            }))
        };
        let size = |key: &str| self.required(&format!("llama.{key}"), whole(key)?);
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let head_dim = match whole("attention.key_length")? {
            Some(length) => length,
            None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
            None => return Err(Error::config("llama.attention.head_count", "does not divide llama.embedding_length")),
        };
        // What changes the result, unless it has the value that the engine computes with.
        for (key, neutral) in [
            ("attention.value_length", head_dim),
            ("rope.dimension_count", head_dim),
            ("expert_count", 0),
            ("attention.sliding_window", 0),
        ] {
            if let Some(other) = whole(key)?.filter(|value| *value != neutral) {
                return Err(Error::unsupported(&format!("llama.{key}"), format!("{other} is not {neutral}")));
            }
        }
        let scaling = self.text("llama.rope.scaling.type")?;
        let factors = [real("rope.scaling.factor")?, real("rope.scale_linear")?];
        let scaled = match scaling {
            Some("none") => false,
            Some("linear") | None => factors.into_iter().flatten().any(|factor| factor != 0.0 && factor != 1.0),
            Some(_) => true,
        };
        if scaled {
            let detail = format!("{}, factor {:?}", scaling.unwrap_or("linear"), factors[0].or(factors[1]));
            return Err(Error::unsupported("llama.rope.scaling", detail));
        }
        let rows = |name: &str| self.tensors.iter().find(|(info, _)| info.name == name).map(|(info, _)| info.shape[0]);
        let vocabulary = self.required("tensor token_embd.weight", rows("token_embd.weight"))?;
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": size("feed_forward_length")?,
            "num_hidden_layers": size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": whole("attention.head_count_kv")?.unwrap_or(heads),
            "head_dim": head_dim,
            "rope_theta": real("rope.freq_base")?.unwrap_or(10_000.0),
            "rms_norm_eps": self.required("llama.attention.layer_norm_rms_epsilon", real("attention.layer_norm_rms_epsilon")?)?,
            "max_position_embeddings": whole("context_length")?,
            "tie_word_embeddings": rows("output.weight").is_none(),
            "bos_token_id": self.token_id("bos")?,
            "eos_token_id": self.token_id("eos")?,
        }))
    }

    /// The id of a token with a part to play, such as `bos`; llama.cpp writes 2^32 - 1 where there is none.
    fn token_id(&self, part: &str) -> Result<Option<u64>> {
        let id = self.whole(&format!("tokenizer.ggml.{part}_token_id"))?;
        Ok(id.filter(|id| *id != u64::from(u32::MAX)))
    }

    /// Every id that ends an answer: of the text, of the turn, of a message to a tool.
    fn generation_config(&self) -> Result<Value> {
        let mut ids = Vec::new();
        for part in ["eos", "eot", "eom"] {
            ids.extend(self.token_id(part)?);
        }
        Ok(json!({"eos_token_id": ids}))
    }

    fn is_sentencepiece(&self) -> Result<bool> {
        match self.required("tokenizer.ggml.model", self.text("tokenizer.ggml.model")?)? {
            "gpt2" => Ok(false),
            "llama" => Ok(true),
            other => Err(self.broken(format!("a tokenizer of kind {other:?} is not supported"))),
        }
    }

    fn broken(&self, problem: String) -> Error {
        Error::tokenizer(self.file(), problem)
    }

    /// Each token with its type.
    fn tokens(&self) -> Result<Vec<(&str, i128)>> {
        let tokens = self.required("tokenizer.ggml.tokens", self.texts("tokenizer.ggml.tokens")?)?;
        let types: Vec<_> = match self.numbers("tokenizer.ggml.token_type")? {
            None => vec![1; tokens.len()],
            Some(types) => types.map(|kind| if let Number::Whole(n) = kind { n } else { 0 }).collect(),
        };
        if types.len() != tokens.len() {
            return Err(self.broken(format!("{} tokens, but {} types of tokens", tokens.len(), types.len())));
        }
        Ok(tokens.into_iter().zip(types).collect())
    }

    fn pre_tokenizer(&self) -> Result<PreTokenizer> {
        let name = self.text("tokenizer.ggml.pre")?.unwrap_or("default");
        pre_tokenizer(name).ok_or_else(|| self.broken(format!("pre-tokenizer {name:?} is not supported")))
    }

    fn tokenizer_json(&self) -> Result<Value> {
        let tokens = self.tokens()?;
        let PreTokenizer { steps, normalizer, ignore_merges, .. } = self.pre_tokenizer()?;
        let (mut vocabulary, mut added) = (Map::new(), Vec::new());
        for (id, &(token, kind)) in tokens.iter().enumerate() {
            if kind == UNUSED {
                continue;
            }
            if vocabulary.insert(token.to_owned(), id.into()).is_some() {
                return Err(self.broken(format!("token {id} ({token:?}) is there twice")));
            }
            if matches!(kind, UNKNOWN | CONTROL | USER_DEFINED) {
                added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": kind != USER_DEFINED}));
            }
        }
        let merges = self.required("tokenizer.ggml.merges", self.texts("tokenizer.ggml.merges")?)?;
        let merges: Vec<Value> = merges
            .iter()
            .map(|merge| {
                // A token may begin with a space, as in llama.cpp's reader.
                let first = merge.chars().next().map_or(0, char::len_utf8);
                let at = merge[first..].find(' ').map(|at| at + first);
                let at = at.ok_or_else(|| self.broken(format!("merge {merge:?} is not two tokens")))?;
                Ok(json!([merge[..at], merge[at + 1..]]))
            })
            .collect::<Result<_>>()?;
        Ok(json!({
            "version": "1.0",
            "added_tokens": added,
            "normalizer": normalizer,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges, "vocab": vocabulary, "merges": merges},
        }))
    }

    /// The protobuf of a SentencePiece file.
    fn sentencepiece(&self) -> Result<Vec<u8>> {
        let tokens = self.tokens()?;
        let scores: Vec<f32> = self
            .required("tokenizer.ggml.scores", self.numbers("tokenizer.ggml.scores")?)?
            .map(|score| match score {
                Number::Whole(n) => n as f32,
                Number::Real(x) => x as f32,
            })
            .collect();
        if scores.len() != tokens.len() {
            return Err(self.broken(format!("{} tokens, but {} scores", tokens.len(), scores.len())));
        }
        let mut file = Vec::new();
        for (&(token, kind), score) in tokens.iter().zip(scores) {
            // What pads a vocabulary is in no text.
            let kind = if kind == UNUSED && token.starts_with("[PAD") { CONTROL } else { kind };
            let mut piece = Vec::new();
            field_bytes(&mut piece, 1, token.as_bytes());
            piece.extend([2 << 3 | 5]);
            piece.extend(score.to_le_bytes());
            field_number(&mut piece, 3, u64::try_from(kind).unwrap_or(0));
            field_bytes(&mut file, 1, &piece);
        }
        let mut trainer = Vec::new();
        field_number(&mut trainer, 3, 2); // BPE
        field_number(&mut trainer, 35, tokens.iter().any(|(_, kind)| *kind == 6).into());
        field_bytes(&mut file, 2, &trainer);
        let mut normalizer = Vec::new();
        field_bytes(&mut normalizer, 1, b"identity");
        if self.has("tokenizer.ggml.precompiled_charsmap") {
            field_bytes(&mut normalizer, 2, b"precompiled_charsmap");
        }
        let flag = |key: &str, default| self.flag(key).map(|flag| flag.unwrap_or(default).into());
        field_number(&mut normalizer, 3, flag("tokenizer.ggml.add_space_prefix", true)?);
        field_number(&mut normalizer, 4, flag("tokenizer.ggml.remove_extra_whitespaces", false)?);
        field_number(&mut normalizer, 5, 1);
        field_bytes(&mut file, 3, &normalizer);
        Ok(file)
    }

    fn tokenizer_config(&self) -> Result<Value> {
        let tokens = self.tokens()?;
        let mut config = Map::new();
        for (part, name) in [
            ("bos", "bos"),
            ("eos", "eos"),
            ("unknown", "unk"),
            ("seperator", "sep"),
            ("padding", "pad"),
            ("cls", "cls"),
            ("mask", "mask"),
        ] {
            if let Some(id) = self.token_id(part)? {
                let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
                let (token, _) =
                    token.ok_or_else(|| self.broken(format!("{part}_token_id {id} is not in the vocabulary")))?;
                config.insert(format!("{name}_token"), (*token).into());
            }
        }
        let add_bos = match self.flag("tokenizer.ggml.add_bos_token")? {
            Some(add) => add,
            None if self.is_sentencepiece()? => true,
            None => self.pre_tokenizer()?.add_bos,
        };
        config.insert("add_bos_token".into(), add_bos.into());
        let mut templates = Vec::new();
        if let Some(template) = self.text("tokenizer.chat_template")? {
            templates.push(json!({"name": "default", "template": template}));
        }
        for name in self.keys("tokenizer.chat_template.") {
            let template = self.text(&format!("tokenizer.chat_template.{name}"))?;
            templates.push(json!({"name": name, "template": template}));
        }
        if !templates.is_empty() {
            config.insert("chat_template".into(), templates.into());
        }
        Ok(config.into())
    }

    /// The licence, where a model card in Hugging Face layout has it.
    fn model_card(&self) -> Result<Option<String>> {
        let license = self.text("general.license")?.filter(|license| !license.contains('\n'));
        Ok(license.map(|license| format!("---\nlicense: {license}\n---\n")))
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 127 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

fn field_number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn field_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

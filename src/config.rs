//! `config.json` -> the numbers that a forward pass needs. No IO, no weights.
//!
//! Reads the Hugging Face layout of the MobileLLM family and of its LLaMA-architecture twins
//! (SmolLM, SmolLM2, TinyLlama). What the engine cannot compute exactly is refused by name.

use crate::error::{Error, Result};
use crate::rope::{Rope, RopeScaling, Yarn};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The order in which stored blocks run (MobileLLM paper, section 3.3 and table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DepthSchedule {
    /// Every stored block runs once: 0, 1, .., n-1.
    Plain,
    /// Immediate block-wise sharing, the LS models: 0, 0, 1, 1, .., n-1, n-1.
    Immediate { repeats: usize },
    /// Repeat-all-over: 0, .., n-1, 0, .., n-1.
    RepeatAllOver { repeats: usize },
    /// Reverse: 0, .., n-1, n-1, .., 0.
    Reverse,
}

impl DepthSchedule {
    /// Index of the stored block that each executed layer runs; its length is the executed depth.
    pub fn order(self, blocks: usize) -> Vec<usize> {
        match self {
            DepthSchedule::Plain => (0..blocks).collect(),
            DepthSchedule::Immediate { repeats } => (0..blocks).flat_map(|b| std::iter::repeat_n(b, repeats)).collect(),
            DepthSchedule::RepeatAllOver { repeats } => (0..repeats).flat_map(|_| 0..blocks).collect(),
            DepthSchedule::Reverse => (0..blocks).chain((0..blocks).rev()).collect(),
        }
    }
}

/// The numbers of one model. Field names follow `config.json` where it has them; serialised, they are for other threads of
/// this package, which read no `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `mobilellm` or `llama`.
    pub model_type: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward.
    pub intermediate_size: usize,
    /// Stored blocks (`num_hidden_layers` counts these, also in LS models).
    pub num_blocks: usize,
    pub num_heads: usize,
    /// Key/value heads; query head `h` reads key/value head `h / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub rms_norm_eps: f32,
    /// Longest context the model was trained for, in tokens.
    pub max_positions: usize,
    /// `None` where the checkpoint defines none.
    pub bos_token_id: Option<u32>,
    /// Every id that ends a generation.
    pub eos_token_ids: Vec<u32>,
    /// Output head = input embedding (`share_embedding` or `tie_word_embeddings`).
    pub tied: bool,
    pub schedule: DepthSchedule,
}

/// Fields whose presence (unless null or the neutral value given) changes the arithmetic in a way that is not implemented.
const NEUTRAL: &[(&str, &[&str])] = &[
    ("attention_bias", &["false"]),
    ("mlp_bias", &["false"]),
    ("qkv_bias", &["false"]),
    ("use_bias", &["false"]),
    ("use_qk_norm", &["false"]),
    ("qk_norm", &["false"]),
    ("rope_interleaved", &["false"]),
    ("partial_rotary_factor", &["1.0", "1"]),
    ("sliding_window", &[]),
    ("attention_chunk_size", &[]),
    ("attn_temperature_tuning", &["false"]),
    ("attn_logit_softcapping", &[]),
    ("final_logit_softcapping", &[]),
    ("embedding_multiplier", &["1.0", "1"]),
    ("residual_multiplier", &["1.0", "1"]),
    ("attention_multiplier", &[]),
    ("logits_scaling", &["1.0", "1"]),
    ("num_local_experts", &["0", "1"]),
    ("num_experts", &["0"]),
    ("moe_layers", &["[]"]),
    ("quantization_config", &[]),
    ("no_rope_layers", &[]),
    ("no_rope_layer_interval", &["0"]),
    ("position_embedding_type", &["\"rope\""]),
    ("parallel_attn", &["false"]),
    ("is_encoder_decoder", &["false"]),
];

impl Config {
    /// Parses and validates the text of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] names a field that is missing, ill-typed or out of range; [`Error::Unsupported`] names a
    /// feature that would change the result and is not implemented.
    pub fn parse(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).map_err(|e| Error::config("(file)", format!("not JSON: {e}")))?;
        let Value::Object(map) = value else { return Err(Error::config("(file)", "not a JSON object")) };
        let fields = Fields(&map);
        fields.refuse_unsupported()?;

        let hidden_size = fields.size("hidden_size")?;
        let num_heads = fields.size("num_attention_heads")?;
        let num_kv_heads = fields.size_or("num_key_value_heads", num_heads)?;
        let head_dim = match fields.get("head_dim") {
            Some(_) => fields.size("head_dim")?,
            None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => return Err(Error::config("num_attention_heads", "does not divide hidden_size")),
        };
        let model_type = fields.text("model_type")?.unwrap_or("llama").to_owned();
        let max_positions = fields.size_or("max_position_embeddings", 2048)?;
        let (rope_theta, rope_scaling) = fields.rope(max_positions)?;
        let config = Config {
            vocab_size: fields.size("vocab_size")?,
            hidden_size,
            intermediate_size: fields.size("intermediate_size")?,
            num_blocks: fields.size("num_hidden_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            rope_theta,
            rope_scaling,
            rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6)? as f32,
            max_positions,
            bos_token_id: fields.ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.ids("eos_token_id")?,
            tied: fields.tied(&model_type)?,
            schedule: fields.schedule()?,
            model_type,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks that the numbers agree with each other and with what the kernels assume.
    pub fn validate(&self) -> Result<()> {
        let layers = self.num_blocks as u64
            * match self.schedule {
                DepthSchedule::Plain => 1,
                DepthSchedule::Immediate { repeats } | DepthSchedule::RepeatAllOver { repeats } => repeats as u64,
                DepthSchedule::Reverse => 2,
            };
        if layers > MAX_LAYERS {
            let problem = format!("{layers} executed layers are more than {MAX_LAYERS}");
            return Err(Error::unsupported("num_hidden_layers", problem));
        }
        // Before anything is multiplied in 32 bits, or allocated.
        if self.count() > MAX_PARAMETERS {
            let problem = format!("{} parameters are more than {MAX_PARAMETERS}", self.count());
            return Err(Error::unsupported("size", problem));
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(Error::config(
                "num_key_value_heads",
                format!("{} does not divide num_attention_heads {}", self.num_kv_heads, self.num_heads),
            ));
        }
        for (field, value) in [("hidden_size", self.hidden_size), ("intermediate_size", self.intermediate_size)] {
            if !value.is_multiple_of(32) {
                return Err(Error::unsupported(field, format!("{value} is not a multiple of 32")));
            }
        }
        if !self.head_dim.is_multiple_of(8) || self.head_dim > 256 {
            return Err(Error::unsupported("head_dim", format!("{} is not a multiple of 8 up to 256", self.head_dim)));
        }
        if !(self.num_heads * self.head_dim).is_multiple_of(32) {
            return Err(Error::unsupported("num_attention_heads", "heads * head_dim is not a multiple of 32"));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(Error::config("rope_theta", "not a positive number"));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(Error::config("rms_norm_eps", "not a non-negative number"));
        }
        self.check_ids(self.bos_token_id.as_slice()).map_err(|problem| Error::config("bos_token_id", problem))?;
        self.check_ids(&self.eos_token_ids).map_err(|problem| Error::config("eos_token_id", problem))
    }

    /// What is wrong with the first of `ids` that is no token of this model.
    pub fn check_ids(&self, ids: &[u32]) -> std::result::Result<(), String> {
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(format!("{id} is outside the vocabulary of {} tokens", self.vocab_size)),
            None => Ok(()),
        }
    }

    /// The rotations of queries and keys.
    pub fn rope(&self) -> Rope {
        Rope::new(self.rope_theta, self.head_dim, &self.rope_scaling)
    }

    /// Stored block of each executed layer.
    pub fn order(&self) -> Vec<usize> {
        self.schedule.order(self.num_blocks)
    }

    /// Rows of the fused query/key/value matrix: all query heads, then key heads, then value heads.
    pub fn qkv_rows(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Width of the attention output (query heads x head_dim).
    pub fn attention_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Width of one position's keys (and of its values) in one executed layer.
    pub fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Stored parameters, the shared embedding counted once.
    pub fn parameters(&self) -> u64 {
        self.count() as u64
    }

    /// No field is larger than 2^24, so this cannot overflow.
    fn count(&self) -> u128 {
        let [d, f, heads, kv, dim, vocab, blocks] = [
            self.hidden_size,
            self.intermediate_size,
            self.num_heads,
            self.num_kv_heads,
            self.head_dim,
            self.vocab_size,
            self.num_blocks,
        ]
        .map(|n| n as u128);
        let block = 2 * d * (heads + kv) * dim + 3 * d * f + 2 * d;
        vocab * d * if self.tied { 1 } else { 2 } + blocks * block + d
    }
}

/// What a configuration may ask for at most: beyond, it is a lie or no model for a browser.
const MAX_LAYERS: u64 = 1024;
const MAX_PARAMETERS: u128 = 1 << 33;

/// Typed access to the JSON object; null counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    fn size(&self, name: &str) -> Result<usize> {
        let value = self.get(name).ok_or_else(|| Error::config(name, "missing"))?;
        match value.as_u64() {
            Some(n) if (1..=1 << 24).contains(&n) => Ok(n as usize),
            _ => Err(Error::config(name, format!("{value} is not a whole number from 1 to 16777216"))),
        }
    }

    fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        if self.get(name).is_some() { self.size(name) } else { Ok(default) }
    }

    fn number_or(&self, name: &str, default: f64) -> Result<f64> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| Error::config(name, format!("{v} is not a number"))),
        }
    }

    fn flag_or(&self, name: &str, default: bool) -> Result<bool> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| Error::config(name, format!("{v} is not true or false"))),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(v) => v.as_str().map(Some).ok_or_else(|| Error::config(name, format!("{v} is not a string"))),
        }
    }

    fn ids(&self, name: &str) -> Result<Vec<u32>> {
        self.get(name).map_or(Ok(Vec::new()), token_ids).map_err(|problem| Error::config(name, problem))
    }

    /// MobileLLM says `share_embedding` (and `tie_word_embeddings: false` beside it); LLaMA says `tie_word_embeddings`.
    fn tied(&self, model_type: &str) -> Result<bool> {
        let share = self.flag_or("share_embedding", model_type == "mobilellm")?;
        Ok(share || self.flag_or("tie_word_embeddings", false)?)
    }

    /// `rope_theta` and the scaling, of `rope_parameters` (transformers 5) or of `rope_scaling` with `rope_theta` beside it.
    fn rope(&self, max_positions: usize) -> Result<(f64, RopeScaling)> {
        let mut theta = self.number_or("rope_theta", 10_000.0)?;
        let mut found: Option<RopeScaling> = None;
        for name in ["rope_parameters", "rope_scaling"] {
            let inner = match self.get(name) {
                None => continue,
                Some(Value::Object(inner)) if inner.is_empty() => continue,
                Some(Value::Object(inner)) => Fields(inner),
                Some(other) => return Err(Error::config(name, format!("{other} is not an object"))),
            };
            theta = inner.number_or("rope_theta", theta)?;
            let scaling = self.rope_scaling(name, &inner, max_positions as f64)?;
            match &found {
                Some(other) if *other != scaling => {
                    return Err(Error::config(name, "says something else than rope_parameters"));
                }
                _ => found = Some(scaling),
            }
        }
        Ok((theta, found.unwrap_or_default()))
    }

    /// The object `name` of this configuration.
    fn rope_scaling(&self, name: &str, rope: &Fields, max_positions: f64) -> Result<RopeScaling> {
        let at = |field: &str| format!("{name}.{field}");
        let number = |field: &str| -> Result<Option<f64>> {
            match rope.get(field) {
                None => Ok(None),
                Some(v) => match v.as_f64().filter(|n| n.is_finite() && *n >= 0.0) {
                    Some(n) => Ok(Some(n)),
                    None => Err(Error::config(&at(field), format!("{v} is not a number of at least 0"))),
                },
            }
        };
        let positive = |field: &str, value: Option<f64>| match value {
            Some(n) if n > 0.0 => Ok(n),
            Some(_) => Err(Error::config(&at(field), "is not above 0")),
            None => Err(Error::config(&at(field), "missing")),
        };
        rope.refuse_non_neutral()?;
        if let Some((field, _)) = rope.0.iter().find(|(_, value)| value.is_object()) {
            return Err(Error::unsupported(name, format!("parameters of their own for {field}")));
        }
        let original = match self.get("original_max_position_embeddings") {
            Some(_) => Some(self.size("original_max_position_embeddings")? as f64),
            None => number("original_max_position_embeddings")?,
        };
        let original = positive("original_max_position_embeddings", original.or(Some(max_positions)))?;
        let kind = if rope.get("rope_type").is_some() { "rope_type" } else { "type" };
        let scaling = match rope.text(kind)? {
            None if number("factor")?.is_some_and(|factor| factor != 1.0) => {
                return Err(Error::config(&at("rope_type"), "missing, though there is a factor"));
            }
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear { factor: positive("factor", number("factor")?)? },
            Some("dynamic") => {
                positive("factor", number("factor")?)?;
                RopeScaling::None
            }
            Some("llama3") => {
                let low_freq_factor = positive("low_freq_factor", number("low_freq_factor")?)?;
                let high_freq_factor = positive("high_freq_factor", number("high_freq_factor")?)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(Error::config(&at("high_freq_factor"), "is not above low_freq_factor"));
                }
                let factor = positive("factor", number("factor")?)?;
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original }
            }
            Some("yarn") => RopeScaling::Yarn(Yarn {
                factor: positive("factor", number("factor")?.or(Some(max_positions / original)))?,
                attention_factor: number("attention_factor")?,
                mscale: number("mscale")?,
                mscale_all_dim: number("mscale_all_dim")?,
                // 0 stands for the default there
                beta_fast: number("beta_fast")?.filter(|n| *n > 0.0).unwrap_or(32.0),
                beta_slow: number("beta_slow")?.filter(|n| *n > 0.0).unwrap_or(1.0),
                original,
                truncate: rope.flag_or("truncate", true)?,
            }),
            Some(other) => return Err(Error::unsupported(name, format!("rope_type \"{other}\""))),
        };
        Ok(scaling)
    }

    /// `layer_sharing: true` is the released models' immediate block-wise sharing; a string names the paper's alternatives.
    fn schedule(&self) -> Result<DepthSchedule> {
        let repeats = self.size_or("layer_sharing_repeats", 2)?;
        if repeats > 16 {
            return Err(Error::config("layer_sharing_repeats", format!("{repeats} is more than 16")));
        }
        match self.get("layer_sharing") {
            None | Some(Value::Bool(false)) => Ok(DepthSchedule::Plain),
            Some(Value::Bool(true)) => Ok(DepthSchedule::Immediate { repeats }),
            Some(Value::String(name)) => match name.as_str() {
                "none" => Ok(DepthSchedule::Plain),
                "immediate" => Ok(DepthSchedule::Immediate { repeats }),
                "repeat-all-over" => Ok(DepthSchedule::RepeatAllOver { repeats }),
                "reverse" => Ok(DepthSchedule::Reverse),
                other => Err(Error::config(
                    "layer_sharing",
                    format!("\"{other}\" is none of none, immediate, repeat-all-over, reverse"),
                )),
            },
            Some(v) => Err(Error::config("layer_sharing", format!("{v} is neither true, false nor a schedule's name"))),
        }
    }

    fn refuse_unsupported(&self) -> Result<()> {
        match self.text("model_type")? {
            None | Some("mobilellm" | "llama") => {}
            Some(other) => {
                return Err(Error::unsupported("model_type", format!("\"{other}\" is neither mobilellm nor llama")));
            }
        }
        match self.text("hidden_act")? {
            None | Some("silu" | "swish") => {}
            Some(other) => return Err(Error::unsupported("hidden_act", format!("\"{other}\" is not silu"))),
        }
        if let Some(Value::Array(types)) = self.get("layer_types")
            && let Some(other) = types.iter().find(|t| t.as_str() != Some("full_attention"))
        {
            return Err(Error::unsupported("layer_types", other));
        }
        self.refuse_non_neutral()
    }

    fn refuse_non_neutral(&self) -> Result<()> {
        for (name, neutral) in NEUTRAL {
            if let Some(value) = self.get(name)
                && !neutral.contains(&value.to_string().as_str())
                && !(*name == "sliding_window" && self.get("use_sliding_window") == Some(&Value::Bool(false)))
            {
                return Err(Error::unsupported(name, value));
            }
        }
        Ok(())
    }
}

/// A token id or a list of them; null and -1 (of the first LLaMA conversions) mean that there is none.
pub(crate) fn token_ids(value: &Value) -> std::result::Result<Vec<u32>, String> {
    let one = |v: &Value| match v.as_i64() {
        None if v.is_null() => Ok(None),
        Some(-1) => Ok(None),
        id => match id.and_then(|id| u32::try_from(id).ok()) {
            Some(id) => Ok(Some(id)),
            None => Err(format!("{v} is not a token id")),
        },
    };
    match value {
        Value::Array(list) => list.iter().filter_map(|v| one(v).transpose()).collect(),
        v => Ok(one(v)?.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Stored-parameter counts of the official models (MobileLLM README; smoke-test counts for the larger ones).
    #[test]
    fn family_parameter_counts() {
        for (blocks, hidden, heads, kv, ffn, expected) in [
            (30, 576, 9, 3, 1536, 124_635_456),
            (32, 960, 15, 5, 2560, 345_355_200),
            (40, 1152, 18, 6, 3072, 603_188_352),
            (54, 1280, 20, 5, 3584, 1_005_461_760),
            (54, 1600, 25, 5, 4352, 1_511_188_800),
        ] {
            let config = Config::parse(&family(blocks, hidden, heads, kv, ffn, "")).unwrap();
            assert_eq!(config.parameters(), expected);
            assert!(config.tied, "share_embedding wins over tie_word_embeddings: false");
        }
    }

    fn family(blocks: usize, hidden: usize, heads: usize, kv: usize, ffn: usize, extra: &str) -> String {
        format!(
            r#"{{"model_type":"mobilellm","num_hidden_layers":{blocks},"hidden_size":{hidden},"num_attention_heads":{heads},
            "num_key_value_heads":{kv},"intermediate_size":{ffn},"vocab_size":32000,"head_dim":64,"rms_norm_eps":1e-5,
            "rope_theta":10000.0,"rope_scaling":null,"attention_bias":false,"mlp_bias":false,"hidden_act":"silu",
            "bos_token_id":1,"eos_token_id":2,"share_embedding":true,"tie_word_embeddings":false,"pretraining_tp":1
            {extra}}}"#
        )
    }

    fn parse_with(extra: &str) -> Result<Config> {
        Config::parse(&family(30, 576, 9, 3, 1536, extra))
    }

    #[test]
    fn schedules() {
        let order = |extra: &str| {
            let mut config = parse_with(extra).unwrap();
            config.num_blocks = 3;
            config.order()
        };
        assert_eq!(order(""), [0, 1, 2]);
        assert_eq!(order(r#","layer_sharing":false"#), [0, 1, 2]);
        assert_eq!(order(r#","layer_sharing":true"#), [0, 0, 1, 1, 2, 2]);
        assert_eq!(order(r#","layer_sharing":true,"layer_sharing_repeats":3"#), [0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(order(r#","layer_sharing":"repeat-all-over""#), [0, 1, 2, 0, 1, 2]);
        assert_eq!(order(r#","layer_sharing":"reverse""#), [0, 1, 2, 2, 1, 0]);
        assert!(
            matches!(parse_with(r#","layer_sharing":"sideways""#), Err(Error::Config { field, .. }) if field == "layer_sharing")
        );
        assert!(matches!(parse_with(r#","layer_sharing":2"#), Err(Error::Config { .. })));
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for (from, to, feature) in [
            (r#""num_hidden_layers":30"#, r#""num_hidden_layers":16777216"#, "num_hidden_layers"),
            (r#""hidden_size":576"#, r#""hidden_size":16777216"#, "size"),
            (r#""num_attention_heads":9,"#, r#""num_attention_heads":12582912,"#, "size"),
        ] {
            match Config::parse(&family(30, 576, 9, 3, 1536, "").replace(from, to)) {
                Err(Error::Unsupported { feature: named, .. }) => assert_eq!(named, feature),
                other => panic!("{to}: {other:?}"),
            }
        }
        assert!(parse_with(r#","layer_sharing":true,"layer_sharing_repeats":16"#).is_ok());
    }

    proptest! {
        /// A damaged file, and one with wrong values: a typed error or sizes that can be counted.
        #[test]
        fn hostile_configurations(
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
            wrong in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..14), 0..4),
        ) {
            let mut json: Value = serde_json::from_str(&family(30, 576, 9, 3, 1536, "")).unwrap();
            let names: Vec<String> = json.as_object().unwrap().keys().cloned().chain(["layer_sharing".into(), "layer_sharing_repeats".into()]).collect();
            for (field, value) in wrong {
                let values = ["0", "-1", "1", "8", "32", "96", "16777216", "18446744073709551615", "1e308", "0.5", "\"x\"", "[]", "{}", "true"];
                json[&names[field.index(names.len())]] = serde_json::from_str(values[value]).unwrap();
            }
            let mut bytes = json.to_string().into_bytes();
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            match Config::parse(&String::from_utf8_lossy(&bytes)) {
                Ok(config) => prop_assert!(config.order().len() as u64 <= MAX_LAYERS && u128::from(config.parameters()) <= MAX_PARAMETERS),
                Err(error) => prop_assert!(matches!(error, Error::Config { .. } | Error::Unsupported { .. }), "{:?}", error),
            }
        }
    }

    #[test]
    fn several_eos_ids() {
        let text = family(30, 576, 9, 3, 1536, "").replace(r#""eos_token_id":2"#, r#""eos_token_id":[2,7]"#);
        assert_eq!(Config::parse(&text).unwrap().eos_token_ids, [2, 7]);
        let with = |field: &str, ids: &str| {
            let mut json: Value = serde_json::from_str(&family(30, 576, 9, 3, 1536, "")).unwrap();
            json[field] = serde_json::from_str(ids).unwrap();
            Config::parse(&json.to_string())
        };
        for (ids, expected) in
            [("-1", &[][..]), ("null", &[]), ("[]", &[]), ("[2,-1,null]", &[2]), ("[2,7]", &[2, 7]), ("0", &[0])]
        {
            assert_eq!(with("eos_token_id", ids).unwrap().eos_token_ids, expected, "{ids}");
            assert_eq!(with("bos_token_id", ids).unwrap().bos_token_id, expected.first().copied(), "{ids}");
        }
        for field in ["eos_token_id", "bos_token_id"] {
            for (ids, says) in [
                ("32000", "32000 is outside"),
                ("[32001,2]", "32001 is outside"),
                ("-2", "-2 is not a token id"),
                ("2.5", "2.5 is not a token id"),
                ("\"2\"", "\"2\" is not a token id"),
                ("[true]", "true is not a token id"),
            ] {
                match with(field, ids) {
                    Err(Error::Config { field: named, problem, .. }) => {
                        assert_eq!(named, field);
                        assert!(problem.starts_with(says), "{problem}");
                    }
                    other => panic!("{field} {ids}: {other:?}"),
                }
            }
        }
    }

    /// The table of `tests/reference/make_rope.py`: what transformers computes for the same files.
    #[test]
    fn rotations_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rope.json");
        let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(cases.len() >= 30);
        for case in cases {
            let rope = Config::parse(&case["config"].to_string()).unwrap().rope();
            let expected: Vec<f32> = serde_json::from_value(case["inverse_frequencies"].clone()).unwrap();
            assert_eq!(rope.inverse_frequencies.len(), expected.len());
            for (got, want) in rope.inverse_frequencies.iter().zip(&expected) {
                assert!((got - want).abs() <= 1e-6 * want, "{}: {got}, not {want}", case["config"]);
            }
            let factor = case["attention_factor"].as_f64().unwrap() as f32;
            assert!((rope.attention_factor - factor).abs() <= 1e-6, "{}", case["config"]);
        }
    }

    #[test]
    fn rope_that_makes_no_sense_is_named() {
        for (extra, field) in [
            (r#","rope_scaling":{"type":"linear"}"#, "rope_scaling.factor"),
            (r#","rope_scaling":{"type":"linear","factor":0}"#, "rope_scaling.factor"),
            (r#","rope_scaling":{"type":"linear","factor":"4"}"#, "rope_scaling.factor"),
            (r#","rope_scaling":{"factor":4.0}"#, "rope_scaling.rope_type"),
            (r#","rope_scaling":{"type":4}"#, "type"),
            (r#","rope_scaling":"linear""#, "rope_scaling"),
            (r#","rope_parameters":{"rope_type":"dynamic"}"#, "rope_parameters.factor"),
            (r#","rope_parameters":{"rope_type":"llama3","factor":8.0}"#, "rope_parameters.low_freq_factor"),
            (
                r#","rope_parameters":{"rope_type":"llama3","factor":8.0,"low_freq_factor":4.0,"high_freq_factor":4.0}"#,
                "rope_parameters.high_freq_factor",
            ),
            (
                r#","rope_parameters":{"type":"yarn","factor":2.0},"rope_scaling":{"type":"linear","factor":2.0}"#,
                "rope_scaling",
            ),
        ] {
            match parse_with(extra) {
                Err(Error::Config { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{extra}: {other:?}"),
            }
        }
    }

    /// Everything that would change the arithmetic is refused under its own name.
    #[test]
    fn refusals_by_name() {
        for (extra, feature) in [
            (r#","rope_scaling":{"type":"longrope","short_factor":[1.0],"long_factor":[2.0]}"#, "rope_scaling"),
            (r#","rope_parameters":{"rope_type":"proportional","factor":2.0}"#, "rope_parameters"),
            (r#","rope_parameters":{"full_attention":{"rope_type":"default"}}"#, "rope_parameters"),
            (r#","rope_parameters":{"rope_theta":5.0,"partial_rotary_factor":0.5}"#, "partial_rotary_factor"),
            (r#","attention_bias":true"#, "attention_bias"),
            (r#","mlp_bias":true"#, "mlp_bias"),
            (r#","hidden_act":"gelu""#, "hidden_act"),
            (r#","sliding_window":512"#, "sliding_window"),
            (r#","use_qk_norm":true"#, "use_qk_norm"),
            (r#","layer_types":["full_attention","sliding_attention"]"#, "layer_types"),
            (r#","rope_interleaved":true"#, "rope_interleaved"),
            (r#","num_local_experts":8"#, "num_local_experts"),
            (r#","no_rope_layers":[1,1,1,0]"#, "no_rope_layers"),
            (r#","model_type":"llama4_text""#, "model_type"),
            (r#","quantization_config":{"bits":4}"#, "quantization_config"),
        ] {
            match parse_with(extra) {
                Err(Error::Unsupported { feature: named, .. }) => assert_eq!(named, feature),
                other => panic!("{feature} was not refused: {other:?}"),
            }
        }
        assert!(parse_with(r#","sliding_window":4096,"use_sliding_window":false"#).is_ok());
        assert!(parse_with(r#","layer_types":["full_attention"]"#).is_ok());
        assert_eq!(
            parse_with(r#","rope_parameters":{"rope_type":"default","rope_theta":5.0}"#).unwrap().rope_theta,
            5.0
        );
    }

    #[test]
    fn bad_numbers_are_named() {
        let broken = |from: &str, to: &str| Config::parse(&family(30, 576, 9, 3, 1536, "").replace(from, to));
        for (from, to, field) in [
            (r#""hidden_size":576,"#, "", "hidden_size"),
            (r#""hidden_size":576"#, r#""hidden_size":-1"#, "hidden_size"),
            (r#""vocab_size":32000"#, r#""vocab_size":"many""#, "vocab_size"),
            (r#""num_key_value_heads":3"#, r#""num_key_value_heads":4"#, "num_key_value_heads"),
            (r#""rope_theta":10000.0"#, r#""rope_theta":0"#, "rope_theta"),
        ] {
            assert!(matches!(broken(from, to), Err(Error::Config { field: f, .. }) if f == field), "{field}");
        }
        assert!(matches!(Config::parse("{"), Err(Error::Config { .. })));
        assert!(matches!(Config::parse("[]"), Err(Error::Config { .. })));
    }

    /// LLaMA twins: tied only when they say so.
    #[test]
    fn llama_twins() {
        let text = family(22, 2048, 32, 4, 5632, "")
            .replace("\"mobilellm\"", "\"llama\"")
            .replace(r#""share_embedding":true,"#, "");
        assert!(!Config::parse(&text).unwrap().tied);
    }
}

//! `tokenizer_config.json` and `generation_config.json` -> what the engine must know: BOS, EOS, the chat template.

use super::{ChatTemplate, TemplateSource, Tokenizer};
use crate::config::token_ids;
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// The part of `tokenizer_config.json` that is used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerConfig {
    /// `None` where the file has none or an empty one, as the official MobileLLM files do.
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub add_bos_token: Option<bool>,
    /// (name, source); a single template is called `default`.
    chat_templates: Vec<(String, String)>,
    /// Every other special token, for templates that name one.
    other_tokens: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// # Errors
    /// [`Error::Tokenizer`] if the text is not JSON or a field has the wrong type.
    pub fn parse(text: &str) -> Result<Self> {
        let ill_typed = |field: &str| Error::tokenizer("tokenizer_config.json", format!("{field} has the wrong type"));
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::tokenizer("tokenizer_config.json", e))?;
        let token = |field: &str| match fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(token)) => Ok(Some(token.clone()).filter(|token| !token.is_empty())),
            Some(Value::Object(token)) => match token.get("content") {
                Some(Value::String(token)) => Ok(Some(token.clone()).filter(|token| !token.is_empty())),
                _ => Err(ill_typed(field)),
            },
            Some(_) => Err(ill_typed(field)),
        };
        let chat_templates = match fields.get("chat_template") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(source)) => vec![("default".to_string(), source.clone())],
            Some(Value::Array(list)) => list
                .iter()
                .map(|item| Some((item["name"].as_str()?.to_string(), item["template"].as_str()?.to_string())))
                .collect::<Option<_>>()
                .ok_or_else(|| ill_typed("chat_template"))?,
            Some(_) => return Err(ill_typed("chat_template")),
        };
        let mut other_tokens = Vec::new();
        for name in ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
            other_tokens.extend(token(name)?.map(|token| (name.to_string(), token)));
        }
        Ok(TokenizerConfig {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            add_bos_token: match fields.get("add_bos_token") {
                None | Some(Value::Null) => None,
                Some(Value::Bool(add)) => Some(*add),
                Some(_) => return Err(ill_typed("add_bos_token")),
            },
            chat_templates,
            other_tokens,
        })
    }

    /// The chat templates: the text of `chat_template.jinja` if the model has that file, else those in this file.
    pub fn templates(&self, jinja_file: Option<&str>) -> Vec<TemplateSource> {
        if let Some(source) = jinja_file {
            return vec![TemplateSource::new("default", "chat_template.jinja", source)];
        }
        let file = |name: &str| match self.chat_templates.len() {
            1 => "tokenizer_config.json".to_owned(),
            _ => format!("tokenizer_config.json: {name}"),
        };
        self.chat_templates.iter().map(|(name, source)| TemplateSource::new(name, &file(name), source)).collect()
    }

    /// `None` for a completion model, which has no template.
    pub fn compile(&self, templates: &[TemplateSource]) -> Result<Option<ChatTemplate>> {
        if templates.is_empty() {
            return Ok(None);
        }
        let mut tokens: Vec<(&str, &str)> = self.other_tokens.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        tokens.extend(self.bos_token.as_deref().map(|token| ("bos_token", token)));
        tokens.extend(self.eos_token.as_deref().map(|token| ("eos_token", token)));
        ChatTemplate::new(templates, &tokens).map(Some)
    }
}

/// The part of `generation_config.json` that is used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// # Errors
    /// [`Error::Config`] if the text is not JSON or `eos_token_id` is neither an id, nor a list of ids, nor null or -1.
    pub fn parse(text: &str) -> Result<Self> {
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| Error::generation_config("(file)", format!("not JSON: {e}")))?;
        let ids = fields.get("eos_token_id").map_or(Ok(Vec::new()), token_ids);
        Ok(GenerationConfig {
            eos_token_ids: ids.map_err(|problem| Error::generation_config("eos_token_id", problem))?,
        })
    }
}

/// Which ids begin and end a text.
#[derive(Debug, Clone, PartialEq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    /// Whether a plain prompt is to begin with `bos`. Rendered chats hold their own.
    pub add_bos: bool,
    /// Every id that ends a generation, without repeats.
    pub eos: Vec<u32>,
}

impl SpecialTokens {
    /// `config.json`'s ids come first, `generation_config.json` adds EOS ids, and the token strings of
    /// `tokenizer_config.json` fill what is still missing. BOS is added where `add_bos_token` or, without it, the
    /// tokenizer's file says so; SentencePiece files do not say, there it is added.
    pub fn resolve(
        bos: Option<u32>,
        eos: &[u32],
        generation: Option<&GenerationConfig>,
        config: Option<&TokenizerConfig>,
        tokenizer: &Tokenizer,
    ) -> Self {
        let id = |token: fn(&TokenizerConfig) -> &Option<String>| {
            config.and_then(|config| token(config).as_deref()).and_then(|token| tokenizer.token_id(token))
        };
        let mut ids: Vec<u32> = Vec::new();
        for &id in eos.iter().chain(generation.iter().flat_map(|generation| &generation.eos_token_ids)) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            ids.extend(id(|config| &config.eos_token));
        }
        let bos = bos.or_else(|| id(|config| &config.bos_token)).or(tokenizer.default_bos);
        let add = config.and_then(|config| config.add_bos_token);
        let by_file = tokenizer.is_sentencepiece() || tokenizer.default_bos.is_some();
        SpecialTokens { bos, add_bos: bos.is_some() && add.unwrap_or(by_file), eos: ids }
    }
}

//! The file `tokenizer.json` of the `tokenizers` library, as far as it is supported.
//!
//! The library's own reading takes twice as long, because it buffers the model to find out of which kind it is, and panics on
//! some files: here the model is read straight into what [`BPE`] is built from, after a check of everything around it.

use super::MAX_VOCAB;
use super::cut::Known;
use crate::error::{Error, Result};
use crate::text::decoder::flatten;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

#[derive(Deserialize)]
pub(super) struct File {
    model: ModelFile,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    pub decoder: Value,
    #[serde(default)]
    added_tokens: Vec<AddedFile>,
}

#[derive(Deserialize)]
struct ModelFile {
    r#type: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    vocab: Option<Tokens>,
    merges: Option<Vec<Merge>>,
}

#[derive(Deserialize)]
struct AddedFile {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

/// What turns text into ids.
pub(super) struct Pipeline {
    pub model: BPE,
    pub added: Vec<AddedToken>,
    /// `None`: left to `mobilellm_text`.
    pub known: Option<Known>,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
}

fn broken(problem: impl fmt::Display) -> Error {
    Error::tokenizer("tokenizer.json", problem)
}

impl File {
    /// # Errors
    /// [`Error::Tokenizer`] names what is broken or what is not supported.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let file: Self = serde_json::from_slice(bytes).map_err(broken)?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        let model = &self.model;
        match model.r#type.as_deref() {
            Some("BPE") => {}
            other => return Err(broken(format!("model {} is not supported", other.unwrap_or("without a type")))),
        }
        let affixes = [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ];
        for (name, affix) in affixes {
            if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
                return Err(broken(format!("{name} is not supported")));
            }
        }
        if model.dropout.is_some_and(|dropout| dropout != 0.0) {
            return Err(broken("dropout is not supported: ids would be random"));
        }
        let highest = self.added_tokens.iter().map(|added| added.id).fold(self.highest_id(), u32::max);
        if highest as usize >= MAX_VOCAB {
            return Err(broken(format!("token id {highest}: at most {MAX_VOCAB} tokens are supported")));
        }
        if let Some(added) = self.added_tokens.iter().find(|added| added.token.content.is_empty()) {
            return Err(broken(format!("added token {} is empty", added.id)));
        }
        let known = [
            (&self.normalizer, "normalizer", "normalizers", "Prepend Replace NFC NFD NFKC NFKD Lowercase Strip"),
            (
                &self.pre_tokenizer,
                "pre_tokenizer",
                "pretokenizers",
                "ByteLevel Digits Split Metaspace Whitespace WhitespaceSplit Punctuation",
            ),
        ];
        for (component, name, parts, supported) in known {
            let mut steps = Vec::new();
            flatten(component, parts, &mut steps);
            for step in steps {
                let kind = step["type"].as_str().unwrap_or("without a type");
                if !supported.split(' ').any(|name| name == kind) {
                    return Err(broken(format!("{name} {kind} is not supported")));
                }
                if kind == "Replace" && step["pattern"]["String"].as_str().is_none_or(str::is_empty) {
                    return Err(broken("normalizer Replace is supported with a non-empty string only"));
                }
            }
        }
        Ok(())
    }

    /// Of the vocabulary.
    pub fn highest_id(&self) -> u32 {
        self.model.vocab.iter().flat_map(|tokens| tokens.0.values().copied()).max().unwrap_or(0)
    }

    /// The token that the post-processor puts before a text.
    pub fn bos(&self) -> Option<&str> {
        let mut steps = Vec::new();
        flatten(&self.post_processor, "processors", &mut steps);
        steps.iter().find_map(|step| step["single"][0]["SpecialToken"]["id"].as_str())
    }

    /// What the file describes.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn build(self) -> Result<Pipeline> {
        let file = self.model;
        let (Some(vocab), Some(merges)) = (file.vocab, file.merges) else {
            return Err(broken("the model has no vocab or no merges"));
        };
        let merges: Merges = merges.into_iter().filter_map(|merge| merge.0).collect();
        let mut model = BPE::builder()
            .vocab_and_merges(vocab.0, merges)
            .fuse_unk(file.fuse_unk.unwrap_or(false))
            .byte_fallback(file.byte_fallback.unwrap_or(false))
            .ignore_merges(file.ignore_merges.unwrap_or(false));
        if let Some(unknown) = file.unk_token {
            model = model.unk_token(unknown);
        }
        let (mut normalizers, mut pre_tokenizers) = (Vec::new(), Vec::new());
        flatten(&self.normalizer, "normalizers", &mut normalizers);
        flatten(&self.pre_tokenizer, "pretokenizers", &mut pre_tokenizers);
        Ok(Pipeline {
            model: model.build().map_err(broken)?,
            added: self.added_tokens.into_iter().map(|added| added.token).collect(),
            known: Known::parse(&normalizers, &pre_tokenizers),
            normalizer: self.normalizer,
            pre_tokenizer: self.pre_tokenizer,
        })
    }
}

/// A vocabulary.
struct Tokens(Vocab);

impl<'de> Deserialize<'de> for Tokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Tokens;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Tokens, A::Error> {
                let mut ids = Vocab::new();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    ids.insert(token, id);
                }
                Ok(Tokens(ids))
            }

            /// Models other than BPE, which are refused by their type.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Tokens, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Tokens(Vocab::new()))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// `["a", "b"]`, or `"a b"` in older files, whose line `#version` is none.
struct Merge(Option<(String, String)>);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: two tokens")
            }

            fn visit_str<E: de::Error>(self, line: &str) -> std::result::Result<Merge, E> {
                if line.starts_with("#version") {
                    return Ok(Merge(None));
                }
                match line.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(Merge(Some((a.into(), b.into())))),
                    _ => Err(E::custom(format!("merge {line:?} is not two tokens"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Merge, A::Error> {
                match (list.next_element()?, list.next_element()?, list.next_element::<IgnoredAny>()?) {
                    (Some(a), Some(b), None) => Ok(Merge(Some((a, b)))),
                    _ => Err(de::Error::custom("a merge is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

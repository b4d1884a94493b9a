//! Text <-> ids.
//!
//! ```text
//! tokenizer.json  -> `tokenizers` ----------------------.
//! tokenizer.model -> sentencepiece: pieces, their merging -> Tokenizer: encode, encode_with_control
//!                                                         -> Decoder: ids -> text as it comes
//! messages -> chat: template, contents made unable to form control tokens -> ids
//! tokenizer_config.json, generation_config.json -> settings: BOS, EOS, template
//! ```
//!
//! A *control token* is what `tokenizers` calls a special token and SentencePiece a control piece (`<s>`, `<|user|>`).
//! Only [`Tokenizer::encode_with_control`] finds them in a text; what people type goes through
//! [`Tokenizer::encode`] or [`ChatTemplate::encode`], which never produce one from it.

mod chat;
mod decoder;
mod sentencepiece;
mod settings;

pub use chat::{ChatInput, ChatTemplate};
pub use decoder::Decoder;
pub use settings::{GenerationConfig, SpecialTokens, TokenizerConfig};

use crate::error::{Error, Result};
use decoder::{Kind, Pieces, Recipe, Rule};
use sentencepiece::SentencePiece;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper,
    OffsetReferential, OffsetType, PreTokenizer, Token,
};

/// Largest vocabulary that is accepted, in tokens; four times that of any model known today.
const MAX_VOCAB: usize = 1 << 20;

/// A loaded tokenizer. Cheap to share behind an `Arc`; it never changes.
pub struct Tokenizer {
    model: TokenModel,
    /// Added tokens, control tokens among them.
    control: AddedVocabulary,
    /// The same, with control tokens left in the text.
    plain: AddedVocabulary,
    pieces: Arc<Pieces>,
    /// BOS that the file itself puts before a text.
    default_bos: Option<u32>,
}

enum TokenModel {
    Json(Box<tokenizers::Tokenizer>),
    SentencePiece(SentencePiece),
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let file = if self.is_sentencepiece() { "tokenizer.model" } else { "tokenizer.json" };
        f.debug_struct("Tokenizer").field("file", &file).field("vocab_size", &self.vocab_size()).finish()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of the `tokenizers` library: BPE, byte-level or with byte fallback.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] names what is broken or what is not supported.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let broken = |problem: &dyn fmt::Display| Error::tokenizer("tokenizer.json", problem);
        let head: Head = serde_json::from_slice(bytes).map_err(|e| broken(&e))?;
        head.check()?;
        let recipe = Recipe::parse(&head.decoder)?;
        let inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| broken(&e))?;
        let ModelWrapper::BPE(model) = inner.get_model() else { return Err(broken(&"the model is not BPE")) };
        if let Some(unknown) = model.unk_token.as_ref().filter(|unknown| model.token_to_id(unknown).is_none()) {
            return Err(broken(&format!("unk_token {unknown:?} is not in the vocabulary")));
        }

        // Normalized control tokens would be sought after normalization, where contents can no longer be told from
        // template text.
        let mut added: Vec<(u32, AddedToken)> = inner.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        let mut control = inner.get_added_vocabulary().clone();
        if added.iter().any(|(_, token)| token.special && token.normalized) {
            let tokens: Vec<AddedToken> = added
                .iter()
                .map(|(_, token)| AddedToken { normalized: token.normalized && !token.special, ..token.clone() })
                .collect();
            control = AddedVocabulary::new();
            control.add_tokens(&tokens, inner.get_model(), inner.get_normalizer());
            if let Some((id, token)) = added.iter().find(|(id, _)| control.simple_id_to_token(*id).is_none()) {
                return Err(broken(&format!("added token {:?} cannot have id {id}", token.content)));
            }
        }

        let size = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if size > MAX_VOCAB {
            return Err(broken(&format!("token id {}, at most {} are supported", size - 1, MAX_VOCAB)));
        }
        let mut pieces = Pieces::new(recipe.rule);
        for id in 0..size as u32 {
            let token = inner.id_to_token(id).unwrap_or_default();
            recipe.push(&mut pieces, &token, control.is_special_token(&token));
        }
        let default_bos = head.bos().and_then(|token| inner.token_to_id(token));
        Ok(Self::new(TokenModel::Json(Box::new(inner)), control, pieces, default_bos))
    }

    /// Reads a SentencePiece `tokenizer.model`: BPE with the identity normalizer, as LLaMA and MobileLLM ship it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] names what is broken or what is not supported.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self> {
        let file = SentencePiece::parse(bytes)?;
        let mut pieces = Pieces::new(Rule::ByteFallback { strip: usize::from(file.dummy_prefix) });
        let (mut added, mut names) = (Vec::new(), Vocab::new());
        for (piece, id) in file.pieces.iter().zip(0..) {
            let (kind, bytes) = match piece.kind {
                sentencepiece::Kind::Unknown => (Kind::Literal, file.unknown_surface.clone().into_bytes()),
                sentencepiece::Kind::Byte(byte) => (Kind::Byte, vec![byte]),
                sentencepiece::Kind::Control => (Kind::Control, piece.text.clone().into_bytes()),
                _ => (Kind::Text, piece.text.replace('▁', " ").into_bytes()),
            };
            pieces.push(kind, &bytes);
            if matches!(piece.kind, sentencepiece::Kind::Control | sentencepiece::Kind::UserDefined) {
                // Like SentencePiece, seek user-defined symbols in the normalized text.
                added.push(AddedToken::from(&piece.text, kind == Kind::Control).normalized(kind != Kind::Control));
                names.insert(piece.text.clone(), id);
            }
        }
        let names = BPE::builder().vocab_and_merges(names, Vec::new()).build();
        let names = names.map_err(|e| Error::tokenizer("tokenizer.model", e))?;
        let mut control = AddedVocabulary::new();
        control.add_tokens(&added, &names, None::<&NormalizerWrapper>);
        Ok(Self::new(TokenModel::SentencePiece(file), control, pieces, None))
    }

    fn new(model: TokenModel, control: AddedVocabulary, pieces: Pieces, default_bos: Option<u32>) -> Self {
        let mut plain = control.clone();
        plain.set_encode_special_tokens(true);
        Tokenizer { model, control, plain, pieces: Arc::new(pieces), default_bos }
    }

    /// Ids of a text that contains no control token, whatever it says: `<|user|>` is eight characters. No BOS is added.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a regular expression of the file gives up on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, &self.plain, &[])
    }

    /// Ids of a text in which control tokens, written as in the vocabulary, become their ids: template output, never
    /// what a stranger typed. Each stretch between control tokens is encoded by itself. No BOS is added.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_control(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, &self.control, &[])
    }

    /// Text of the ids; control tokens are left out unless `show_control`.
    pub fn decode(&self, ids: &[u32], show_control: bool) -> String {
        let mut decoder = self.decoder(None, show_control);
        let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
        text.push_str(&decoder.finish());
        text
    }

    /// A streaming decoder for the ids that follow `previous`, the last id of the prompt. After nothing or a control
    /// token a new text begins and the leading space that SentencePiece adds is dropped; after anything else it is
    /// the space between two words and stays.
    pub fn decoder(&self, previous: Option<u32>, show_control: bool) -> Decoder {
        Decoder::new(self.pieces.clone(), show_control, previous.is_none_or(|id| self.is_control(id)))
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Id of a token as it is written in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.model {
            TokenModel::Json(inner) => self.control.token_to_id(token, inner.get_model()),
            TokenModel::SentencePiece(file) => {
                file.pieces.iter().zip(0..).find(|(p, _)| p.text == token).map(|(_, id)| id)
            }
        }
    }

    fn is_sentencepiece(&self) -> bool {
        matches!(self.model, TokenModel::SentencePiece(_))
    }

    pub fn is_control(&self, id: u32) -> bool {
        self.pieces.get(id).is_some_and(|(kind, _)| kind == Kind::Control)
    }

    /// Strings of all control tokens.
    fn control_tokens(&self) -> impl Iterator<Item = &str> {
        let added = self.control.get_added_tokens_decoder().values();
        added.filter(|token| token.special).map(|token| token.content.as_str())
    }

    /// The control tokens in a text, in order.
    fn control_ids(&self, text: &str) -> Vec<u32> {
        let split = self.control.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::None);
        let ids = splits.into_iter().flat_map(|(_, _, tokens)| tokens.iter().flatten().map(|token| token.id));
        ids.filter(|&id| self.is_control(id)).collect()
    }

    /// The pipeline of `tokenizers::Tokenizer::encode`, with a choice of added tokens. `stand_ins` are put back after
    /// control tokens were sought: (stand-in, character).
    fn ids(&self, text: &str, added: &AddedVocabulary, stand_ins: &[(char, char)]) -> Result<Vec<u32>> {
        let file = if self.is_sentencepiece() { "tokenizer.model" } else { "tokenizer.json" };
        let failed = |e| Error::tokenizer(file, e);
        let mut split = added.extract_and_normalize(Some(&Segment { tokenizer: self, stand_ins }), text);
        match &self.model {
            TokenModel::Json(inner) => {
                if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
                    pre_tokenizer.pre_tokenize(&mut split).map_err(failed)?;
                }
                split.tokenize(|text| inner.get_model().tokenize(text.get())).map_err(failed)?;
            }
            TokenModel::SentencePiece(model) => {
                let token = |id| Token::new(id, String::new(), (0, 0));
                split.tokenize(|text| Ok(model.encode(text.get()).into_iter().map(token).collect())).map_err(failed)?;
            }
        }
        let encoding = split.into_encoding(None, 0, OffsetType::None).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// Normalizes one stretch between control tokens.
struct Segment<'a> {
    tokenizer: &'a Tokenizer,
    stand_ins: &'a [(char, char)],
}

impl Normalizer for Segment<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if !self.stand_ins.is_empty() {
            text.map(|c| {
                self.stand_ins.iter().find(|(stand_in, _)| *stand_in == c).map_or(c, |(_, original)| *original)
            });
        }
        match &self.tokenizer.model {
            TokenModel::SentencePiece(_) if text.is_empty() => Ok(()),
            TokenModel::SentencePiece(file) => {
                let prefix = if file.dummy_prefix { "▁" } else { "" };
                *text = (prefix.to_string() + &text.get().replace(' ', "▁")).into();
                Ok(())
            }
            TokenModel::Json(inner) => inner.get_normalizer().map_or(Ok(()), |n| n.normalize(text)),
        }
    }
}

/// `<0x0A>` -> 10.
fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if valid { u8::from_str_radix(hex, 16).ok() } else { None }
}

/// Lists a component of `tokenizer.json`, or the parts of a `Sequence`; nothing for null.
fn flatten<'a>(component: &'a Value, parts: &str, out: &mut Vec<&'a Value>) {
    match (component["type"].as_str(), component[parts].as_array()) {
        (Some("Sequence"), Some(list)) => list.iter().for_each(|part| flatten(part, parts, out)),
        _ if component.is_null() => {}
        _ => out.push(component),
    }
}

/// What must be known of a `tokenizer.json` before `tokenizers` is let at it: it panics on some files.
#[derive(Deserialize)]
struct Head {
    model: ModelHead,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    added_tokens: Vec<AddedHead>,
}

#[derive(Deserialize)]
struct ModelHead {
    r#type: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    vocab: HighestId,
}

#[derive(Deserialize)]
struct AddedHead {
    id: u32,
    content: String,
}

/// The highest id of a vocabulary, read without holding it.
#[derive(Default)]
struct HighestId(u32);

impl<'de> Deserialize<'de> for HighestId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Highest;
        impl<'de> Visitor<'de> for Highest {
            type Value = HighestId;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a map from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<HighestId, A::Error> {
                let mut highest = 0;
                while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u32>()? {
                    highest = highest.max(id);
                }
                Ok(HighestId(highest))
            }

            /// Models other than BPE, which are refused by their type.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<HighestId, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(HighestId(0))
            }
        }
        deserializer.deserialize_any(Highest)
    }
}

impl Head {
    fn check(&self) -> Result<()> {
        let broken = |problem: String| Err(Error::tokenizer("tokenizer.json", problem));
        let model = &self.model;
        match model.r#type.as_deref() {
            Some("BPE") => {}
            other => return broken(format!("model {} is not supported", other.unwrap_or("without a type"))),
        }
        let prefixes = [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ];
        for (name, affix) in prefixes {
            if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
                return broken(format!("{name} is not supported"));
            }
        }
        if model.dropout.is_some_and(|dropout| dropout != 0.0) {
            return broken("dropout is not supported: ids would be random".into());
        }
        let highest = self.added_tokens.iter().map(|token| token.id).fold(model.vocab.0, u32::max);
        if highest as usize >= MAX_VOCAB {
            return broken(format!("token id {highest}: at most {MAX_VOCAB} tokens are supported"));
        }
        if let Some(token) = self.added_tokens.iter().find(|token| token.content.is_empty()) {
            return broken(format!("added token {} is empty", token.id));
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
                    return broken(format!("{name} {kind} is not supported"));
                }
                if kind == "Replace" && step["pattern"]["String"].as_str().is_none_or(str::is_empty) {
                    return broken("normalizer Replace is supported with a non-empty string only".into());
                }
            }
        }
        Ok(())
    }

    /// The token that the post-processor puts before a text.
    fn bos(&self) -> Option<&str> {
        let mut steps = Vec::new();
        flatten(&self.post_processor, "processors", &mut steps);
        steps.iter().find_map(|step| step["single"][0]["SpecialToken"]["id"].as_str())
    }
}

//! `tokenizer.json` or `tokenizer.model` -> text <-> ids.
//!
//! A *control token* is what `tokenizers` calls a special token and SentencePiece a control piece (`<s>`, `<|user|>`).
//! Only [`Tokenizer::encode_with_control`] finds them in a text; what people type goes through
//! [`Tokenizer::encode`] or [`ChatTemplate::encode`](super::ChatTemplate::encode), which never produce one from it.

mod json;
mod sentencepiece;

pub(super) use json::flatten;
#[cfg(not(target_arch = "wasm32"))]
pub use sentencepiece::pieces as sentencepiece_pieces;

use super::decoder::{Decoder, Kind, Pieces, Recipe, Rule};
use crate::error::{Error, Result};
use json::{File, Pipeline};
use sentencepiece::SentencePiece;
use std::fmt;
use std::sync::Arc;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizer, Token,
};

/// Largest vocabulary that is accepted, in tokens; four times that of any model known today.
const MAX_VOCAB: usize = 1 << 20;

/// A loaded tokenizer. Cheap to share behind an `Arc`; it never changes.
pub struct Tokenizer {
    model: TokenModel,
    /// Added tokens, control tokens among them.
    pub(super) control: AddedVocabulary,
    /// The same, with control tokens left in the text.
    plain: AddedVocabulary,
    pieces: Arc<Pieces>,
    /// BOS that the file itself puts before a text.
    pub(super) default_bos: Option<u32>,
}

enum TokenModel {
    Json(Box<Pipeline>),
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
        let broken = |problem: String| Error::tokenizer("tokenizer.json", problem);
        let file = File::parse(bytes)?;
        let recipe = Recipe::parse(&file.decoder)?;
        let (highest, bos) = (file.highest_id(), file.bos().map(str::to_owned));
        let (inner, added) = file.build()?;
        let model = &inner.model;
        if let Some(unknown) = model.unk_token.as_ref().filter(|unknown| model.token_to_id(unknown).is_none()) {
            return Err(broken(format!("unk_token {unknown:?} is not in the vocabulary")));
        }

        // Normalized control tokens would be sought after normalization, where contents can no longer be told from
        // template text.
        let mut control = AddedVocabulary::new();
        control.add_tokens(&added, model, inner.normalizer.as_ref());
        let mut added: Vec<(u32, AddedToken)> = control.get_added_tokens_decoder().clone().into_iter().collect();
        added.sort_by_key(|(id, _)| *id);
        if added.iter().any(|(_, token)| token.special && token.normalized) {
            let tokens: Vec<AddedToken> = added
                .iter()
                .map(|(_, token)| AddedToken { normalized: token.normalized && !token.special, ..token.clone() })
                .collect();
            control = AddedVocabulary::new();
            control.add_tokens(&tokens, model, inner.normalizer.as_ref());
            if let Some((id, token)) = added.iter().find(|(id, _)| control.simple_id_to_token(*id).is_none()) {
                return Err(broken(format!("added token {:?} cannot have id {id}", token.content)));
            }
        }

        let size = added.last().map_or(0, |(id, _)| *id).max(highest) as usize + 1;
        if size > MAX_VOCAB {
            return Err(broken(format!("token id {}, at most {} are supported", size - 1, MAX_VOCAB)));
        }
        let mut pieces = Pieces::new(recipe.rule);
        for id in 0..size as u32 {
            let token = control.simple_id_to_token(id).or_else(|| model.id_to_token(id)).unwrap_or_default();
            recipe.push(&mut pieces, &token, control.is_special_token(&token));
        }
        let default_bos = bos.and_then(|token| control.token_to_id(&token, model));
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
            TokenModel::Json(inner) => self.control.token_to_id(token, &inner.model),
            TokenModel::SentencePiece(file) => {
                file.pieces.iter().zip(0..).find(|(p, _)| p.text == token).map(|(_, id)| id)
            }
        }
    }

    pub(super) fn is_sentencepiece(&self) -> bool {
        matches!(self.model, TokenModel::SentencePiece(_))
    }

    pub fn is_control(&self, id: u32) -> bool {
        self.pieces.get(id).is_some_and(|(kind, _)| kind == Kind::Control)
    }

    /// Strings of all control tokens.
    pub(super) fn control_tokens(&self) -> impl Iterator<Item = &str> {
        let added = self.control.get_added_tokens_decoder().values();
        added.filter(|token| token.special).map(|token| token.content.as_str())
    }

    /// The control tokens in a text, in order.
    pub(super) fn control_ids(&self, text: &str) -> Vec<u32> {
        let split = self.control.extract_and_normalize(None::<&NormalizerWrapper>, text);
        let splits = split.get_splits(OffsetReferential::Original, OffsetType::None);
        let ids = splits.into_iter().flat_map(|(_, _, tokens)| tokens.iter().flatten().map(|token| token.id));
        ids.filter(|&id| self.is_control(id)).collect()
    }

    /// The pipeline of `tokenizers::Tokenizer::encode`, with a choice of added tokens. `stand_ins` are put back after
    /// control tokens were sought: (stand-in, character).
    pub(super) fn ids(&self, text: &str, added: &AddedVocabulary, stand_ins: &[(char, char)]) -> Result<Vec<u32>> {
        let file = if self.is_sentencepiece() { "tokenizer.model" } else { "tokenizer.json" };
        let failed = |e| Error::tokenizer(file, e);
        let mut split = added.extract_and_normalize(Some(&Segment { tokenizer: self, stand_ins }), text);
        match &self.model {
            TokenModel::Json(inner) => {
                if let Some(pre_tokenizer) = &inner.pre_tokenizer {
                    pre_tokenizer.pre_tokenize(&mut split).map_err(failed)?;
                }
                split.tokenize(|text| inner.model.tokenize(text.get())).map_err(failed)?;
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
            TokenModel::Json(inner) => inner.normalizer.as_ref().map_or(Ok(()), |n| n.normalize(text)),
        }
    }
}

/// `<0x0A>` -> 10.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if valid { u8::from_str_radix(hex, 16).ok() } else { None }
}

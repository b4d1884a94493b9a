//! A `tokenizer.json` up to its model: added tokens, normalizer, pre-tokenizer, all as `tokenizers` does it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizer, PreTokenizerWrapper,
};

#[derive(Deserialize)]
pub struct Specification {
    normalizer: Value,
    pre_tokenizer: Value,
    /// In the order of the file.
    added: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
pub struct Request {
    text: String,
    /// Whether special tokens are sought in the text.
    control: bool,
    /// Put back once added tokens were sought that are not normalized: (stand-in, character).
    stand_ins: Vec<(char, char)>,
}

/// A stretch of text for the model, or the id of an added token.
#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Piece {
    Token(u32),
    Text(String),
}

pub struct Splitter {
    control: AddedVocabulary,
    /// The same, with special tokens left in the text.
    plain: AddedVocabulary,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
}

impl Splitter {
    /// # Errors
    /// What is wrong with a component, in words.
    pub fn new(specification: Specification) -> Result<Self, String> {
        let component = |e: serde_json::Error| e.to_string();
        let normalizer: Option<NormalizerWrapper> =
            serde_json::from_value(specification.normalizer).map_err(component)?;
        let pre_tokenizer = serde_json::from_value(specification.pre_tokenizer).map_err(component)?;
        let (names, tokens): (Vocab, Vec<AddedToken>) =
            specification.added.into_iter().map(|added| ((added.token.content.clone(), added.id), added.token)).unzip();
        let names = BPE::builder().vocab_and_merges(names, Vec::new()).build().map_err(|e| e.to_string())?;
        let mut control = AddedVocabulary::new();
        control.add_tokens(&tokens, &names, normalizer.as_ref());
        let mut plain = control.clone();
        plain.set_encode_special_tokens(true);
        Ok(Splitter { control, plain, normalizer, pre_tokenizer })
    }

    /// # Errors
    /// Where a regular expression gives up.
    pub fn split(&self, request: &Request) -> Result<Vec<Piece>, String> {
        let added = if request.control { &self.control } else { &self.plain };
        let segment = Segment { normalizer: self.normalizer.as_ref(), stand_ins: &request.stand_ins };
        let mut split = added.extract_and_normalize(Some(&segment), &request.text);
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut split).map_err(|e| e.to_string())?;
        }
        let mut pieces = Vec::new();
        for (text, _, tokens) in split.get_splits(OffsetReferential::Original, OffsetType::None) {
            match tokens {
                Some(tokens) => pieces.extend(tokens.iter().map(|token| Piece::Token(token.id))),
                None => pieces.push(Piece::Text(text.to_owned())),
            }
        }
        Ok(pieces)
    }
}

/// Normalizes one stretch between added tokens.
struct Segment<'a> {
    normalizer: Option<&'a NormalizerWrapper>,
    stand_ins: &'a [(char, char)],
}

impl Normalizer for Segment<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if !self.stand_ins.is_empty() {
            text.map(|c| {
                self.stand_ins.iter().find(|(stand_in, _)| *stand_in == c).map_or(c, |(_, original)| *original)
            });
        }
        self.normalizer.map_or(Ok(()), |normalizer| normalizer.normalize(text))
    }
}

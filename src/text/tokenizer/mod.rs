//! `tokenizer.json` or `tokenizer.model` -> text <-> ids.
//!
//! A *control token* is what `tokenizers` calls a special token and SentencePiece a control piece (`<s>`, `<|user|>`).
//! Only [`Tokenizer::encode_with_control`] finds them in a text; what people type goes through
//! [`Tokenizer::encode`] or [`ChatTemplate::encode`](super::ChatTemplate::encode), which never produce one from it.

mod added;
mod cut;
mod json;
mod sentencepiece;
mod unicode;

#[cfg(not(target_arch = "wasm32"))]
pub use sentencepiece::pieces as sentencepiece_pieces;

use super::decoder::{Decoder, Kind, Pieces, Recipe, Rule};
use super::part::{self, LazyPart};
use crate::error::{Error, Result};
use added::{Added, Stretch};
use cut::Known;
use json::File;
use sentencepiece::SentencePiece;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, Model};

/// Largest vocabulary that is accepted, in tokens; four times that of any model known today.
const MAX_VOCAB: usize = 1 << 20;

/// A loaded tokenizer. Cheap to share behind an `Arc`; it never changes.
pub struct Tokenizer {
    model: TokenModel,
    added: Added,
    pieces: Arc<Pieces>,
    /// BOS that the file itself puts before a text.
    pub(super) default_bos: Option<u32>,
}

enum TokenModel {
    Json { model: Box<BPE>, cutting: Cutting },
    SentencePiece(SentencePiece),
}

/// How a text is cut before the model sees it.
enum Cutting {
    Known(Known),
    /// By `mobilellm_text`: a [`SplitRequest`] gives [`Piece`]s.
    Unusual(LazyPart),
}

/// `mobilellm_text::splitter::Request`.
#[derive(Serialize)]
struct SplitRequest<'a> {
    text: &'a str,
    control: bool,
    stand_ins: &'a [(char, char)],
}

/// What the model makes ids of, or the id of an added token.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Piece {
    Token(u32),
    Text(String),
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
        let pipeline = file.build()?;
        let model = pipeline.model;
        if let Some(unknown) = model.unk_token.as_ref().filter(|unknown| model.token_to_id(unknown).is_none()) {
            return Err(broken(format!("unk_token {unknown:?} is not in the vocabulary")));
        }

        let normalize =
            |text: &str| pipeline.known.as_ref().map_or_else(|| text.to_owned(), |known| known.normalize(text));
        let add = |tokens: &[AddedToken]| {
            let size = u32::try_from(model.get_vocab_size()).unwrap_or(u32::MAX);
            Added::new(tokens, size, |token| model.token_to_id(token), normalize)
        };
        let mut added = add(&pipeline.added);
        // Normalized control tokens would be sought after normalization, where contents can no longer be told from
        // template text.
        if added.tokens().iter().any(|(_, token)| token.special && token.normalized) {
            let tokens: Vec<AddedToken> = added
                .tokens()
                .into_iter()
                .map(|(_, token)| AddedToken { normalized: token.normalized && !token.special, ..token.clone() })
                .collect();
            let raw = add(&tokens);
            if let Some((id, token)) = added.tokens().into_iter().find(|(id, _)| raw.token(*id).is_none()) {
                return Err(broken(format!("added token {:?} cannot have id {id}", token.content)));
            }
            added = raw;
        }
        if let Some((_, token)) =
            added.tokens().into_iter().find(|(_, t)| t.normalized && normalize(&t.content).is_empty())
        {
            return Err(broken(format!("added token {:?} is empty once it is normalized", token.content)));
        }

        let size = added.tokens().last().map_or(0, |(id, _)| *id).max(highest) as usize + 1;
        if size > MAX_VOCAB {
            return Err(broken(format!("token id {}, at most {} are supported", size - 1, MAX_VOCAB)));
        }
        let mut pieces = Pieces::new(recipe.rule);
        for id in 0..size as u32 {
            let token = added.token(id).map(|token| token.content.clone());
            let token = token.or_else(|| model.id_to_token(id)).unwrap_or_default();
            recipe.push(&mut pieces, &token, added.is_special(&token));
        }
        let default_bos = bos.and_then(|token| added.id(&token).or_else(|| model.token_to_id(&token)));
        let cutting = match pipeline.known {
            Some(known) => Cutting::Known(known),
            None => {
                let part = splitter(&pipeline.normalizer, &pipeline.pre_tokenizer, &added);
                Cutting::Unusual(part.map_err(broken)?)
            }
        };
        let model = TokenModel::Json { model: Box::new(model), cutting };
        Ok(Tokenizer { model, added, pieces: Arc::new(pieces), default_bos })
    }

    /// Reads a SentencePiece `tokenizer.model`: BPE with the identity normalizer, as LLaMA and MobileLLM ship it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] names what is broken or what is not supported.
    pub fn from_sentencepiece(bytes: &[u8]) -> Result<Self> {
        let file = SentencePiece::parse(bytes)?;
        let mut pieces = Pieces::new(Rule::ByteFallback { strip: usize::from(file.dummy_prefix) });
        let (mut added, mut ids) = (Vec::new(), HashMap::new());
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
                ids.insert(piece.text.as_str(), id);
            }
        }
        let added = Added::new(&added, 0, |token| ids.get(token).copied(), str::to_owned);
        Ok(Tokenizer { model: TokenModel::SentencePiece(file), added, pieces: Arc::new(pieces), default_bos: None })
    }

    /// Ids of a text that contains no control token, whatever it says: `<|user|>` is eight characters. No BOS is added.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if a regular expression of the file gives up on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, false, &[])
    }

    /// Ids of a text in which control tokens, written as in the vocabulary, become their ids: template output, never
    /// what a stranger typed. Each stretch between control tokens is encoded by itself. No BOS is added.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_control(&self, text: &str) -> Result<Vec<u32>> {
        self.ids(text, true, &[])
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
            TokenModel::Json { model, .. } => self.added.id(token).or_else(|| model.token_to_id(token)),
            TokenModel::SentencePiece(file) => {
                file.pieces.iter().zip(0..).find(|(p, _)| p.text == token).map(|(_, id)| id)
            }
        }
    }

    /// The part of `mobilellm_text` without which this tokenizer encodes nothing, if there is one.
    pub(super) fn part(&self) -> Option<&LazyPart> {
        match &self.model {
            TokenModel::Json { cutting: Cutting::Unusual(part), .. } => Some(part),
            _ => None,
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
        self.added.special()
    }

    /// Whether a text has the text of a control token in it.
    pub fn spells_out_control(&self, text: &str) -> bool {
        self.control_tokens().any(|token| text.contains(token))
    }

    /// The control tokens in a text, in order.
    pub(super) fn control_ids(&self, text: &str) -> Vec<u32> {
        let id = |stretch| match stretch {
            Stretch::Token(id) => Some(id).filter(|&id| self.is_control(id)),
            Stretch::Text { .. } => None,
        };
        self.added.cut(text, false, true).into_iter().filter_map(id).collect()
    }

    /// Ids of a text; control tokens are sought in it if `control`. `stand_ins` are put back after that: (stand-in,
    /// character).
    pub(super) fn ids(&self, text: &str, control: bool, stand_ins: &[(char, char)]) -> Result<Vec<u32>> {
        let file = if self.is_sentencepiece() { "tokenizer.model" } else { "tokenizer.json" };
        let failed = |problem: String| Error::tokenizer(file, problem);
        let mut ids = Vec::new();
        for piece in self.cut(text, control, stand_ins).map_err(failed)? {
            match (piece, &self.model) {
                (Piece::Token(id), _) => ids.push(id),
                (Piece::Text(text), TokenModel::Json { model, .. }) => {
                    let tokens = model.tokenize(&text).map_err(|e| failed(e.to_string()))?;
                    ids.extend(tokens.into_iter().map(|token| token.id));
                }
                (Piece::Text(text), TokenModel::SentencePiece(model)) => ids.extend(model.encode(&text)),
            }
        }
        Ok(ids)
    }

    /// A text up to the model: added tokens, normalizer, pre-tokenizer.
    fn cut(&self, text: &str, control: bool, stand_ins: &[(char, char)]) -> std::result::Result<Vec<Piece>, String> {
        if let Some(part) = self.part() {
            return part.call(&SplitRequest { text, control, stand_ins });
        }
        let mut pieces = Vec::new();
        for stretch in self.added.cut(text, false, control) {
            let (start, text) = match stretch {
                Stretch::Token(id) => {
                    pieces.push(Piece::Token(id));
                    continue;
                }
                Stretch::Text { start, text } => (start, text),
            };
            let original =
                |c| stand_ins.iter().find(|(stand_in, _)| *stand_in == c).map_or(c, |(_, original)| *original);
            let text = self.normalize(text.chars().map(original).collect());
            for stretch in self.added.cut(&text, true, control) {
                match (stretch, &self.model) {
                    (Stretch::Token(id), _) => pieces.push(Piece::Token(id)),
                    (
                        Stretch::Text { start: within, text },
                        TokenModel::Json { cutting: Cutting::Known(known), .. },
                    ) => {
                        pieces.extend(known.cut(text, start + within == 0).into_iter().map(Piece::Text));
                    }
                    (Stretch::Text { text, .. }, _) => pieces.push(Piece::Text(text.to_owned())),
                }
            }
        }
        Ok(pieces)
    }

    /// Normalizes one stretch between control tokens.
    fn normalize(&self, text: String) -> String {
        match &self.model {
            TokenModel::SentencePiece(_) if text.is_empty() => text,
            TokenModel::SentencePiece(file) => {
                let prefix = if file.dummy_prefix { "▁" } else { "" };
                prefix.to_owned() + &text.replace(' ', "▁")
            }
            TokenModel::Json { cutting: Cutting::Known(known), .. } => known.normalize(&text),
            TokenModel::Json { .. } => text,
        }
    }
}

fn splitter(normalizer: &Value, pre_tokenizer: &Value, added: &Added) -> std::result::Result<LazyPart, String> {
    #[derive(Serialize)]
    struct Token<'a> {
        id: u32,
        #[serde(flatten)]
        token: &'a AddedToken,
    }
    let added: Vec<Token> = added.tokens().into_iter().map(|(id, token)| Token { id, token }).collect();
    LazyPart::new(
        part::Kind::Splitter,
        &json!({ "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "added": added }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const GPT2_SHORT: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    /// (normalizer, pre-tokenizer), each of which is cut here and can be cut by `mobilellm_text`.
    fn known() -> Vec<(Value, Value)> {
        let byte_level = |prefix: bool, regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex });
        let split = |regex: &str, behavior: &str, invert: bool| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": behavior, "invert": invert });
        let sequence = |steps: &[Value]| json!({ "type": "Sequence", "pretokenizers": steps });
        let metaspace = |scheme: &str, split: bool| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split });
        let digits = |each: bool| json!({ "type": "Digits", "individual_digits": each });
        let llama2 = json!({ "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] });
        let mut known = vec![
            (llama2.clone(), Value::Null),
            (llama2, sequence(&[digits(true), metaspace("always", true)])),
            (json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "" }), byte_level(true, true)),
            (json!({ "type": "Prepend", "prepend": "x" }), digits(false)),
        ];
        let pre_tokenizers = [
            byte_level(false, true),
            byte_level(true, true),
            byte_level(true, false),
            sequence(&[digits(true), byte_level(false, true)]),
            sequence(&[digits(false), split(GPT2_SHORT, "Isolated", false), byte_level(false, false), digits(false)]),
            sequence(&[split(LLAMA3, "Isolated", false), byte_level(false, false)]),
            sequence(&[split(QWEN2, "Removed", true), byte_level(false, false)]),
            split(GPT2, "Isolated", true),
            metaspace("first", true),
            metaspace("first", false),
            metaspace("never", true),
            sequence(&[digits(true), metaspace("always", false)]),
            json!({ "type": "Metaspace", "replacement": "_", "add_prefix_space": true }),
        ];
        known.extend(pre_tokenizers.map(|pre_tokenizer| (Value::Null, pre_tokenizer)));
        known
    }

    /// With added tokens of every kind, and the same tokenizer that leaves the cutting to `mobilellm_text`.
    fn both(normalizer: &Value, pre_tokenizer: &Value) -> (Tokenizer, LazyPart) {
        let token = |content: &str, flags: &str| {
            let flag = |name: char| flags.contains(name);
            json!({ "id": 0, "content": content, "single_word": flag('w'), "lstrip": flag('l'), "rstrip": flag('r'),
                "normalized": flag('n'), "special": flag('s') })
        };
        let added = [
            token("<a>", "s"),
            token("<a", ""),
            token("<ab>", "sn"),
            token("<l>", "sl"),
            token("<r>", "r"),
            token("<lr>", "slr"),
            token("é1", "w"),
            token("wo", "wn"),
            token("a b", "n"),
            token(" a", "lr"),
            token("▁a", "n"),
            token("<a>", "n"),
        ];
        let file = json!({
            "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "<a>": 2 }, "merges": [] },
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": { "type": "ByteLevel" }, "added_tokens": added,
        });
        let tokenizer = Tokenizer::from_json(file.to_string().as_bytes()).unwrap();
        assert!(tokenizer.part().is_none(), "{pre_tokenizer}");
        let part = splitter(normalizer, pre_tokenizer, &tokenizer.added).unwrap();
        (tokenizer, part)
    }

    fn assert_same(tokenizer: &Tokenizer, part: &LazyPart, text: &str) {
        for (control, stand_ins) in
            [(true, vec![]), (false, vec![]), (true, vec![('\u{100000}', '<'), ('\u{100001}', '>')])]
        {
            let expected: Vec<Piece> = part.call(&SplitRequest { text, control, stand_ins: &stand_ins }).unwrap();
            assert_eq!(tokenizer.cut(text, control, &stand_ins).unwrap(), expected, "{text:?} {part:?}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let bits = [
            "'s",
            "'S",
            "'ſ",
            "'Re",
            "'rE",
            "'ll",
            "'l",
            "'vé",
            "'",
            "a",
            "b",
            "é1",
            "wo",
            "ß",
            "я",
            "中",
            "\u{301}",
            "1",
            "23",
            "4567",
            "²",
            "½",
            "٣",
            "Ⅷ",
            " ",
            "  ",
            "\t",
            "\n",
            "\r\n",
            "\n\n",
            "\u{85}",
            "\u{a0}",
            "\u{3000}",
            "\u{200b}",
            "\u{200d}",
            "!",
            "?!",
            "_",
            "▁",
            "🙂",
            "<a>",
            "<a",
            "<ab>",
            "<l>",
            "<r>",
            "<lr>",
            "a b",
            "\u{100000}",
            "\u{100001}",
            "\0",
            "\u{10ffff}",
        ];
        prop::collection::vec(
            prop_oneof![8 => prop::sample::select(bits.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,3}"],
            0..14,
        )
        .prop_map(|bits| bits.concat())
    }

    #[test]
    fn what_is_known_by_heart_is_cut_as_the_library_cuts_it() {
        let tokenizers: Vec<_> =
            known().iter().map(|(normalizer, pre_tokenizer)| both(normalizer, pre_tokenizer)).collect();
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(400));
        let run = |text: String| {
            tokenizers.iter().for_each(|(tokenizer, part)| assert_same(tokenizer, part, &text));
            Ok(())
        };
        runner.run(&text(), run).unwrap();
    }

    /// In the places where the patterns tell characters apart: alone, beside each kind, after an apostrophe.
    #[test]
    fn every_character_is_cut_as_the_library_cuts_it() {
        let patterns = [GPT2, LLAMA3].map(
            |regex| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false }),
        );
        let tokenizers = patterns.map(|pattern| both(&Value::Null, &pattern));
        let all: Vec<char> = ('\0'..=char::MAX).collect();
        // Of the planes without assigned characters a few are enough.
        let assigned = |c: &&char| u32::from(**c) < 0x3_2400 || u32::from(**c) % 97 == 0;
        let some: Vec<char> = all.iter().filter(assigned).copied().collect();
        for characters in some.chunks(50) {
            let text: String = characters.iter().map(|c| format!("{c}a{c}1{c} {c}! {c}\n'{c}'{c}e'r{c} ")).collect();
            for (tokenizer, part) in &tokenizers {
                let request = SplitRequest { text: &text, control: false, stand_ins: &[] };
                assert_eq!(tokenizer.cut(&text, false, &[]).unwrap(), part.call::<Vec<Piece>>(&request).unwrap());
            }
        }
    }

    #[test]
    fn what_is_not_known_by_heart_is_left_to_the_library() {
        let punctuation = json!({ "type": "Punctuation", "behavior": "Isolated" });
        let nfc = json!({ "type": "NFC" });
        let first = json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true }, { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first" },
        ] });
        let split = json!({ "type": "Split", "pattern": { "Regex": "a+" }, "behavior": "Isolated", "invert": false });
        for (normalizer, pre_tokenizer) in
            [(Value::Null, punctuation), (nfc, Value::Null), (Value::Null, first), (Value::Null, split)]
        {
            let file = json!({
                "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "é": 2, "!": 3 }, "merges": [] },
                "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": { "type": "ByteLevel" },
            });
            let tokenizer = Tokenizer::from_json(file.to_string().as_bytes()).unwrap();
            assert!(tokenizer.part().is_some());
            assert_eq!(tokenizer.encode("ab!e\u{301}").unwrap()[..3], [0, 1, 3]);
        }
    }
}

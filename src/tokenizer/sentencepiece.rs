//! `tokenizer.model` -> pieces and merges.
//!
//! Reads the SentencePiece protobuf (`sentencepiece_model.proto`) strictly and derives from the piece scores the merge
//! list that makes a BPE model choose exactly as SentencePiece does. What cannot be done exactly is refused by name.

use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};

const FILE: &str = "tokenizer.model";
/// Longest normal piece in characters. SentencePiece's default limit is 16; the derivation of merges is quadratic in it.
const MAX_PIECE_CHARS: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte(u8),
}

#[derive(Debug)]
pub(super) struct Piece {
    pub text: String,
    pub kind: Kind,
    score: f32,
}

#[derive(Debug)]
pub(super) struct SentencePiece {
    /// Index = id.
    pub pieces: Vec<Piece>,
    /// Pairs whose concatenation is a piece, in the order in which they are to be applied.
    pub merges: Vec<(String, String)>,
    pub unknown: String,
    /// What an unknown piece is decoded to.
    pub unknown_surface: String,
    pub byte_fallback: bool,
    pub dummy_prefix: bool,
}

fn broken(problem: impl std::fmt::Display) -> Error {
    Error::tokenizer(FILE, problem)
}

fn refused(what: impl std::fmt::Display) -> Error {
    broken(format!("{what} is not supported"))
}

impl SentencePiece {
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let (mut raw, mut trainer, mut normalizer) = (Vec::new(), Trainer::default(), Normalizer::default());
        let mut message = Message(bytes);
        while let Some((field, value)) = message.next()? {
            match field {
                1 => raw.push(RawPiece::parse(value.message()?)?),
                2 => trainer.read(value.message()?)?,
                3 => normalizer.read(value.message()?)?,
                5 => {
                    let mut denormalizer = Normalizer::default();
                    denormalizer.read(value.message()?)?;
                    if denormalizer.charsmap {
                        return Err(refused("a denormalizer"));
                    }
                }
                _ => {}
            }
        }
        trainer.check()?;
        normalizer.check()?;
        let pieces = check_pieces(raw, trainer.byte_fallback)?;
        let unknown = pieces.iter().find(|p| p.kind == Kind::Unknown).ok_or_else(|| broken("no unknown piece"))?;
        Ok(SentencePiece {
            merges: merges(&pieces)?,
            unknown: unknown.text.clone(),
            unknown_surface: trainer.unknown_surface,
            byte_fallback: trainer.byte_fallback,
            dummy_prefix: normalizer.dummy_prefix,
            pieces,
        })
    }
}

struct RawPiece {
    text: String,
    score: f32,
    kind: u64,
}

impl RawPiece {
    fn parse(mut message: Message) -> Result<Self> {
        let mut piece = RawPiece { text: String::new(), score: 0.0, kind: 1 };
        while let Some((field, value)) = message.next()? {
            match field {
                1 => piece.text = value.string()?,
                2 => piece.score = value.float()?,
                3 => piece.kind = value.integer()?,
                _ => {}
            }
        }
        Ok(piece)
    }
}

struct Trainer {
    model_type: u64,
    byte_fallback: bool,
    whitespace_suffix: bool,
    unknown_surface: String,
}

impl Default for Trainer {
    fn default() -> Self {
        Trainer { model_type: 1, byte_fallback: false, whitespace_suffix: false, unknown_surface: " \u{2047} ".into() }
    }
}

impl Trainer {
    fn read(&mut self, mut message: Message) -> Result<()> {
        while let Some((field, value)) = message.next()? {
            match field {
                3 => self.model_type = value.integer()?,
                24 => self.whitespace_suffix = value.integer()? != 0,
                35 => self.byte_fallback = value.integer()? != 0,
                44 => self.unknown_surface = value.string()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        match self.model_type {
            2 if self.whitespace_suffix => Err(refused("treat_whitespace_as_suffix")),
            2 => Ok(()),
            1 => Err(refused("a Unigram model")),
            3 => Err(refused("a word model")),
            4 => Err(refused("a character model")),
            other => Err(refused(format!("model type {other}"))),
        }
    }
}

struct Normalizer {
    name: String,
    charsmap: bool,
    dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Normalizer {
            name: String::new(),
            charsmap: false,
            dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

impl Normalizer {
    fn read(&mut self, mut message: Message) -> Result<()> {
        while let Some((field, value)) = message.next()? {
            match field {
                1 => self.name = value.string()?,
                2 => self.charsmap = !value.bytes()?.is_empty(),
                3 => self.dummy_prefix = value.integer()? != 0,
                4 => self.remove_extra_whitespaces = value.integer()? != 0,
                5 => self.escape_whitespaces = value.integer()? != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        if self.charsmap {
            return Err(refused(format!("the normalizer {:?}", self.name)));
        }
        if self.remove_extra_whitespaces {
            return Err(refused("remove_extra_whitespaces"));
        }
        if !self.escape_whitespaces {
            return Err(refused("escape_whitespaces = false"));
        }
        Ok(())
    }
}

fn check_pieces(raw: Vec<RawPiece>, byte_fallback: bool) -> Result<Vec<Piece>> {
    if raw.len() > super::MAX_VOCAB {
        return Err(broken(format!("{} pieces, at most {} are supported", raw.len(), super::MAX_VOCAB)));
    }
    let (mut seen, mut bytes_seen, mut unknowns) = (HashSet::with_capacity(raw.len()), 0, 0);
    let mut pieces = Vec::with_capacity(raw.len());
    for (id, RawPiece { text, score, kind }) in raw.into_iter().enumerate() {
        let name = || format!("piece {id} ({text:?})");
        if text.is_empty() || !seen.insert(text.clone()) {
            return Err(broken(format!("{} is {}", name(), if text.is_empty() { "empty" } else { "there twice" })));
        }
        if !score.is_finite() {
            return Err(broken(format!("{}: score {score}", name())));
        }
        let kind = match kind {
            1 if text.chars().nth(MAX_PIECE_CHARS).is_some() => {
                return Err(broken(format!("piece {id} is longer than {MAX_PIECE_CHARS} characters")));
            }
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => return Err(refused(format!("{}: type UNUSED", name()))),
            6 if byte_fallback => {
                bytes_seen += 1;
                Kind::Byte(super::byte_token(&text).ok_or_else(|| broken(format!("{} is no byte", name())))?)
            }
            6 => return Err(broken(format!("{} is a byte, but byte_fallback is off", name()))),
            other => return Err(broken(format!("{}: unknown type {other}", name()))),
        };
        unknowns += usize::from(kind == Kind::Unknown);
        // SentencePiece looks a lone character up among the reserved pieces too, so text would produce this one.
        if matches!(kind, Kind::Control | Kind::Unknown) && text.chars().nth(1).is_none() {
            return Err(refused(format!("{}: a control piece of one character", name())));
        }
        pieces.push(Piece { text, kind, score });
    }
    if unknowns != 1 {
        return Err(broken(format!("{unknowns} unknown pieces, there must be one")));
    }
    if byte_fallback && bytes_seen != 256 {
        return Err(broken(format!("byte_fallback with {bytes_seen} of 256 bytes")));
    }
    Ok(pieces)
}

/// SentencePiece merges the adjacent pair whose concatenation scores highest, leftmost first. Merges inside the span of
/// a piece that comes out whole are the ones it would see if it stood alone (a pair across its border would have
/// destroyed it), so each piece has one reachable last merge: the one found here by encoding the piece by itself.
fn merges(pieces: &[Piece]) -> Result<Vec<(String, String)>> {
    let scores: HashMap<&str, f32> =
        pieces.iter().filter(|p| p.kind == Kind::Normal).map(|p| (p.text.as_str(), p.score)).collect();
    let known: HashSet<&str> =
        pieces.iter().filter(|p| matches!(p.kind, Kind::Normal | Kind::UserDefined)).map(|p| p.text.as_str()).collect();
    let mut merges = Vec::new();
    for piece in pieces.iter().filter(|p| p.kind == Kind::Normal && p.text.chars().nth(1).is_some()) {
        let Some(at) = last_merge(&piece.text, &scores) else { continue };
        let (left, right) = piece.text.split_at(at);
        if let Some(missing) = [left, right].into_iter().find(|half| !known.contains(half)) {
            return Err(refused(format!("piece {:?}, whose part {missing:?} is no piece,", piece.text)));
        }
        merges.push((piece.score, left, right));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    if let Some(pair) = merges.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let [a, b] = [&pair[0], &pair[1]].map(|(_, left, right)| format!("{left}{right}"));
        return Err(refused(format!("one score for two pieces ({a:?} and {b:?})")));
    }
    Ok(merges.into_iter().map(|(_, left, right)| (left.into(), right.into())).collect())
}

/// Byte offset of the border of the last merge when `text` is encoded alone; `None` if it does not come out whole.
fn last_merge(text: &str, scores: &HashMap<&str, f32>) -> Option<usize> {
    // borders[i]..borders[i + 1] is a symbol; pair[i] scores the merge over the border i + 1.
    let mut borders: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let score = |from: usize, to: usize| scores.get(&text[from..to]).copied();
    let mut pairs: Vec<Option<f32>> = borders.windows(3).map(|w| score(w[0], w[2])).collect();
    loop {
        let mut best: Option<(usize, f32)> = None;
        for (i, pair) in pairs.iter().enumerate() {
            if let Some(pair) = *pair
                && best.is_none_or(|(_, score)| pair > score)
            {
                best = Some((i, pair));
            }
        }
        let (i, _) = best?;
        let at = borders.remove(i + 1);
        if borders.len() == 2 {
            return Some(at);
        }
        pairs.remove(i);
        if i > 0 {
            pairs[i - 1] = score(borders[i - 1], borders[i + 1]);
        }
        if i < pairs.len() {
            pairs[i] = score(borders[i], borders[i + 2]);
        }
    }
}

/// The fields of one protobuf message that are still to be read.
struct Message<'a>(&'a [u8]);

enum Field<'a> {
    Integer(u64),
    Fixed32([u8; 4]),
    Fixed64,
    Bytes(&'a [u8]),
}

impl<'a> Message<'a> {
    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Field::Integer(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => {
                let bytes = self.take(4)?;
                Field::Fixed32([bytes[0], bytes[1], bytes[2], bytes[3]])
            }
            other => return Err(broken(format!("not a SentencePiece file (protobuf wire type {other})"))),
        };
        match key >> 3 {
            0 => Err(broken("not a SentencePiece file (protobuf field 0)")),
            field => Ok(Some((field, value))),
        }
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken("a protobuf integer is too long"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or_else(|| broken("the file is cut off"))?;
        self.0 = rest;
        Ok(head)
    }
}

impl<'a> Field<'a> {
    fn ill_typed<T>() -> Result<T> {
        Err(broken("not a SentencePiece file (a field has the wrong type)"))
    }

    fn integer(&self) -> Result<u64> {
        if let Field::Integer(value) = self { Ok(*value) } else { Self::ill_typed() }
    }

    fn float(&self) -> Result<f32> {
        if let Field::Fixed32(bytes) = self { Ok(f32::from_le_bytes(*bytes)) } else { Self::ill_typed() }
    }

    fn bytes(&self) -> Result<&'a [u8]> {
        if let Field::Bytes(bytes) = self { Ok(bytes) } else { Self::ill_typed() }
    }

    fn message(&self) -> Result<Message<'a>> {
        self.bytes().map(Message)
    }

    fn string(&self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| broken("a string is not UTF-8"))
    }
}

//! `tokenizer.model` -> pieces; text -> ids as SentencePiece does it.
//!
//! Reads the SentencePiece protobuf (`sentencepiece_model.proto`) strictly and merges as `bpe_model.cc` does: the adjacent
//! pair whose concatenation scores highest, of equals the leftmost. Ranked merges, which the BPE of `tokenizers` has,
//! cannot say the latter, and LLaMA's pieces of spaces all have one score. What cannot be done exactly is refused by name.

use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

const FILE: &str = "tokenizer.model";
const NONE: usize = usize::MAX;

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
    /// What an unknown piece is decoded to.
    pub unknown_surface: String,
    pub dummy_prefix: bool,
    /// Normal and user-defined pieces.
    ids: HashMap<String, u32>,
    /// Bytes of the longest of them.
    longest: usize,
    unknown: u32,
    /// Id of each byte, or empty without byte fallback.
    bytes: Vec<u32>,
}

fn broken(problem: impl std::fmt::Display) -> Error {
    Error::tokenizer(FILE, problem)
}

fn refused(what: impl std::fmt::Display) -> Error {
    broken(format!("{what} is not supported"))
}

/// Text, score and type (the file's number) of a piece.
#[cfg(not(target_arch = "wasm32"))]
pub type ScoredPiece = (String, f32, i32);

/// Every piece of a `tokenizer.model`, and whether a space is put before a text.
///
/// # Errors
/// As for reading it as a tokenizer.
#[cfg(not(target_arch = "wasm32"))]
pub fn pieces(bytes: &[u8]) -> Result<(Vec<ScoredPiece>, bool)> {
    let file = SentencePiece::parse(bytes)?;
    let pieces = file.pieces.into_iter().map(|piece| {
        let kind = match piece.kind {
            Kind::Normal => 1,
            Kind::Unknown => 2,
            Kind::Control => 3,
            Kind::UserDefined => 4,
            Kind::Byte(_) => 6,
        };
        (piece.text, piece.score, kind)
    });
    Ok((pieces.collect(), file.dummy_prefix))
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
        let (mut ids, mut unknown, mut bytes) = (HashMap::new(), 0, Vec::new());
        if trainer.byte_fallback {
            bytes.resize(256, 0);
        }
        for (piece, id) in pieces.iter().zip(0..) {
            match piece.kind {
                Kind::Normal | Kind::UserDefined => drop(ids.insert(piece.text.clone(), id)),
                Kind::Unknown => unknown = id,
                Kind::Byte(byte) => bytes[usize::from(byte)] = id,
                Kind::Control => {}
            }
        }
        Ok(SentencePiece {
            longest: ids.keys().map(String::len).max().unwrap_or(0),
            unknown_surface: trainer.unknown_surface,
            dummy_prefix: normalizer.dummy_prefix,
            pieces,
            ids,
            unknown,
            bytes,
        })
    }

    /// Appends the ids of a normalized text without user-defined symbols.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for symbol in self.merge(text) {
            let symbol = &text[symbol.start..symbol.end];
            match self.ids.get(symbol) {
                Some(&id) => ids.push(id),
                None if !self.bytes.is_empty() => ids.extend(symbol.bytes().map(|b| self.bytes[usize::from(b)])),
                None if ids.last() == Some(&self.unknown) => {}
                None => ids.push(self.unknown),
            }
        }
        ids
    }

    fn merge(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                end: start + c.len_utf8(),
                previous: i.wrapping_sub(1),
                next: i + 1,
            })
            .collect();
        let Some(last) = symbols.last_mut() else { return symbols };
        last.next = NONE;
        let pair = |symbols: &[Symbol], left: usize, right: usize| {
            if left == NONE || right == NONE {
                return None;
            }
            let (start, end) = (symbols[left].start, symbols[right].end);
            let id = if end - start <= self.longest { self.ids.get(&text[start..end]) } else { None };
            id.map(|&id| Pair { score: self.pieces[id as usize].score, left, right, len: end - start })
        };
        let mut agenda: BinaryHeap<Pair> =
            (1..symbols.len()).filter_map(|right| pair(&symbols, right - 1, right)).collect();
        while let Some(Pair { left, right, len, .. }) = agenda.pop() {
            let (a, b) = (symbols[left], symbols[right]);
            // One of the two has meanwhile been merged with another neighbour.
            if a.is_empty() || b.is_empty() || b.end - a.start != len || a.next != right {
                continue;
            }
            symbols[left] = Symbol { end: b.end, next: b.next, ..a };
            symbols[right].end = b.start;
            if b.next != NONE {
                symbols[b.next].previous = left;
            }
            agenda.extend(pair(&symbols, a.previous, left));
            agenda.extend(pair(&symbols, left, b.next));
        }
        symbols.retain(|symbol| !symbol.is_empty());
        symbols
    }
}

/// A stretch of the text, in a linked list.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    previous: usize,
    next: usize,
}

impl Symbol {
    /// Merged into its left neighbour.
    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Two neighbours whose concatenation, `len` bytes long, is a piece.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => return Err(refused(format!("{}: type UNUSED", name()))),
            6 if byte_fallback => {
                bytes_seen += 1;
                Kind::Byte(
                    crate::text::decoder::byte_token(&text).ok_or_else(|| broken(format!("{} is no byte", name())))?,
                )
            }
            6 => return Err(broken(format!("{} is a byte, but byte_fallback is off", name()))),
            other => return Err(broken(format!("{}: unknown type {other}", name()))),
        };
        unknowns += usize::from(kind == Kind::Unknown);
        // SentencePiece looks a lone character up among the reserved pieces too, so text would produce this one.
        if matches!(kind, Kind::Control | Kind::Unknown) && text.chars().nth(1).is_none() {
            return Err(refused(format!("{}: a control piece of one character", name())));
        }
        // Plus 0.0: -0.0 and 0.0 are one score.
        pieces.push(Piece { text, kind, score: score + 0.0 });
    }
    if unknowns != 1 {
        return Err(broken(format!("{unknowns} unknown pieces, there must be one")));
    }
    if byte_fallback && bytes_seen != 256 {
        return Err(broken(format!("byte_fallback with {bytes_seen} of 256 bytes")));
    }
    Ok(pieces)
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

//! Ids -> text, one id at a time.
//!
//! ```text
//! id -> piece: text | byte | control -> unfinished UTF-8 held back -> text that no later id can change
//! ```

use crate::error::{Error, Result};
use serde_json::Value;
use std::sync::Arc;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    /// Text; its leading space may be stripped at the start of the text.
    Text,
    /// Text that is printed as it is.
    Literal,
    /// One byte of a character that the vocabulary lacks.
    Byte,
    /// A special token.
    Control,
}

/// How pieces become text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rule {
    /// GPT-2 style: every piece is a run of bytes.
    ByteLevel,
    /// SentencePiece style: pieces are text or single bytes; `strip` spaces are removed at the start of the text.
    ByteFallback { strip: usize },
}

/// The output of every id, computed once.
#[derive(Debug)]
pub(super) struct Pieces {
    rule: Rule,
    bytes: Vec<u8>,
    /// End in `bytes` and kind, by id.
    pieces: Vec<(usize, Kind)>,
}

impl Pieces {
    pub fn new(rule: Rule) -> Self {
        Pieces { rule, bytes: Vec::new(), pieces: Vec::new() }
    }

    pub fn push(&mut self, kind: Kind, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pieces.push((self.bytes.len(), kind));
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    pub fn get(&self, id: u32) -> Option<(Kind, &[u8])> {
        let id = id as usize;
        let &(end, kind) = self.pieces.get(id)?;
        let start = if id == 0 { 0 } else { self.pieces[id - 1].0 };
        Some((kind, &self.bytes[start..end]))
    }
}

/// The `decoder` of a `tokenizer.json`, as far as it is known to stream exactly.
pub(super) struct Recipe {
    pub rule: Rule,
    replace: Vec<(String, String)>,
    byte_fallback: bool,
}

impl Recipe {
    /// ByteLevel, or Replace.., ByteFallback?, Fuse?, Strip?; anything else is refused by name.
    pub fn parse(decoder: &Value) -> Result<Self> {
        let refused = |what: &str| Err(Error::tokenizer("tokenizer.json", format!("decoder {what} is not supported")));
        let mut steps = Vec::new();
        flatten(decoder, "decoders", &mut steps);
        let mut recipe = Recipe { rule: Rule::ByteFallback { strip: 0 }, replace: Vec::new(), byte_fallback: false };
        let mut stage = 0;
        for step in &steps {
            let name = step["type"].as_str().unwrap_or("without a type");
            let rank = match name {
                "ByteLevel" if steps.len() == 1 => {
                    recipe.rule = Rule::ByteLevel;
                    0
                }
                "Replace" => {
                    let (Some(from), Some(to)) = (step["pattern"]["String"].as_str(), step["content"].as_str()) else {
                        return refused("Replace with a regular expression");
                    };
                    recipe.replace.push((from.into(), to.into()));
                    0
                }
                "ByteFallback" => {
                    recipe.byte_fallback = true;
                    1
                }
                "Fuse" => 2,
                "Strip" => {
                    let (Some(" "), Some(start), Some(0)) =
                        (step["content"].as_str(), step["start"].as_u64(), step["stop"].as_u64())
                    else {
                        return refused("Strip of anything but leading spaces");
                    };
                    if stage != 2 {
                        return refused("Strip before Fuse");
                    }
                    recipe.rule = Rule::ByteFallback { strip: usize::try_from(start).unwrap_or(usize::MAX) };
                    3
                }
                other => return refused(other),
            };
            if rank < stage || (rank == stage && rank > 0) {
                return refused(&format!("sequence with {name} out of order"));
            }
            stage = rank;
        }
        if steps.is_empty() {
            return refused("null");
        }
        Ok(recipe)
    }

    /// Adds the token's output to `pieces`.
    pub fn push(&self, pieces: &mut Pieces, token: &str, control: bool) {
        let kind = if control { Kind::Control } else { Kind::Text };
        if self.rule == Rule::ByteLevel {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            return pieces.push(kind, bytes.as_deref().unwrap_or(token.as_bytes()));
        }
        let text = self.replace.iter().fold(token.to_string(), |text, (from, to)| text.replace(from.as_str(), to));
        match byte_token(&text) {
            Some(byte) if self.byte_fallback && !control => pieces.push(Kind::Byte, &[byte]),
            _ => pieces.push(kind, text.as_bytes()),
        }
    }
}

/// The byte that a character of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`, backwards): printable
/// Latin-1 characters stand for themselves, U+0100 and up for the other 68 bytes in order.
fn byte_of(c: char) -> Option<u8> {
    let itself = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&b| itself(b)),
        code => (0..=255u8).filter(|&b| !itself(b)).nth((code - 0x100) as usize),
    }
}

/// Turns ids into text as they come. The concatenation of all [`push`](Self::push)es and the
/// [`finish`](Self::finish) is [`Tokenizer::decode`](super::Tokenizer::decode) of the ids.
///
/// Bytes that are not UTF-8 become U+FFFD: one for each byte in byte-fallback vocabularies (as SentencePiece does), one
/// for each maximal bad run in byte-level ones (as `tokenizers` does). Ids outside the vocabulary give nothing.
#[derive(Debug, Clone)]
pub struct Decoder {
    pieces: Arc<Pieces>,
    show_control: bool,
    /// Spaces still to be stripped at the start of the text.
    strip: usize,
    /// At most three bytes of an unfinished character.
    pending: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(pieces: Arc<Pieces>, show_control: bool, at_start: bool) -> Self {
        let strip = match pieces.rule {
            Rule::ByteFallback { strip } if at_start => strip,
            _ => 0,
        };
        Decoder { pieces, show_control, strip, pending: Vec::new() }
    }

    /// The text that became certain with this id; often a word, empty in the middle of a character.
    pub fn push(&mut self, id: u32) -> String {
        let pieces = self.pieces.clone();
        let mut out = String::new();
        let Some((kind, bytes)) = pieces.get(id) else { return out };
        let hidden = kind == Kind::Control && !self.show_control;
        if pieces.rule == Rule::ByteLevel {
            if !hidden {
                self.pending.extend_from_slice(bytes);
                self.drain(false, &mut out);
            }
            return out;
        }
        if kind == Kind::Byte {
            self.strip = 0;
            self.pending.extend_from_slice(bytes);
            self.drain(false, &mut out);
            return out;
        }
        self.drain(true, &mut out);
        if !hidden {
            let mut bytes = bytes;
            while kind == Kind::Text && self.strip > 0 && bytes.first() == Some(&b' ') {
                bytes = &bytes[1..];
                self.strip -= 1;
            }
            if !bytes.is_empty() {
                self.strip = 0;
            }
            self.pending.extend_from_slice(bytes);
            self.drain(true, &mut out);
        }
        out
    }

    /// What was held back, with U+FFFD for what never became a character.
    pub fn finish(mut self) -> String {
        let mut out = String::new();
        self.drain(true, &mut out);
        out
    }

    fn drain(&mut self, at_end: bool, out: &mut String) {
        let mut rest = self.pending.as_slice();
        let rest_len = loop {
            let error = match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    break 0;
                }
                Err(error) => error,
            };
            let (valid, tail) = rest.split_at(error.valid_up_to());
            out.push_str(&String::from_utf8_lossy(valid));
            let bad = match error.error_len() {
                None if !at_end => break tail.len(),
                bad => bad.unwrap_or(tail.len()),
            };
            let marks = if self.pieces.rule == Rule::ByteLevel { 1 } else { bad };
            out.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, marks));
            rest = &tail[bad..];
        };
        self.pending.drain(..self.pending.len() - rest_len);
    }
}

/// Lists a component of `tokenizer.json`, or the parts of a `Sequence`; nothing for null.
pub(super) fn flatten<'a>(component: &'a Value, parts: &str, out: &mut Vec<&'a Value>) {
    match (component["type"].as_str(), component[parts].as_array()) {
        (Some("Sequence"), Some(list)) => list.iter().for_each(|part| flatten(part, parts, out)),
        _ if component.is_null() => {}
        _ => out.push(component),
    }
}

/// `<0x0A>` -> 10.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    let valid = hex.len() == 2 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if valid { u8::from_str_radix(hex, 16).ok() } else { None }
}

//! Normalizers and pre-tokenizers of `tokenizer.json` that are known here by heart. Each does what the one of the same
//! name in `tokenizers` does, without the general regular expressions and tables that those link; whatever is not
//! known exactly is left to `mobilellm_text`.

use super::unicode::{LETTER, NUMBER};
use serde_json::Value;

/// What becomes of a stretch between added tokens before the model sees it.
pub(super) struct Known {
    normalizers: Vec<Normalizer>,
    cutters: Vec<Cutter>,
}

enum Normalizer {
    Prepend(String),
    Replace(String, String),
}

enum Cutter {
    ByteLevel { prefix: bool, regex: bool },
    Digits { each: bool },
    Metaspace { mark: char, prepend: Prepend, split: bool },
    Pattern(Pattern),
}

#[derive(Clone, Copy, PartialEq)]
enum Prepend {
    First,
    Never,
    Always,
}

/// The regular expressions of byte-level tokenizers. Each matches at every place of a text, so what is done with the
/// rest between matches does not matter.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pattern {
    Gpt2,
    /// LLaMA 3 and later, GPT-4: the most digits in one piece; Qwen 2: 1.
    Llama3 {
        digits: usize,
    },
}

const PATTERNS: [(&str, Pattern); 4] = [
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Pattern::Gpt2),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Llama3 { digits: 3 },
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Pattern::Llama3 { digits: 1 },
    ),
];

impl Known {
    /// `None` if a step is not known, or not with these settings.
    pub fn parse(normalizers: &[&Value], pre_tokenizers: &[&Value]) -> Option<Self> {
        let normalizers: Vec<Normalizer> =
            normalizers.iter().map(|step| Normalizer::parse(step)).collect::<Option<_>>()?;
        let cutters: Vec<Cutter> = pre_tokenizers.iter().map(|step| Cutter::parse(step)).collect::<Option<_>>()?;
        // Which stretch is the first is told by its place in the text, which steps before it may move.
        let first = |cutter: &Cutter| matches!(cutter, Cutter::Metaspace { prepend: Prepend::First, .. });
        let moved = |(index, cutter)| first(cutter) && (index > 0 || !normalizers.is_empty());
        if cutters.iter().enumerate().any(moved) { None } else { Some(Known { normalizers, cutters }) }
    }

    pub fn normalize(&self, text: &str) -> String {
        self.normalizers.iter().fold(text.to_owned(), |text, step| match step {
            Normalizer::Prepend(prefix) if !text.is_empty() => format!("{prefix}{text}"),
            Normalizer::Prepend(_) => text,
            Normalizer::Replace(from, to) => text.replace(from.as_str(), to),
        })
    }

    /// The pieces of normalized text; `first` where it begins the whole text.
    pub fn cut(&self, text: &str, first: bool) -> Vec<String> {
        let whole = if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
        self.cutters.iter().fold(whole, |pieces, cutter| {
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                cutter.cut(piece, first, &mut cut);
            }
            cut
        })
    }
}

impl Normalizer {
    fn parse(step: &Value) -> Option<Self> {
        match step["type"].as_str()? {
            "Prepend" => Some(Normalizer::Prepend(step["prepend"].as_str()?.to_owned())),
            "Replace" => {
                let (from, to) = (step["pattern"]["String"].as_str()?, step["content"].as_str()?);
                Some(Normalizer::Replace(from.to_owned(), to.to_owned()))
            }
            _ => None,
        }
    }
}

impl Cutter {
    fn parse(step: &Value) -> Option<Self> {
        let flag = |name: &str, default: Option<bool>| match step.get(name) {
            None => default,
            Some(value) => value.as_bool(),
        };
        match step["type"].as_str()? {
            "ByteLevel" => {
                flag("trim_offsets", None)?;
                let (prefix, regex) = (flag("add_prefix_space", None)?, flag("use_regex", Some(true))?);
                Some(Cutter::ByteLevel { prefix, regex })
            }
            "Digits" => Some(Cutter::Digits { each: flag("individual_digits", None)? }),
            "Split" => {
                let kept = match step["behavior"].as_str()? {
                    "Isolated" => true,
                    "Removed" => step["invert"].as_bool()?,
                    _ => false,
                };
                let regex = step["pattern"]["Regex"].as_str()?;
                step["invert"].as_bool()?;
                let pattern = PATTERNS.iter().find(|(known, _)| *known == regex)?.1;
                if kept { Some(Cutter::Pattern(pattern)) } else { None }
            }
            "Metaspace" => {
                let mut letters = step["replacement"].as_str()?.chars();
                let (Some(mark), None) = (letters.next(), letters.next()) else { return None };
                let prepend = match step.get("prepend_scheme").map(Value::as_str) {
                    None | Some(Some("always")) => Prepend::Always,
                    Some(Some("first")) => Prepend::First,
                    Some(Some("never")) => Prepend::Never,
                    Some(_) => return None,
                };
                // Says the opposite of `prepend_scheme`: `tokenizers` refuses it.
                if !flag("add_prefix_space", Some(true))? && prepend != Prepend::Never {
                    return None;
                }
                Some(Cutter::Metaspace { mark, prepend, split: flag("split", Some(true))? })
            }
            _ => None,
        }
    }

    fn cut(&self, mut text: String, first: bool, out: &mut Vec<String>) {
        match *self {
            Cutter::Pattern(pattern) => out.extend(pattern.pieces(&text).map(str::to_owned)),
            Cutter::ByteLevel { prefix, regex } => {
                if prefix && !text.starts_with(' ') {
                    text.insert(0, ' ');
                }
                let letters = |piece: &str| piece.bytes().map(letter_of).collect();
                match regex {
                    true => out.extend(Pattern::Gpt2.pieces(&text).map(letters)),
                    false => out.push(letters(&text)),
                }
            }
            Cutter::Digits { each } => {
                let runs = split_where(&text, |before, c| {
                    let (was, is) = (before.is_numeric(), c.is_numeric());
                    was != is || (each && is)
                });
                out.extend(runs.map(str::to_owned));
            }
            Cutter::Metaspace { mark, prepend, split } => {
                text = text.replace(' ', mark.encode_utf8(&mut [0; 4]));
                let wanted = prepend == Prepend::Always || (prepend == Prepend::First && first);
                if wanted && !text.starts_with(mark) {
                    text.insert(0, mark);
                }
                match split {
                    true => out.extend(split_where(&text, |_, c| c == mark).map(str::to_owned)),
                    false => out.push(text),
                }
            }
        }
    }
}

/// The letter that GPT-2's `bytes_to_unicode` gives a byte; `decoder::byte_of` is the way back.
fn letter_of(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or_default(),
        0x7f..=0xa0 => char::from_u32(0x121 + u32::from(byte) - 0x7f).unwrap_or_default(),
        0xad => '\u{143}',
    }
}

/// Cuts between two characters where `cut` says so.
fn split_where(text: &str, cut: impl Fn(char, char) -> bool) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut letters = rest.char_indices();
        let mut before = letters.next()?.1;
        let end = letters
            .find(|&(_, c)| {
                let found = cut(before, c);
                before = c;
                found
            })
            .map_or(rest.len(), |(at, _)| at);
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}

fn letter(c: char) -> bool {
    LETTER.contains(c)
}

fn number(c: char) -> bool {
    NUMBER.contains(c)
}

/// `[^\s\p{L}\p{N}]`
fn other(c: char) -> bool {
    !c.is_whitespace() && !letter(c) && !number(c)
}

fn line_end(c: char) -> bool {
    matches!(c, '\r' | '\n')
}

/// Length of the run of such characters that a text begins with, in bytes.
fn run(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

impl Pattern {
    fn pieces(self, text: &str) -> impl Iterator<Item = &str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let (piece, tail) = rest.split_at(self.next(rest)?);
            rest = tail;
            Some(piece)
        })
    }

    /// Length of the match that a text begins with; `None` for an empty text.
    fn next(self, text: &str) -> Option<usize> {
        let first = text.chars().next()?;
        match self {
            Pattern::Gpt2 => {
                if let Some(length) = contraction(text, |c| c) {
                    return Some(length);
                }
                let space = usize::from(first == ' ');
                let kinds: [fn(char) -> bool; 3] = [letter, number, other];
                let word = |kind| Some(run(&text[space..], kind)).filter(|&length| length > 0);
                Some(kinds.into_iter().find_map(word).map_or_else(|| blank(text), |length| space + length))
            }
            Pattern::Llama3 { digits } => {
                if let Some(length) = contraction(text, folded) {
                    return Some(length);
                }
                let lead = if line_end(first) || letter(first) || number(first) { 0 } else { first.len_utf8() };
                let letters = run(&text[lead..], letter);
                if letters > 0 {
                    return Some(lead + letters);
                }
                if number(first) {
                    let numbers = text.chars().take(digits).take_while(|&c| number(c));
                    return Some(numbers.map(char::len_utf8).sum());
                }
                let space = usize::from(first == ' ');
                let others = space + run(&text[space..], other);
                if others > space {
                    return Some(others + run(&text[others..], line_end));
                }
                let blanks = &text[..run(text, char::is_whitespace)];
                Some(blanks.rfind(line_end).map_or_else(|| blank(text), |at| at + 1))
            }
        }
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, with letters seen through `fold`.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut letters = text.strip_prefix('\'')?.chars();
    let first = letters.next()?;
    let second = letters.next();
    match (fold(first), second.map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(1 + first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

/// The lower-case letter that `(?i:)` takes a character for, as far as contractions need it.
fn folded(c: char) -> char {
    if c == 'ſ' { 's' } else { c.to_ascii_lowercase() }
}

/// `\s+(?!\S)|\s+`: white space, but the last one goes with what follows.
fn blank(text: &str) -> usize {
    let all = run(text, char::is_whitespace);
    let last = text[..all].chars().next_back().map_or(0, char::len_utf8);
    if all == text.len() || all == last { all } else { all - last }
}

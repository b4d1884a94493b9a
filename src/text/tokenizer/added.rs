//! Added tokens: sought in a text before the model cuts it. Does what `tokenizers::AddedVocabulary` does, without the
//! general regular expressions that it links.

use super::unicode::WORD;
use std::collections::{HashMap, HashSet};
use tokenizers::AddedToken;

/// Added tokens with their ids.
pub(in crate::text) struct Added {
    ids: HashMap<String, u32>,
    /// Where a token was added twice, the later one.
    tokens: HashMap<u32, AddedToken>,
    special: HashSet<String>,
    /// Sought in the text as it is.
    raw: Matcher,
    /// Sought in the normalized text.
    normalized: Matcher,
}

impl Added {
    /// `known` gives a token's id in the model's vocabulary of `size` tokens; others get ids after it.
    pub fn new(
        tokens: &[AddedToken],
        size: u32,
        known: impl Fn(&str) -> Option<u32>,
        normalize: impl Fn(&str) -> String,
    ) -> Self {
        let mut added = Added {
            ids: HashMap::new(),
            tokens: HashMap::new(),
            special: HashSet::new(),
            raw: Matcher::default(),
            normalized: Matcher::default(),
        };
        let mut next = size;
        for token in tokens.iter().filter(|token| !token.content.is_empty()) {
            let id = added.ids.get(&token.content).copied().or_else(|| known(&token.content)).unwrap_or_else(|| {
                next += 1;
                next - 1
            });
            added.ids.insert(token.content.clone(), id);
            added.tokens.insert(id, token.clone());
            if token.special {
                added.special.insert(token.content.clone());
            }
        }
        // A token that is special once is so always, as it was added first.
        let mut seen = HashSet::new();
        let special = tokens.iter().filter(|token| token.special && seen.insert(token.content.as_str()));
        let others = tokens.iter().filter(|token| !added.special.contains(&token.content));
        for token in special.chain(others) {
            let Some(&id) = added.ids.get(&token.content) else { continue };
            if token.normalized {
                added.normalized.add(normalize(&token.content), id);
            } else {
                added.raw.add(token.content.clone(), id);
            }
        }
        added
    }

    pub fn id(&self, content: &str) -> Option<u32> {
        self.ids.get(content).copied()
    }

    pub fn token(&self, id: u32) -> Option<&AddedToken> {
        self.tokens.get(&id)
    }

    /// By id.
    pub fn tokens(&self) -> Vec<(u32, &AddedToken)> {
        let mut tokens: Vec<_> = self.tokens.iter().map(|(&id, token)| (id, token)).collect();
        tokens.sort_by_key(|(id, _)| *id);
        tokens
    }

    pub fn is_special(&self, content: &str) -> bool {
        self.special.contains(content)
    }

    pub fn special(&self) -> impl Iterator<Item = &str> {
        self.special.iter().map(String::as_str)
    }

    /// Cuts a text at the added tokens that are sought in it as it is, or, with `normalized`, at those that are sought
    /// in normalized text. Without `control`, special tokens are left in the text. Spaces that a token takes with it
    /// are in no stretch.
    pub fn cut<'a>(&self, text: &'a str, normalized: bool, control: bool) -> Vec<Stretch<'a>> {
        let matcher = if normalized { &self.normalized } else { &self.raw };
        let (mut stretches, mut done) = (Vec::new(), 0);
        let push = |stretches: &mut Vec<Stretch<'a>>, range: std::ops::Range<usize>| {
            if !range.is_empty() {
                stretches.push(Stretch::Text { start: range.start, text: &text[range] });
            }
        };
        let mut at = 0;
        while let Some((start, end, id)) = matcher.find(text, at) {
            at = end;
            let token = &self.tokens[&id];
            let (before, after) = (&text[..start], &text[end..]);
            if !control && self.special.contains(&token.content) {
                continue;
            }
            let word = |c: Option<char>| c.is_some_and(|c| WORD.contains(c));
            if token.single_word && (word(before.chars().next_back()) || word(after.chars().next())) {
                continue;
            }
            let start = if token.lstrip { before.trim_end().len().max(done) } else { start };
            let end = if token.rstrip { text.len() - after.trim_start().len() } else { end };
            push(&mut stretches, done..start.max(done));
            stretches.push(Stretch::Token(id));
            done = end;
        }
        push(&mut stretches, done.min(text.len())..text.len());
        stretches
    }
}

#[derive(Debug, PartialEq)]
pub(in crate::text) enum Stretch<'a> {
    /// `start` is its place in the text, in bytes.
    Text {
        start: usize,
        text: &'a str,
    },
    Token(u32),
}

/// Finds any of many strings; of those that begin at the same place the longest.
#[derive(Default)]
struct Matcher {
    ids: HashMap<String, u32>,
    /// In bytes, each once, the longest first.
    lengths: Vec<usize>,
    /// Whether a byte begins one.
    first: Vec<bool>,
}

impl Matcher {
    /// Of equal strings the first one counts.
    fn add(&mut self, text: String, id: u32) {
        let Some(&first) = text.as_bytes().first() else { return };
        self.first.resize(256, false);
        self.first[usize::from(first)] = true;
        if let Err(place) = self.lengths.binary_search_by(|length| text.len().cmp(length)) {
            self.lengths.insert(place, text.len());
        }
        self.ids.entry(text).or_insert(id);
    }

    /// (start, end, id) of the first match at or after `from`.
    fn find(&self, text: &str, from: usize) -> Option<(usize, usize, u32)> {
        if self.ids.is_empty() {
            return None;
        }
        let begins = |&at: &usize| self.first[usize::from(text.as_bytes()[at])];
        (from..text.len()).filter(begins).find_map(|start| {
            let id_of =
                |length: &usize| Some((start, start + length, *self.ids.get(text.get(start..start + length)?)?));
            self.lengths.iter().find_map(id_of)
        })
    }
}

//! Messages -> prompt, through the model's own Jinja template.
//!
//! ```text
//! messages -> stand-ins for the first character of every control token in contents -> template
//!          -> control tokens sought -> characters put back -> ids
//! ```
//!
//! Contents never become control tokens. A control token spelt out in a content gets its first character replaced by a
//! private-use character (plane 16, one that nothing here uses) before the template runs and put back once control
//! tokens have been found, so it is encoded as the text it is. Ordinary contents reach the template untouched, and in
//! the others lengths, `strip` and slices work as ever.
//!
//! A template could still join pieces of contents into a control token (`<|us` and `er|>`), or change letters. So the
//! chat is rendered a second time with *every* character of contents replaced that begins or ends a control token; if
//! the control tokens of both differ, contents have forged one and the second rendering is used.

use super::Tokenizer;
use super::part::{Kind, LazyPart};
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What a template sees.
#[derive(Debug, Clone, Default)]
pub struct ChatInput<'a> {
    /// `{role, content, tool_calls?, ...}`, oldest first.
    pub messages: &'a [Value],
    /// Functions the model may call, as JSON schemas.
    pub tools: Option<&'a [Value]>,
    /// Texts for templates that know retrieval.
    pub documents: Option<&'a [Value]>,
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Local time in seconds since 1970, for templates that print the date; without it `strftime_now` is undefined.
    pub now: Option<i64>,
    /// Further variables (`enable_thinking`).
    pub extra: Option<&'a Map<String, Value>>,
}

const STAND_INS: std::ops::RangeInclusive<char> = '\u{100000}'..='\u{10fffd}';

/// `mobilellm_text::templates::Template`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TemplateSource {
    /// `default` is used, or `tool_use`, if there is one, when there are tools; the only one whatever its name.
    pub name: String,
    /// Where it is from, for messages; no two of a model have the same.
    pub file: String,
    pub source: String,
}

impl TemplateSource {
    pub const TOOL_USE: &str = "tool_use";

    pub fn new(name: &str, file: &str, source: &str) -> Self {
        TemplateSource { name: name.into(), file: file.into(), source: source.into() }
    }

    /// The text of [`super::TOOL_TEMPLATE`].
    pub fn tool_use(source: &str) -> Self {
        Self::new(Self::TOOL_USE, super::TOOL_TEMPLATE, source)
    }

    /// One that the caller gave.
    pub fn option(source: &str) -> Self {
        Self::new("default", "chatTemplate", source)
    }
}

/// The chat templates of a model, compiled when they are first used or, where the part that can is at hand, at once.
#[derive(Debug)]
pub struct ChatTemplate {
    compiled: LazyPart,
    /// Private-use characters that the templates use themselves.
    used: BTreeSet<char>,
}

/// `mobilellm_text::templates::Request`.
#[derive(Serialize)]
struct Request<'a> {
    variables: &'a Map<String, Value>,
    add_generation_prompt: bool,
    now: Option<i64>,
    check: bool,
}

impl ChatTemplate {
    /// `tokens` are variables such as (`bos_token`, `<s>`). One that does not parse is an error of [`check`](Self::check) and of
    /// what is rendered with it.
    pub fn new(templates: &[TemplateSource], tokens: &[(&str, &str)]) -> Result<Self> {
        let used = templates.iter().flat_map(|template| private_use(&template.source)).collect();
        let specification = json!({ "templates": templates, "tokens": tokens });
        Ok(ChatTemplate { compiled: LazyPart::new(Kind::Templates, &specification).map_err(failed)?, used })
    }

    /// Whether the template for conversations without tools parses; yes where the part that can tell is not at hand.
    pub fn usable(&self) -> bool {
        !self.compiled.at_hand() || self.check(false).is_ok()
    }

    /// # Errors
    /// [`Error::Template`] if there is no template for such conversations, or it does not parse.
    pub fn check(&self, tools: bool) -> Result<()> {
        let tools = if tools { Value::Array(Vec::new()) } else { Value::Null };
        let variables = Map::from_iter([("tools".to_owned(), tools)]);
        let request = Request { variables: &variables, add_generation_prompt: false, now: None, check: true };
        self.compiled.call(&request).map(|_: String| ()).map_err(failed)
    }

    /// The prompt as text, for people to read. For ids use [`encode`](Self::encode): in this text a control token of
    /// the template and one that a message spells out look alike.
    ///
    /// # Errors
    /// [`Error::Template`] if the template fails on this input or rejects it.
    pub fn render(&self, chat: &ChatInput) -> Result<String> {
        self.run(&Variables::new(chat), chat)
    }

    /// The prompt as ids; BOS is there if the template writes it. Contents never become control tokens, `role`s and
    /// `type`s that are plain names are left to the template.
    ///
    /// # Errors
    /// As [`render`](Self::render), and [`Error::Tokenizer`].
    pub fn encode(&self, tokenizer: &Tokenizer, chat: &ChatInput) -> Result<Vec<u32>> {
        let variables = Variables::new(chat);
        let guard = Guard::new(tokenizer, self.used.clone(), &variables)?;
        let spelt_out = variables.map(&|text| guard.spelt_out(text));
        let borders = variables.map(&|text| guard.borders(text));
        let mut text = self.run(&spelt_out, chat)?;
        if borders != spelt_out {
            let safe = self.run(&borders, chat)?;
            if tokenizer.control_ids(&safe) != tokenizer.control_ids(&text) {
                text = safe;
            }
        }
        tokenizer.ids(&text, true, &guard.stand_ins)
    }

    fn run(&self, variables: &Variables, chat: &ChatInput) -> Result<String> {
        let add_generation_prompt = chat.add_generation_prompt;
        let request = Request { variables: &variables.0, add_generation_prompt, now: chat.now, check: false };
        self.compiled.call(&request).map_err(failed)
    }
}

fn failed(problem: String) -> Error {
    Error::Template { problem }
}

/// The outside values of one rendering.
#[derive(PartialEq)]
struct Variables(Map<String, Value>);

impl Variables {
    fn new(chat: &ChatInput) -> Self {
        let list = |values: Option<&[Value]>| values.map_or(Value::Null, |values| Value::Array(values.to_vec()));
        let mut variables = chat.extra.cloned().unwrap_or_default();
        variables.insert("messages".into(), list(Some(chat.messages)));
        variables.insert("tools".into(), list(chat.tools));
        variables.insert("documents".into(), list(chat.documents));
        Variables(variables)
    }

    /// Replaces every string but those that name a role or a type.
    fn map(&self, replace: &impl Fn(&str) -> String) -> Self {
        Variables(self.0.iter().map(|(name, value)| (name.clone(), map_strings(name, value, replace))).collect())
    }
}

fn map_strings(key: &str, value: &Value, replace: &impl Fn(&str) -> String) -> Value {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    match value {
        Value::String(text) if matches!(key, "role" | "type") && plain(text) => value.clone(),
        Value::String(text) => Value::String(replace(text)),
        Value::Array(list) => list.iter().map(|value| map_strings("", value, replace)).collect(),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (replace_key(key, replace), map_strings(key, value, replace)));
            Value::Object(entries.collect())
        }
        other => other.clone(),
    }
}

/// Templates look fields up by name, so only keys that are no plain names are treated as contents.
fn replace_key(key: &str, replace: &impl Fn(&str) -> String) -> String {
    if key.chars().all(|c| c.is_alphanumeric() || c == '_') { key.to_string() } else { replace(key) }
}

/// Keeps contents from being read as control tokens.
struct Guard {
    control: Vec<String>,
    /// (stand-in, character) for the first and the last character of each control token.
    stand_ins: Vec<(char, char)>,
}

impl Guard {
    /// `used` are the characters that cannot be stand-ins.
    fn new(tokenizer: &Tokenizer, mut used: BTreeSet<char>, variables: &Variables) -> Result<Self> {
        let control: Vec<String> = tokenizer.control_tokens().map(str::to_string).collect();
        let borders: BTreeSet<char> =
            control.iter().flat_map(|token| token.chars().next().into_iter().chain(token.chars().last())).collect();
        used.extend(borders.iter());
        variables.0.iter().for_each(|(name, value)| collect_private_use(name, value, &mut used));
        let free = STAND_INS.filter(|c| !used.contains(c));
        let stand_ins: Vec<(char, char)> = free.zip(borders.iter().copied()).collect();
        if stand_ins.len() < borders.len() {
            return Err(Error::Template { problem: "the messages use up Unicode's private-use plane 16".into() });
        }
        Ok(Guard { control, stand_ins })
    }

    fn stand_in(&self, c: char) -> char {
        self.stand_ins.iter().find(|(_, original)| *original == c).map_or(c, |(stand_in, _)| *stand_in)
    }

    /// Replaces the first character of every control token that is spelt out.
    fn spelt_out(&self, text: &str) -> String {
        let begins = |rest: &str| self.control.iter().any(|token| rest.starts_with(token.as_str()));
        let replace = |(at, c)| match self.stand_in(c) {
            stand_in if stand_in != c && begins(&text[at..]) => stand_in,
            _ => c,
        };
        text.char_indices().map(replace).collect()
    }

    /// Replaces every character that begins or ends a control token.
    fn borders(&self, text: &str) -> String {
        text.chars().map(|c| self.stand_in(c)).collect()
    }
}

fn private_use(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| STAND_INS.contains(c))
}

fn collect_private_use(key: &str, value: &Value, used: &mut BTreeSet<char>) {
    used.extend(private_use(key));
    match value {
        Value::String(text) => used.extend(private_use(text)),
        Value::Array(list) => list.iter().for_each(|value| collect_private_use("", value, used)),
        Value::Object(map) => map.iter().for_each(|(key, value)| collect_private_use(key, value, used)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_sides_mean_the_same_stand_ins() {
        assert_eq!(super::STAND_INS, mobilellm_text::templates::STAND_INS);
    }
}

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
use crate::error::{Error, Result};
use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, syntax::SyntaxConfig};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

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

/// Work one rendering may do; a few hundred turns take some ten thousand.
const FUEL: u64 = 20_000_000;

/// A compiled chat template, in the environment that Hugging Face's `apply_chat_template` gives it.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    default: String,
    has_tool_use: bool,
    /// Private-use characters that the templates use themselves.
    used: BTreeSet<char>,
}

impl ChatTemplate {
    /// `templates` are (name, source): `default` is used, or `tool_use`, if there is one, when there are tools.
    /// `tokens` are variables such as (`bos_token`, `<s>`).
    ///
    /// # Errors
    /// [`Error::Template`] if a template does not parse or none is called `default`.
    pub fn new(templates: &[(String, String)], tokens: &[(&str, &str)]) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function(
            "raise_exception",
            |message: String| -> std::result::Result<String, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        for (name, token) in tokens {
            environment.add_global(name.to_string(), *token);
        }
        let names: Vec<&str> = templates.iter().map(|(name, _)| name.as_str()).collect();
        for (name, source) in templates {
            environment.add_template_owned(name.clone(), source.clone()).map_err(failed)?;
        }
        let default = match names[..] {
            [only] => only,
            _ if names.contains(&"default") => "default",
            _ => return Err(Error::Template { problem: format!("none of {names:?} is called default") }),
        };
        Ok(ChatTemplate {
            default: default.into(),
            has_tool_use: names.contains(&"tool_use"),
            used: templates.iter().flat_map(|(_, source)| private_use(source)).collect(),
            environment,
        })
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
        tokenizer.ids(&text, &tokenizer.control, &guard.stand_ins)
    }

    fn run(&self, variables: &Variables, chat: &ChatInput) -> Result<String> {
        let mut context: BTreeMap<&str, Jinja> =
            variables.0.iter().map(|(name, value)| (name.as_str(), Jinja::from(Serde(value)))).collect();
        context.insert("add_generation_prompt", chat.add_generation_prompt.into());
        if let Some(now) = chat.now {
            context.insert("strftime_now", Jinja::from_function(move |format: String| strftime(now, &format)));
        }
        let name = if self.has_tool_use && chat.tools.is_some() { "tool_use" } else { &self.default };
        self.environment.get_template(name).and_then(|template| template.render(context)).map_err(failed)
    }
}

fn failed(error: minijinja::Error) -> Error {
    Error::Template { problem: error.to_string() }
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

fn strftime(now: i64, format: &str) -> std::result::Result<String, minijinja::Error> {
    let mut text = String::new();
    let now = chrono::DateTime::from_timestamp(now, 0);
    match now.map(|now| write!(text, "{}", now.naive_utc().format(format))) {
        Some(Ok(())) => Ok(text),
        _ => Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: cannot write {format:?}"))),
    }
}

/// `tojson` as Hugging Face defines it: Python's `json.dumps` with its keyword arguments, nothing escaped for HTML.
fn to_json(_: &mut State, value: &Jinja, options: Kwargs) -> std::result::Result<String, minijinja::Error> {
    let invalid = |problem: String| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {problem}"));
    if value.is_undefined() {
        return Err(invalid("the value is undefined".into()));
    }
    let indent = match options.get::<Option<Jinja>>("indent")?.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) if indent.kind() == ValueKind::Number => {
            let width = usize::try_from(indent).map_err(|e| invalid(e.to_string()))?;
            if width > 64 {
                return Err(invalid(format!("indent {width} is larger than 64")));
            }
            Some(" ".repeat(width))
        }
        Some(indent) => Some(indent.to_string()),
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("separators must be two strings".into())),
    };
    let style = JsonStyle {
        indent: indent.as_deref(),
        item,
        key,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|e| invalid(e.to_string()))?;
    let mut out = String::new();
    style.write(&value, 0, &mut out);
    Ok(out)
}

struct JsonStyle<'a> {
    indent: Option<&'a str>,
    item: &'a str,
    key: &'a str,
    ascii: bool,
    sort: bool,
}

impl JsonStyle<'_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::String(text) => self.string(text, out),
            Value::Number(number) => out.push_str(&python_number(number)),
            Value::Array(list) if list.is_empty() => out.push_str("[]"),
            Value::Object(map) if map.is_empty() => out.push_str("{}"),
            Value::Array(list) => {
                out.push('[');
                for (i, value) in list.iter().enumerate() {
                    self.start_item(i, depth + 1, out);
                    self.write(value, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort {
                    entries.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.start_item(i, depth + 1, out);
                    self.string(key, out);
                    out.push_str(self.key);
                    self.write(value, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
            Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
        }
    }

    fn start_item(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(self.item);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        let json = Value::from(text).to_string();
        for c in json.chars() {
            // A stand-in passes: it is a character of the message in disguise.
            if c == '\u{7f}' && self.ascii {
                out.push_str("\\u007f");
            } else if c.is_ascii() || !self.ascii || STAND_INS.contains(&c) {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

/// Python's `repr` of a number: floats keep their `.0` and turn to exponents at 1e16 and below 1e-4.
fn python_number(number: &serde_json::Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    if float == 0.0 || (1e-4..1e16).contains(&float.abs()) {
        return format!("{float:?}");
    }
    let text = format!("{float:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

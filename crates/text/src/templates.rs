//! Chat templates in the environment that Hugging Face's `apply_chat_template` gives them.

use crate::dialect::translate;
use crate::python::{self, python_float};
use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, syntax::SyntaxConfig};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Characters that may stand in for others in what is rendered; `src/text/chat.rs` says why.
pub const STAND_INS: std::ops::RangeInclusive<char> = '\u{100000}'..='\u{10fffd}';

/// Work one rendering may do; a few hundred turns take some ten thousand.
const FUEL: u64 = 20_000_000;

#[derive(Deserialize)]
pub struct Specification {
    templates: Vec<Template>,
    /// Variables such as (`bos_token`, `<s>`).
    tokens: Vec<(String, String)>,
}

#[derive(Deserialize)]
pub struct Template {
    /// `default` is used, or `tool_use`, if there is one, when there are tools; the only one whatever its name.
    name: String,
    /// Where it is from, for messages: no two have the same.
    file: String,
    source: String,
}

#[derive(Deserialize)]
pub struct Request {
    /// `messages`, `tools` and whatever else the template may ask for.
    variables: Map<String, Value>,
    /// End with the beginning of the assistant's turn.
    add_generation_prompt: bool,
    /// Local time in seconds since 1970; without it `strftime_now` is undefined.
    now: Option<i64>,
    /// Render nothing: is there a template for this, and does it parse?
    #[serde(default)]
    check: bool,
}

/// Compiled templates of one model.
pub struct Templates {
    environment: Environment<'static>,
    /// Name, file, and what is wrong with one that does not parse: an error of the conversations that want it.
    templates: Vec<(String, String, Result<(), String>)>,
}

impl Templates {
    pub fn new(specification: Specification) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        python::install(&mut environment);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        for (name, token) in specification.tokens {
            environment.add_global(name, token);
        }
        let mut templates = Vec::new();
        for Template { name, file, source } in specification.templates {
            let parsed = environment.add_template_owned(file.clone(), translate(&source)).map_err(failed);
            templates.push((name, file, parsed));
        }
        Ok(Templates { environment, templates })
    }

    /// # Errors
    /// If there is no template for this, or it does not parse, fails on this input or rejects it.
    pub fn render(&self, request: &Request) -> Result<String, String> {
        let variables = &request.variables;
        let tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let named = |name: &str| self.templates.iter().find(|(known, ..)| known == name);
        let found = match &self.templates[..] {
            [only] => Some(only),
            _ => tools.then(|| named("tool_use")).flatten().or_else(|| named("default")),
        };
        let Some((_, file, parsed)) = found else {
            let names: Vec<&str> = self.templates.iter().map(|(name, ..)| name.as_str()).collect();
            return Err(format!("none of {names:?} is called default"));
        };
        parsed.clone()?;
        if request.check {
            return Ok(String::new());
        }
        let mut context: BTreeMap<&str, Jinja> =
            variables.iter().map(|(name, value)| (name.as_str(), Jinja::from(Serde(value)))).collect();
        context.insert("add_generation_prompt", request.add_generation_prompt.into());
        if let Some(now) = request.now {
            context.insert("strftime_now", Jinja::from_function(move |format: String| strftime(now, &format)));
        }
        self.environment.get_template(file).and_then(|template| template.render(context)).map_err(failed)
    }
}

fn failed(error: minijinja::Error) -> String {
    error.to_string()
}

/// The C library's `strftime`: what it does not know stays as it stands.
fn strftime(now: i64, format: &str) -> Result<String, minijinja::Error> {
    let fails = || minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: cannot write {format:?}"));
    let now = chrono::DateTime::from_timestamp(now, 0).ok_or_else(fails)?.naive_utc();
    let (mut out, mut rest) = (String::new(), format);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = &rest[at + 1..];
        let flags = directive.len() - directive.trim_start_matches(['-', '_', '0', '^', '#', 'E', 'O']).len();
        let Some(letter) = directive[flags..].chars().next() else {
            out.push_str(&rest[at..]);
            return Ok(out);
        };
        let end = at + 1 + flags + letter.len_utf8();
        let pad = directive[..flags].chars().rfind(|c| "-_0".contains(*c)).map(String::from).unwrap_or_default();
        match letter {
            // A time without a zone.
            'z' | 'Z' => {}
            'f' => out.push_str("000000"),
            _ if "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%".contains(letter) => {
                let mut text = String::new();
                write!(text, "{}", now.format(&format!("%{pad}{letter}"))).map_err(|_| fails())?;
                out.push_str(&if directive[..flags].contains('^') { text.to_uppercase() } else { text });
            }
            _ => out.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}

/// `tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)` as Hugging Face defines it: Python's `json.dumps`,
/// nothing escaped for HTML.
fn to_json(
    value: &Jinja,
    ensure_ascii: Option<bool>,
    indent: Option<Jinja>,
    separators: Option<Option<Vec<String>>>,
    options: Kwargs,
) -> Result<String, minijinja::Error> {
    let invalid = |problem: String| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {problem}"));
    if value.is_undefined() {
        return Err(invalid("the value is undefined".into()));
    }
    let indent = match indent {
        None => options.get::<Option<Jinja>>("indent")?,
        given => given,
    };
    let indent = match indent.filter(|indent| !indent.is_none()) {
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
    let separators = separators.flatten().or(options.get("separators")?);
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(invalid("separators must be two strings".into())),
    };
    let style = JsonStyle {
        indent: indent.as_deref(),
        item,
        key,
        ascii: ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false),
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
            Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(float) => out.push_str(&python_float(float)),
                None => out.push_str(&number.to_string()),
            },
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

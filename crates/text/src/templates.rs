//! Chat templates in the environment that Hugging Face's `apply_chat_template` gives them.

use minijinja::value::{Kwargs, Serde, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, syntax::SyntaxConfig};
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
    /// (name, source): `default` is used, or `tool_use`, if there is one, when there are tools.
    templates: Vec<(String, String)>,
    /// Variables such as (`bos_token`, `<s>`).
    tokens: Vec<(String, String)>,
}

#[derive(Deserialize)]
pub struct Request {
    /// `messages`, `tools` and whatever else the template may ask for.
    variables: Map<String, Value>,
    /// End with the beginning of the assistant's turn.
    add_generation_prompt: bool,
    /// Local time in seconds since 1970; without it `strftime_now` is undefined.
    now: Option<i64>,
}

/// Compiled templates of one model.
pub struct Templates {
    environment: Environment<'static>,
    default: String,
    has_tool_use: bool,
}

impl Templates {
    /// # Errors
    /// If a template does not parse or none is called `default`.
    pub fn new(specification: &Specification) -> Result<Self, String> {
        let Specification { templates, tokens } = specification;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(failed)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        for (name, token) in tokens {
            environment.add_global(name.clone(), token.as_str());
        }
        let names: Vec<&str> = templates.iter().map(|(name, _)| name.as_str()).collect();
        for (name, source) in templates {
            environment.add_template_owned(name.clone(), source.clone()).map_err(failed)?;
        }
        let default = match names[..] {
            [only] => only,
            _ if names.contains(&"default") => "default",
            _ => return Err(format!("none of {names:?} is called default")),
        };
        Ok(Templates { default: default.into(), has_tool_use: names.contains(&"tool_use"), environment })
    }

    /// # Errors
    /// If the template fails on this input or rejects it.
    pub fn render(&self, request: &Request) -> Result<String, String> {
        let variables = &request.variables;
        let mut context: BTreeMap<&str, Jinja> =
            variables.iter().map(|(name, value)| (name.as_str(), Jinja::from(Serde(value)))).collect();
        context.insert("add_generation_prompt", request.add_generation_prompt.into());
        if let Some(now) = request.now {
            context.insert("strftime_now", Jinja::from_function(move |format: String| strftime(now, &format)));
        }
        let tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let name = if self.has_tool_use && tools { "tool_use" } else { &self.default };
        self.environment.get_template(name).and_then(|template| template.render(context)).map_err(failed)
    }
}

fn failed(error: minijinja::Error) -> String {
    error.to_string()
}

fn strftime(now: i64, format: &str) -> Result<String, minijinja::Error> {
    let mut text = String::new();
    let now = chrono::DateTime::from_timestamp(now, 0);
    match now.map(|now| write!(text, "{}", now.naive_utc().format(format))) {
        Some(Ok(())) => Ok(text),
        _ => Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: cannot write {format:?}"))),
    }
}

/// `tojson` as Hugging Face defines it: Python's `json.dumps` with its keyword arguments, nothing escaped for HTML.
fn to_json(_: &mut State, value: &Jinja, options: Kwargs) -> Result<String, minijinja::Error> {
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

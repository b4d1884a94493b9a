//! What Python's jinja2 has and minijinja has not, or has in another way: methods of strings, lists and dicts, functions, filters
//! and tests that chat templates use.

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, filters};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub fn install(environment: &mut Environment) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| match float(value) {
        Some(number) => minijinja::escape_formatter(out, state, &Value::from(python_float(number))),
        None => minijinja::escape_formatter(out, state, value),
    });
    environment.add_function(super::dialect::MODULO, modulo);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("cycler", cycler);
    environment.add_filter("int", int);
    environment.add_filter("float", to_float);
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("wordcount", |text: &str| text.split_whitespace().count());
    environment.add_filter("center", |text: &str, width: Option<i64>| pad(text, width.unwrap_or(80), ' ', Side::Both));
    environment.add_test("callable", is_callable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
}

/// Jinja2's undefined value counts: calling it is an error of its own.
fn is_callable(value: &Value) -> bool {
    value.is_undefined() || value.kind() == ValueKind::Plain && value.downcast_object_ref::<Cycler>().is_none()
}

/// Whatever has a length and can be indexed: texts and mappings too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map => true,
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

fn invalid(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// A float that is printed in another way than minijinja does.
fn float(value: &Value) -> Option<f64> {
    let is_float = value.kind() == ValueKind::Number && !value.is_integer();
    is_float.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Python's `repr` of a float: exponents from 1e16 on and below 1e-4.
pub fn python_float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan".into()
        } else if number > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

/// `a % b`: of numbers the remainder with the divisor's sign, of a string and values the formatted string.
fn modulo(state: &mut State, a: &Value, b: &Value) -> Result<Value, Error> {
    if a.as_str().is_some() {
        let mut args = vec![a.clone()];
        if b.is_tuple() {
            args.extend(b.try_iter()?)
        } else {
            args.push(b.clone())
        }
        return state.apply_filter("format", &args);
    }
    let wrong = || invalid(format!("tried to use % operator on unsupported types {} and {}", a.kind(), b.kind()));
    let number = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        ValueKind::Number => Some(value.clone()),
        _ => None,
    };
    let (a, b) = (number(a).ok_or_else(wrong)?, number(b).ok_or_else(wrong)?);
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        if a.is_positive() == b.is_positive() && b != 0 {
            return Ok(Value::from(a % b));
        }
        let rest = a.checked_rem(b).ok_or_else(|| invalid("remainder of a division by zero"))?;
        return Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }));
    }
    let (a, b) = (f64::try_from(a)?, f64::try_from(b)?);
    if b == 0.0 {
        return Err(invalid("remainder of a division by zero"));
    }
    let rest = a % b;
    Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
}

#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(invalid("cycler: at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.items[self.at.load(Ordering::Relaxed)].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State, method: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let at = self.at.load(Ordering::Relaxed);
        match method {
            "next" => {
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// With 0 for what is no number, as jinja2 has it.
fn int(state: &State, value: &Value, default: Option<Value>, base: Option<u32>, more: Kwargs) -> Result<Value, Error> {
    let default = default.or(more.get("default")?).unwrap_or(Value::from(0));
    let trimmed = value.as_str().map(|text| Value::from(text.trim()));
    let found = filters::int(state, trimmed.as_ref().unwrap_or(value), Some(default.clone()), base, more);
    Ok(found.unwrap_or(default))
}

fn to_float(state: &State, value: &Value, default: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let default = default.or(more.get("default")?).unwrap_or(Value::from(0.0));
    let trimmed = value.as_str().map(|text| Value::from(text.trim()));
    let found = filters::float(state, trimmed.as_ref().unwrap_or(value), Some(default.clone()), more);
    Ok(found.unwrap_or(default))
}

/// `truncate(length=255, killwords=false, end='...', leeway=5)`.
fn truncate(
    text: &str,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<String>,
    more: Kwargs,
) -> Result<String, Error> {
    let length = length.or(more.get("length")?).unwrap_or(255);
    let killwords = killwords.or(more.get("killwords")?).unwrap_or(false);
    let end = end.or(more.get("end")?).unwrap_or_else(|| "...".into());
    let leeway = more.get::<Option<usize>>("leeway")?.unwrap_or(5);
    more.assert_all_used()?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept: String = text.chars().take(length.saturating_sub(end.chars().count())).collect();
    let kept = if killwords { &kept } else { kept.rsplit_once(' ').map_or(kept.as_str(), |(before, _)| before) };
    Ok(format!("{kept}{end}"))
}

fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let known = match (value.kind(), value.as_str()) {
        (_, Some(text)) => string_method(state, text, method, args)?,
        (ValueKind::Seq, _) => list_method(value, method, args)?,
        (ValueKind::Map, _) if method == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match known {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "copy" => {
            let () = from_args(args)?;
            value.clone()
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *wanted);
            Value::from(at.ok_or_else(|| invalid(format!("{wanted} is not in list")))?)
        }
        _ => return Ok(None),
    }))
}

/// `None` for what the contributed methods do.
fn string_method(state: &mut State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let pair = |a: &str, b: &str, c: &str| Value::from(Tuple::from([a.into(), b.into(), c.into()]));
    Ok(Some(match method {
        "split" | "rsplit" => {
            let (sep, max, more): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
            let sep = match sep {
                None => more.get::<Option<Value>>("sep")?,
                given => given,
            };
            let max = max.or(more.get("maxsplit")?).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            more.assert_all_used()?;
            let sep = sep.filter(|sep| !sep.is_none());
            let sep = sep.as_ref().map(|sep| sep.as_str().ok_or_else(|| invalid("the separator is not a string")));
            Value::from(split(text, sep.transpose()?, max, method == "rsplit")?)
        }
        "partition" | "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            if sep.is_empty() {
                return Err(invalid("empty separator"));
            }
            match (method == "partition", text.split_once(sep), text.rsplit_once(sep)) {
                (true, Some((a, b)), _) | (false, _, Some((a, b))) => pair(a, sep, b),
                (true, ..) => pair(text, "", ""),
                (false, ..) => pair("", "", text),
            }
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let (within, skipped) = slice(text, start, end);
            if method == "count" {
                return Ok(Some(
                    match what.is_empty() {
                        true => within.chars().count() + 1,
                        false => within.matches(what).count(),
                    }
                    .into(),
                ));
            }
            let at = if method.starts_with('r') { within.rfind(what) } else { within.find(what) };
            match at.map(|at| skipped + within[..at].chars().count()) {
                Some(at) => at.into(),
                None if method.ends_with("find") => (-1).into(),
                None => return Err(invalid("substring not found")),
            }
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (what, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let within = Value::from(slice(text, start, end).0);
            return minijinja_contrib::pycompat::unknown_method_callback(
                state,
                &within,
                method,
                std::slice::from_ref(what),
            )
            .map(Some);
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<char>) = from_args(args)?;
            let side = match method {
                "ljust" => Side::Right,
                "rjust" => Side::Left,
                _ => Side::Both,
            };
            pad(text, width, fill.unwrap_or(' '), side)?.into()
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            Value::from(format!("{sign}{}", pad(digits, width - sign.len() as i64, '0', Side::Left)?))
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap =
                |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "isdecimal" => {
            let () = from_args(args)?;
            (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).into()
        }
        "isidentifier" => {
            let () = from_args(args)?;
            let first = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
            (first && text.chars().all(|c| c.is_alphanumeric() || c == '_')).into()
        }
        "isprintable" => {
            let () = from_args(args)?;
            (!text.chars().any(char::is_control)).into()
        }
        "istitle" => {
            let () = from_args(args)?;
            let mut inside = false;
            let fits = text.chars().all(|c| {
                let fits = !c.is_alphabetic() || c.is_uppercase() != inside;
                inside = c.is_alphabetic();
                fits
            });
            (fits && text.chars().any(char::is_alphabetic)).into()
        }
        "splitlines" => {
            let (keep, more): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep.or(more.get("keepends")?).unwrap_or(false);
            more.assert_all_used()?;
            Value::from(lines(text, keep))
        }
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            let size = size.unwrap_or(8);
            if size > 64 {
                return Err(invalid("expandtabs: a tab of more than 64 columns"));
            }
            let (mut out, mut column) = (String::new(), 0);
            for c in text.chars() {
                if c == '\t' {
                    let n = if size == 0 { 0 } else { size - column % size };
                    out.extend(std::iter::repeat_n(' ', n));
                    column += n;
                } else {
                    out.push(c);
                    column = if c == '\n' || c == '\r' { 0 } else { column + 1 };
                }
            }
            out.into()
        }
        _ => return Ok(None),
    }))
}

/// Part of a text by Python's `start` and `end`, in characters, and how many are before it.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> (&str, usize) {
    let count = text.chars().count();
    let place =
        |at: i64| if at < 0 { count.saturating_sub(at.unsigned_abs() as usize) } else { (at as usize).min(count) };
    let (start, end) = (place(start.unwrap_or(0)), place(end.unwrap_or(i64::MAX)));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    if start >= end { ("", start) } else { (&text[byte(start)..byte(end)], start) }
}

/// At most `max` cuts, from the right if so wanted; without a separator at runs of white space.
fn split(text: &str, sep: Option<&str>, max: usize, from_right: bool) -> Result<Vec<String>, Error> {
    let mut parts: Vec<&str> = Vec::new();
    match sep {
        Some("") => return Err(invalid("empty separator")),
        Some(sep) if from_right => parts.extend(text.rsplitn(max.saturating_add(1), sep)),
        Some(sep) => parts.extend(text.splitn(max.saturating_add(1), sep)),
        None if from_right => {
            let mut rest = text.trim_end();
            while !rest.is_empty() {
                let cut = if parts.len() == max { None } else { rest.rfind(char::is_whitespace) };
                let space = cut.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
                parts.push(&rest[space..]);
                rest = rest[..space].trim_end();
            }
        }
        None => {
            let mut rest = text.trim_start();
            while !rest.is_empty() {
                let cut = if parts.len() == max { None } else { rest.find(char::is_whitespace) };
                parts.push(&rest[..cut.unwrap_or(rest.len())]);
                rest = rest[cut.unwrap_or(rest.len())..].trim_start();
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(str::to_owned).collect())
}

fn lines(text: &str, keep: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(['\n', '\r']).unwrap_or(rest.len());
        let mark = if rest[end..].starts_with("\r\n") { 2 } else { usize::from(end < rest.len()) };
        lines.push(rest[..end + if keep { mark } else { 0 }].to_owned());
        rest = &rest[end + mark..];
    }
    lines
}

enum Side {
    Left,
    Right,
    Both,
}

/// `text` with `fill` on a side up to `width` characters.
fn pad(text: &str, width: i64, fill: char, side: Side) -> Result<String, Error> {
    if width > 1 << 16 {
        return Err(invalid(format!("a width of {width} is more than 65536")));
    }
    let count = text.chars().count();
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(count);
    // Python puts the odd one on the left of a text of even length in a field of odd width.
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        Side::Both => missing / 2 + (missing & width as usize & 1),
    };
    let fill = |n: usize| std::iter::repeat_n(fill, n);
    Ok(fill(left).chain(text.chars()).chain(fill(missing - left)).collect())
}

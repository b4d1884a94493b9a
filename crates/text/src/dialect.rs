//! Jinja2 as Python has it -> what minijinja reads: the few things that minijinja's syntax lacks are written in another way.
//!
//! | Jinja2 | becomes |
//! | --- | --- |
//! | `{% generation %}` .. `{% endgeneration %}` of transformers, which marks an answer for training | `{% with %}` .. `{% endwith %}` |
//! | `a % b`, which formats where `a` is a string | `__modulo(a, b)` |
//! | `+a` | `a` |
//! | `'\/'`, `'\U0001f600'`: escapes as Python knows them | the characters that they stand for |
//!
//! Lines stay lines, so that errors name the right one.

/// The function that stands for `%`.
pub const MODULO: &str = "__modulo";

/// The template in minijinja's dialect. What is no template is handed on as it is: the parser says what is wrong.
pub fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if rest.starts_with("{#") {
            let end = rest.find("#}").map_or(rest.len(), |end| end + 2);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let block = rest.starts_with("{%");
        let Some((tokens, end)) = scan(&rest[2..], if block { "%}" } else { "}}" }) else { break };
        let inside = &rest[2..2 + end];
        let name = tokens.iter().find(|t| t.kind == Kind::Name).map(|t| t.text);
        out.push_str(&rest[..2]);
        out.push_str(&rewritten(inside, tokens, block));
        out.push_str(&rest[2 + end..][..2]);
        rest = &rest[2 + end + 2..];
        if block && name == Some("raw") {
            // Up to the tag that ends it nothing is looked at.
            let end = end_of_raw(rest);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

/// Where `{% endraw %}` begins, or the end.
fn end_of_raw(text: &str) -> usize {
    let tag = |at: usize| text[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    text.match_indices("{%").map(|(at, _)| at).find(|at| tag(*at)).unwrap_or(text.len())
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Name,
    Number,
    Text,
    Operator,
}

/// A token and the white space before it.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    space: &'a str,
    text: &'a str,
    kind: Kind,
}

/// The tokens of a tag up to its end, and where that is; `None` where it has none.
fn scan<'a>(source: &'a str, close: &str) -> Option<(Vec<Token<'a>>, usize)> {
    let mut tokens = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    loop {
        let rest = &source[at..];
        let text = rest.trim_start();
        let space = &rest[..rest.len() - text.len()];
        let first = text.chars().next()?;
        let trimmed = text.strip_prefix(['-', '+']).unwrap_or(text);
        if depth == 0 && (text.starts_with(close) || trimmed.starts_with(close)) {
            return Some((
                tokens,
                source.len() - trimmed.len() + if text.starts_with(close) { text.len() - trimmed.len() } else { 0 },
            ));
        }
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let (len, kind) = if first == '"' || first == '\'' {
            let mut escaped = false;
            let end = text.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == first && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            });
            (end?.0 + 1, Kind::Text)
        } else if first.is_ascii_digit() {
            let mut len = text.find(|c: char| !word(c)).unwrap_or(text.len());
            let exponent = |len: usize| text[..len].ends_with(['e', 'E']) && !text.starts_with("0x");
            if text[len..].strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) {
                len += 1 + text[len + 1..].find(|c: char| !word(c)).unwrap_or(text.len() - len - 1);
            }
            if exponent(len) && text[len..].starts_with(['-', '+']) {
                len += 1 + text[len + 1..].find(|c: char| !word(c)).unwrap_or(text.len() - len - 1);
            }
            (len, Kind::Number)
        } else if word(first) {
            (text.find(|c: char| !word(c)).unwrap_or(text.len()), Kind::Name)
        } else {
            let double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| text.starts_with(operator));
            match first {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            (if double { 2 } else { first.len_utf8() }, Kind::Operator)
        };
        tokens.push(Token { space, text: &text[..len], kind });
        at += space.len() + len;
    }
}

/// The inside of a tag, rewritten where there is something to rewrite.
fn rewritten(inside: &str, mut tokens: Vec<Token>, block: bool) -> String {
    let written: usize = tokens.iter().map(|t| t.space.len() + t.text.len()).sum();
    let tail = inside.get(written..).unwrap_or_default();
    // A minus or plus at the tag's border belongs to the border.
    let mut first = usize::from(tokens.first().is_some_and(|t| t.space.is_empty() && ["-", "+"].contains(&t.text)));
    if block {
        match tokens.get_mut(first) {
            Some(token) if token.text == "generation" => token.text = "with",
            Some(token) if token.text == "endgeneration" => token.text = "endwith",
            _ => {}
        }
        first += 1;
    }
    let unary = |tokens: &[Token], at: usize| at == first || at > 0 && !ends_operand(&tokens[at - 1]);
    for at in first..tokens.len() {
        if tokens[at].text == "+" && tokens[at].kind == Kind::Operator && unary(&tokens, at) {
            tokens[at].text = " ";
        }
    }
    tokens.retain(|t| t.text != " ");
    while let Some(at) = (first..tokens.len()).find(|at| tokens[*at].text == "%" && tokens[*at].kind == Kind::Operator)
    {
        let (left, right) = (operand_before(&tokens, at, first), operand_after(&tokens, at + 1));
        let operator = |text| Token { space: "", text, kind: Kind::Operator };
        let space = tokens.get(left).map_or("", |t| t.space);
        let mut call = vec![Token { space, text: MODULO, kind: Kind::Name }, operator("(")];
        call.extend_from_slice(&tokens[left..at]);
        call.push(operator(","));
        call.extend_from_slice(&tokens[at + 1..right]);
        call.push(operator(")"));
        tokens.splice(left..right, call);
    }
    let mut out = String::with_capacity(inside.len());
    for token in &tokens {
        out.push_str(token.space);
        match token.kind {
            Kind::Text => python_escapes(token.text, &mut out),
            _ => out.push_str(token.text),
        }
    }
    out.push_str(tail);
    out
}

/// Writes a text constant with the escapes that minijinja does not read as Python does.
fn python_escapes(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(escape) = rest.chars().next() else { break };
        let hexadecimal = || u32::from_str_radix(rest.get(1..9)?, 16).ok().and_then(char::from_u32);
        match (escape, hexadecimal()) {
            ('U', Some(c)) => {
                out.push(c);
                rest = &rest[9..];
                continue;
            }
            ('a', _) => out.push('\u{7}'),
            ('v', _) => out.push('\u{b}'),
            // A line that goes on.
            ('\n', _) => {}
            ('\\' | '\'' | '"' | 'b' | 'f' | 'n' | 'r' | 't' | 'x' | 'u' | '0'..='7', _) => {
                out.push('\\');
                out.push(escape);
            }
            // No escape in Python: the backslash stays.
            _ => {
                out.push_str("\\\\");
                out.push(escape);
            }
        }
        rest = &rest[escape.len_utf8()..];
    }
    out.push_str(rest);
}

const KEYWORDS: [&str; 8] = ["and", "or", "not", "in", "if", "else", "elif", "is"];

/// Whether an operand may end with this token, so that an operator behind it has two operands.
fn ends_operand(token: &Token) -> bool {
    match token.kind {
        Kind::Name => !KEYWORDS.contains(&token.text),
        Kind::Number | Kind::Text => true,
        Kind::Operator => [")", "]", "}"].contains(&token.text),
    }
}

/// Where the left operand of the `%` at `at` begins: behind the nearest operator that binds less.
fn operand_before(tokens: &[Token], at: usize, first: usize) -> usize {
    let (mut begin, mut depth) = (at, 0);
    while begin > first {
        let token = &tokens[begin - 1];
        let operator = token.kind == Kind::Operator;
        match token.text {
            ")" | "]" | "}" if operator => depth += 1,
            "(" | "[" | "{" if operator && depth > 0 => depth -= 1,
            "(" | "[" | "{" if operator => break,
            _ if depth > 0 => {}
            "-" if operator && (begin - 1 == first || !ends_operand(&tokens[begin - 2])) => {}
            "+" | "-" | "~" | "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" if operator => break,
            "and" | "or" | "not" | "in" | "if" | "else" | "elif" if token.kind == Kind::Name => break,
            _ => {}
        }
        begin -= 1;
    }
    begin
}

/// Behind the operand that begins at `at`: signs, something, and what is called or looked up on it; powers of it too.
fn operand_after(tokens: &[Token], mut at: usize) -> usize {
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|t| t.kind == Kind::Operator && t.text == text);
    let group = |at: usize| {
        let mut depth = 0;
        for (end, token) in tokens.iter().enumerate().skip(at).filter(|(_, t)| t.kind == Kind::Operator) {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return end + 1;
            }
        }
        tokens.len()
    };
    loop {
        while is(at, "-") {
            at += 1;
        }
        let text = |at: usize| tokens.get(at).is_some_and(|t| t.kind == Kind::Text);
        at = if is(at, "(") || is(at, "[") || is(at, "{") {
            group(at)
        } else if text(at) {
            (at..).find(|end| !text(*end)).unwrap_or(at)
        } else {
            at + 1
        };
        loop {
            at = if is(at, ".") || is(at, "|") {
                at + 2
            } else if is(at, "(") || is(at, "[") {
                group(at)
            } else {
                break;
            };
        }
        if !is(at, "**") {
            return at.min(tokens.len());
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn what_is_rewritten() {
        for (from, to) in [
            ("{{ a % b }}", "{{ __modulo( a, b) }}"),
            ("{{a%b}}", "{{__modulo(a,b)}}"),
            (
                "{%- if (x == 'u') != (loop.index0 % 2 == 0) -%}",
                "{%- if (x == 'u') != (__modulo(loop.index0, 2) == 0) -%}",
            ),
            ("{% if not i % 2 %}", "{% if not __modulo( i, 2) %}"),
            ("{{ a + b * c % d | f(1).e[2] - g }}", "{{ a + __modulo( b * c, d | f(1).e[2]) - g }}"),
            ("{{ a % b % c }}", "{{ __modulo( __modulo( a, b), c) }}"),
            ("{{ -a % -b ** 2 }}", "{{ __modulo( -a, -b ** 2) }}"),
            ("{{ x - a % b }}", "{{ x - __modulo( a, b) }}"),
            ("{{ '%s' % (a, b % 2) }}", "{{ __modulo( '%s', (a, __modulo(b, 2))) }}"),
            ("{% set x = '%d' % n %}", "{% set x = __modulo( '%d', n) %}"),
            ("{% for i in x if i % 2 %}", "{% for i in x if __modulo( i, 2) %}"),
            ("{{ {'k': '%d' % 3}['k'] }}", "{{ {'k': __modulo( '%d', 3)}['k'] }}"),
            ("{{ +1 }}{{ 1 + +2 }}{{ 1e+5 + 2 }}", "{{ 1 }}{{ 1 + 2 }}{{ 1e+5 + 2 }}"),
            ("{% generation %}\n{%- endgeneration -%}", "{% with %}\n{%- endwith -%}"),
            (
                "a % b {# % #} {{ '%}' }} {% raw %}{{ a % b }}{% endraw %} {{ \"}}\" }}",
                "a % b {# % #} {{ '%}' }} {% raw %}{{ a % b }}{% endraw %} {{ \"}}\" }}",
            ),
            ("{{- a -}} {%+ if a +%} {{ a", "{{- a -}} {%+ if a +%} {{ a"),
            ("{{ generation }} {{ {'a': {}} }}", "{{ generation }} {{ {'a': {}} }}"),
        ] {
            let got = translate(from);
            let squeeze = |text: &str| text.replace(' ', "");
            assert_eq!(squeeze(&got), squeeze(to), "{from}: {got}");
        }
    }

    /// Whatever is cut off or in the wrong place: no panic, and nothing is lost.
    #[test]
    fn fragments_pass() {
        let template = "{% if a % 2 %}{{ 'x' ~ +b % (c, d) }}{% endif %}{# c #}{% raw %}x{% endraw %}é{{ \"é\" % é }}";
        for start in (0..template.len()).filter(|at| template.is_char_boundary(*at)) {
            for end in (start..=template.len()).filter(|at| template.is_char_boundary(*at)) {
                translate(&template[start..end]);
            }
        }
        for odd in [
            "{{ % }}",
            "{{ a % }}",
            "{{ % a }}",
            "{% % %}",
            "{{ ( % ) }}",
            "{{ ) % ( }}",
            "{{ -% }}",
            "{{+}}",
            "{%-%}",
            "{{ a % -",
            "{{-}}",
        ] {
            translate(odd);
        }
    }
}

//! What the worker of `js/` asks and is told, as JavaScript spells it, where no other module has a type for it.
//!
//! `js/generated.ts` and the table in `docs/errors.md` are written from the types of this crate and from [`crate::error`].
//! The tests below fail while the files say anything else, and write them anew with `UPDATE=1 cargo test --lib protocol`.

use crate::backend::Precision;
use crate::engine::DeviceChoice;
use crate::weights::verify::Verify;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Where a model's files are, resolved: the worker knows neither the page's address nor the user's spelling.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ResolvedSource {
    /// A folder in Hugging Face layout, whose address ends with a slash, or a file whose path ends with `.gguf`.
    Url { url: String },
    /// `org/name` or `org/name/file.gguf` on the hub; a revision here goes before the option.
    Hub { id: String, revision: Option<String> },
    /// The user's own files, by path within the model's folder.
    Files {
        name: String,
        /// Read from the JavaScript object itself: serde cannot carry a `Blob`.
        #[cfg_attr(test, ts(type = "{ path: string; file: Blob }[]"))]
        files: IgnoredAny,
    },
}

/// Where downloaded pieces are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "Cache"))]
#[serde(rename_all = "lowercase")]
pub enum CacheChoice {
    IndexedDb,
    None,
}

/// How a source is reached.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct SourceRequest {
    pub source: ResolvedSource,
    pub revision: String,
    pub token: Option<String>,
    pub mirrors: Vec<String>,
    pub cache: CacheChoice,
}

/// What a load is told besides, in the same object as its `SourceRequest`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct EngineRequest {
    pub device: DeviceChoice,
    /// Null: the nearest that loses nothing.
    pub dtype: Option<Precision>,
    /// Tokens of KV cache; null: the smaller of the model's limit and 2048.
    pub context_length: Option<usize>,
    pub verify: Verify,
    pub self_check: bool,
    /// Milliseconds; null: the default.
    pub gpu_budget_ms: Option<f64>,
    /// CPU threads at most; null: what measures fastest, all cores where the page is isolated, else 1.
    pub threads: Option<usize>,
    pub cache: CacheChoice,
    /// Name and version of browser and system.
    pub environment: String,
}

/// What an estimate is told besides, in the same object as its `SourceRequest`.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
#[serde(rename_all = "camelCase")]
pub struct EstimateRequest {
    /// Null: as for a load.
    pub dtype: Option<Precision>,
    /// Tokens of KV cache; null: as for a load.
    pub context_length: Option<usize>,
}

/// What a model costs, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "EngineEstimate"))]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// Still to be downloaded.
    pub download_bytes: u64,
    /// In browser storage when loaded completely.
    pub disk_bytes: u64,
    /// GPU memory on the WebGPU tier: weights, KV cache, scratch.
    pub gpu_bytes: u64,
    /// Memory on the CPU tier.
    pub cpu_bytes: u64,
    /// Free storage, where the browser tells.
    pub free_bytes: Option<u64>,
}

/// What the engine throws.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "EngineError"))]
pub struct Thrown<'a> {
    #[cfg_attr(test, ts(type = "ErrorCode"))]
    pub code: &'a str,
    pub message: String,
    pub remedy: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Event, Info, Options, Score};
    use crate::error::{ALSO_IN_TYPESCRIPT, Error, IN_TYPESCRIPT};
    use crate::weights::{models, progress};
    use std::collections::BTreeMap;
    use std::path::Path;
    use strum::{EnumMessage, IntoEnumIterator};
    use ts_rs::{Config, TS, TypeVisitor};

    /// Code, cause and remedy of everything that can go wrong, by code.
    fn errors() -> Vec<(&'static str, String, &'static str)> {
        let doc = |error: &Error| error.get_documentation().unwrap_or_default().to_owned();
        let mut all: Vec<_> = Error::iter().map(|error| (error.code(), doc(&error), error.remedy())).collect();
        all.extend(IN_TYPESCRIPT.map(|(code, cause, remedy)| (code, cause.to_owned(), remedy)));
        all.sort();
        all
    }

    /// Declarations by name, of a type and of all that it mentions.
    struct Declarations(Config, BTreeMap<String, String>);

    impl TypeVisitor for Declarations {
        fn visit<T: TS + 'static + ?Sized>(&mut self) {
            // A type without a file of its own is one of the language's.
            if T::output_path().is_none() {
                return;
            }
            let docs = T::docs().unwrap_or_default();
            let declaration = tidy(&format!("{docs}export {}\n", T::decl(&self.0)));
            if self.1.insert(T::ident(&self.0), declaration).is_none() {
                T::visit_dependencies(self);
            }
        }
    }

    /// Comments of one line on one line.
    fn tidy(declaration: &str) -> String {
        let lines: Vec<_> = declaration.lines().map(str::trim_end).collect();
        let mut text = String::new();
        let mut at = 0;
        while at < lines.len() {
            let short = lines[at] == "/**" && lines.get(at + 2) == Some(&" */");
            let line = if short { format!("/**{} */", &lines[at + 1][2..]) } else { lines[at].to_owned() };
            text += &format!("{line}\n");
            at += if short { 3 } else { 1 };
        }
        text
    }

    fn generated() -> String {
        // Every integer here is below 2^53, and serde-wasm-bindgen gives it as a number.
        let mut types = Declarations(Config::new().with_large_int("number"), BTreeMap::new());
        types.visit::<SourceRequest>();
        types.visit::<EngineRequest>();
        types.visit::<EstimateRequest>();
        types.visit::<Estimate>();
        types.visit::<Thrown<'static>>();
        types.visit::<Options>();
        types.visit::<Info>();
        types.visit::<Event>();
        types.visit::<Score>();
        types.visit::<progress::Event>();
        types.visit::<models::StoredModel>();
        types.visit::<models::Availability>();
        let mut text = String::from(
            "// Written from the Rust types by the tests of src/protocol.rs: `UPDATE=1 cargo test --lib protocol`. Not edited by hand.\n\n",
        );
        let (all, here) = (errors(), |code: &str| {
            ALSO_IN_TYPESCRIPT.contains(&code) || IN_TYPESCRIPT.iter().any(|(own, ..)| *own == code)
        });
        text += "/** Stable names of everything that can go wrong; docs/errors.md lists causes and remedies. New ones may be added; none is renamed. */\n";
        text += &format!(
            "export type ErrorCode =\n{};\n\n",
            all.iter().map(|(code, ..)| format!("  | '{code}'")).collect::<Vec<_>>().join("\n")
        );
        text += "/** What to do about the errors that TypeScript gives. */\nexport const REMEDIES = {\n";
        for (code, _, remedy) in all.iter().filter(|(code, ..)| here(code)) {
            text += &format!("  {}: {},\n", quoted(code), quoted(remedy));
        }
        text += "} as const satisfies Partial<Record<ErrorCode, string>>;\n";
        for declaration in types.1.values() {
            text += &format!("\n{declaration}");
        }
        text
    }

    /// As a literal of JavaScript.
    fn quoted(text: &str) -> String {
        serde_json::to_string(text).unwrap()
    }

    /// docs/errors.md with the table between its marks written anew.
    fn documented(old: &str) -> String {
        const MARKS: [&str; 2] = ["<!-- codes -->\n", "<!-- end of codes -->\n"];
        let [from, to] =
            MARKS.map(|mark| old.find(mark).unwrap_or_else(|| panic!("docs/errors.md: {mark:?} is missing")));
        let mut table = String::from("| code | cause | remedy |\n| --- | --- | --- |\n");
        for (code, cause, remedy) in errors() {
            table += &format!("| `{code}` | {cause} | {remedy} |\n");
        }
        format!("{}{table}{}", &old[..from + MARKS[0].len()], &old[to..])
    }

    /// Compares a file with what it must be; with UPDATE=1 writes it.
    fn check(file: &str, wanted: impl FnOnce(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let wanted = wanted(&old);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, wanted).unwrap();
        } else if old != wanted {
            let line = old.lines().zip(wanted.lines()).find(|(old, wanted)| old != wanted);
            panic!(
                "{file} is not what the Rust types say: run `UPDATE=1 cargo test --lib protocol` (first difference: {line:#?})"
            );
        }
    }

    #[test]
    fn typescript_types_are_those_of_rust() {
        check("js/generated.ts", |_| generated());
    }

    #[test]
    fn every_error_is_documented() {
        check("docs/errors.md", documented);
    }

    #[test]
    fn every_error_has_a_code_a_cause_and_a_remedy_of_its_own() {
        let all = errors();
        for pair in all.windows(2) {
            assert_ne!(pair[0].0, pair[1].0);
        }
        for (code, cause, remedy) in all {
            assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code}");
            assert!(cause.ends_with(['.', ')']) && remedy.ends_with('.'), "{code}: {cause} / {remedy}");
            // The page puts both into a table, and a link of rustdoc means nothing there.
            assert!(!format!("{cause}{remedy}").contains(['|', '\n', '[']), "{code}: {cause} / {remedy}");
        }
        for code in ALSO_IN_TYPESCRIPT {
            assert!(Error::iter().any(|error| error.code() == code), "{code}");
        }
    }
}

//! The walls between the rooms of `src/`: imports run downward, none run in a circle, and few files name the browser.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The rooms from the lowest up. A file may import from lower rows and from its own room, not from its row.
const ROOMS: &[&[&str]] = &[
    &["error"],
    &["bytes", "packed", "rope"],
    &["config"],
    &["text"],
    &["weights", "backend"],
    &["synthetic", "model", "conformance"],
    &["session"],
    &["engine"],
    &["protocol"],
    &["web"],
];

/// What only these files may name.
const BROWSER: [&str; 4] = ["wasm_bindgen", "js_sys", "web_sys", "serde_wasm_bindgen"];

fn names_the_browser(module: &str) -> bool {
    module == "web" || module.starts_with("web::") || module == "backend::gpu::browser"
}

/// Modules of the crate, each with its code: without comments and tests.
fn modules() -> BTreeMap<String, String> {
    fn walk(folder: &Path, module: &str, all: &mut BTreeMap<String, String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let inner = if module.is_empty() { name.clone() } else { format!("{module}::{name}") };
            if path.is_dir() {
                if name != "bin" {
                    walk(&path, &inner, all);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let of = if name == "mod" { module.to_owned() } else { inner };
                all.insert(of, code(&std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), "", &mut all);
    // Files that are tests from end to end.
    all.retain(|module, _| !["tests", "twins"].contains(&module.rsplit("::").next().unwrap()));
    all.remove("lib");
    all
}

fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").filter(|at| text[*at..].lines().nth(1).is_some_and(|l| l.ends_with('{')));
    let lines = text[..end.unwrap_or(text.len())].lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Every `crate::..` and `super::..` path of some code, lists in braces taken apart, as a path from the crate's root.
fn paths(module: &str, code: &str) -> Vec<String> {
    let mut all = Vec::new();
    for root in ["crate::", "super::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let mut rest = &code[at..];
            let mut base: Vec<&str> = module.split("::").collect();
            if let Some(inner) = rest.strip_prefix("crate::") {
                (rest, base) = (inner, Vec::new());
            }
            while let Some(inner) = rest.strip_prefix("super::") {
                rest = inner;
                base.pop();
            }
            expand(&base.join("::"), rest, &mut all);
        }
    }
    all
}

/// Adds the path that `rest` begins with, or each of a list in braces; returns what follows.
fn expand<'a>(base: &str, rest: &'a str, all: &mut Vec<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut list) = rest.strip_prefix('{') {
        while !list.trim_start().starts_with('}') && !list.trim().is_empty() {
            list = expand(base, list, all).trim_start().trim_start_matches(',');
        }
        return list.trim_start().strip_prefix('}').unwrap_or("");
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if name.is_empty() {
        return rest.get(1..).unwrap_or("");
    }
    let path = if base.is_empty() { name.to_owned() } else { format!("{base}::{name}") };
    match after.strip_prefix("::") {
        Some(inner) if inner.starts_with(|c: char| c.is_alphabetic() || c == '{' || c == '_') => {
            expand(&path, inner, all)
        }
        _ => {
            all.push(path);
            after
        }
    }
}

/// The modules that a module names, itself and those that it lies in left out: those are its own room.
fn imports(module: &str, code: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in paths(module, code) {
        let mut path = path.as_str();
        while !modules.contains_key(path) {
            let Some((outer, _)) = path.rsplit_once("::") else { break };
            path = outer;
        }
        let own = module == path || module.starts_with(&format!("{path}::"));
        if modules.contains_key(path) && !own {
            found.insert(path.to_owned());
        }
    }
    found
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn rank(module: &str) -> usize {
    let place = ROOMS.iter().position(|row| row.contains(&room(module)));
    place.unwrap_or_else(|| panic!("{module} is in no row of ROOMS"))
}

fn upward(modules: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (module, code) in modules {
        for other in imports(module, code, modules) {
            if room(&other) != room(module) && rank(&other) >= rank(module) {
                found.push(format!("{module} imports {other}"));
            }
        }
    }
    found
}

/// One circle of modules, if there is any.
fn circle(modules: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let graph: BTreeMap<_, _> = modules.iter().map(|(module, code)| (module, imports(module, code, modules))).collect();
    fn visit<'a>(
        module: &'a String,
        graph: &'a BTreeMap<&String, BTreeSet<String>>,
        path: &mut Vec<&'a String>,
        done: &mut BTreeSet<&'a String>,
    ) -> Option<Vec<String>> {
        if let Some(at) = path.iter().position(|other| *other == module) {
            return Some(path[at..].iter().map(|module| (*module).clone()).collect());
        }
        if done.contains(module) {
            return None;
        }
        path.push(module);
        let found = graph[module].iter().find_map(|next| visit(next, graph, path, done));
        path.pop();
        done.insert(module);
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| visit(module, &graph, &mut Vec::new(), &mut done))
}

fn browser(modules: &BTreeMap<String, String>) -> Vec<String> {
    let naming = |code: &str| BROWSER.into_iter().find(|name| code.contains(&format!("{name}::")));
    let others = modules.iter().filter(|(module, _)| !names_the_browser(module));
    others.filter_map(|(module, code)| Some(format!("{module} names {}", naming(code)?))).collect()
}

#[test]
fn imports_run_downward() {
    assert_eq!(upward(&modules()), Vec::<String>::new());
}

#[test]
fn imports_run_in_no_circle() {
    assert_eq!(circle(&modules()), None);
}

#[test]
fn the_browser_is_named_in_few_places() {
    assert_eq!(browser(&modules()), Vec::<String>::new());
}

/// Each wall is seen to be broken when it is.
#[test]
fn broken_walls_are_found() {
    let with = |module: &str, line: &str| {
        let mut all = modules();
        all.get_mut(module).unwrap_or_else(|| panic!("no module {module}")).push_str(&format!("\n{line}\n"));
        all
    };
    assert_eq!(upward(&with("config", "use crate::{error::Error, engine::{self}};")), ["config imports engine"]);
    assert_eq!(
        upward(&with("backend::cpu::rank", "fn f() { super::super::super::model::g() }")),
        ["backend::cpu::rank imports model"]
    );
    assert!(upward(&with("config", "// crate::engine")).len() < 2);
    let plan = circle(&with("weights::digest", "use super::plan::Plan;")).unwrap();
    assert!(plan.contains(&"weights::plan".to_owned()) && plan.contains(&"weights::digest".to_owned()), "{plan:?}");
    assert_eq!(browser(&with("engine", "use wasm_bindgen::JsValue;")), ["engine names wasm_bindgen"]);
}

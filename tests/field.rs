//! Checkpoints as they are found in the field (`tests/reference/make_field.py`): each loads and computes what transformers computes,
//! or says what is wrong.

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::engine::{DeviceChoice, Engine, Event, Info, OpenOptions, Options};
use mobilellm_web::error::Error;
use mobilellm_web::session::FinishReason;
use mobilellm_web::text::ChatInput;
use mobilellm_web::weights::source::{DirSource, NativeHost, NoStore};
use mobilellm_web::weights::{self, Checkpoint};
use pollster::block_on;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/field");

fn read(name: &str) -> Vec<u8> {
    fs::read(Path::new(FIXTURES).join(name)).unwrap()
}

/// The folder of a case, for as long as it lives.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(number: usize, case: &Value) -> Self {
        let path = std::env::temp_dir().join(format!("mobilellm-field-{number}-{}", std::process::id()));
        fs::create_dir_all(path.join("additional_chat_templates")).unwrap();
        for (file, key) in [("config.json", "config"), ("tokenizer_config.json", "settings")] {
            let mut base: Map<String, Value> = serde_json::from_slice(&read(&format!("base/{file}"))).unwrap();
            base.extend(case[key].as_object().cloned().unwrap_or_default());
            fs::write(path.join(file), Value::Object(base).to_string()).unwrap();
        }
        fs::write(path.join("tokenizer.json"), read("base/tokenizer.json")).unwrap();
        let weights = case["weights"].as_str().unwrap_or("base/model.safetensors");
        fs::write(path.join("model.safetensors"), changed_weights(&read(weights), case)).unwrap();
        for (name, text) in case["files"].as_object().into_iter().flatten() {
            fs::write(path.join(name), text.as_str().unwrap()).unwrap();
        }
        Folder(path)
    }
}

/// With the case's names, further tensors and metadata.
fn changed_weights(file: &[u8], case: &Value) -> Vec<u8> {
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut data = data.to_vec();
    let header: Map<String, Value> = serde_json::from_slice(header).unwrap();
    let renamed = |name: String| match (case["prefix"][0].as_str(), case["prefix"][1].as_str()) {
        (Some(from), Some(to)) if name != "__metadata__" => format!("{to}{}", name.strip_prefix(from).unwrap_or(&name)),
        _ => name,
    };
    let mut header: Map<String, Value> = header.into_iter().map(|(name, entry)| (renamed(name), entry)).collect();
    if case.get("metadata").is_some_and(Value::is_null) {
        header.insert("__metadata__".into(), Value::Null);
    }
    for extra in case["extra"].as_array().into_iter().flatten() {
        let end = data.len() + extra[3].as_u64().unwrap() as usize;
        let entry = json!({"dtype": extra[1], "shape": extra[2], "data_offsets": [data.len(), end]});
        header.insert(extra[0].as_str().unwrap().into(), entry);
        data.resize(end, 7);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}

fn open(folder: &Folder) -> (Engine, Info, Vec<weights::Event>) {
    let events = Rc::new(RefCell::new(Vec::new()));
    let heard = events.clone();
    let opened = block_on(async {
        let source = DirSource::new(&folder.0);
        let options = weights::Options::default();
        let tell = move |event| heard.borrow_mut().push(event);
        let checkpoint = Checkpoint::open(NativeHost::default(), source, NoStore::default(), options, tell).await?;
        let options = OpenOptions { device: DeviceChoice::Cpu, ..OpenOptions::default() };
        Engine::open(&checkpoint, &options, async |config| Ok(Cpu::new(config, Precision::F16))).await
    });
    let (engine, info) = opened.unwrap();
    let events = events.borrow().clone();
    (engine, info, events)
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Text, tokens and the reason of the end.
fn generate(engine: &mut Engine, prompt: &[u32], options: &Options) -> (String, Vec<u32>, FinishReason) {
    let session = engine.open_session(128.max(prompt.len() + 16)).unwrap();
    engine.begin(session, prompt, options).unwrap();
    let (mut said, mut tokens) = (String::new(), Vec::new());
    loop {
        match block_on(engine.next()).unwrap() {
            Event::Prefill { .. } => {}
            Event::Token { text, token_id, .. } => {
                said.push_str(&text);
                tokens.push(token_id);
            }
            Event::Done { text, finish_reason, .. } => {
                engine.close_session(session);
                return (said + &text, tokens, finish_reason);
            }
        }
    }
}

#[test]
fn every_case() {
    let cases: Vec<Value> = serde_json::from_slice(&read("cases.json")).unwrap();
    assert!(cases.len() >= 32);
    for (number, case) in cases.iter().enumerate() {
        let (name, right) = (case["name"].as_str().unwrap(), &case["right"]);
        let folder = Folder::new(number, case);
        let (mut engine, info, events) = open(&folder);
        let text = engine.text().clone();
        let prompt = match case["messages"].as_array() {
            Some(messages) => {
                let tools = case["tools"].as_array().map(Vec::as_slice);
                let chat = ChatInput { messages, tools, add_generation_prompt: true, ..Default::default() };
                assert_eq!(text.render_chat(&chat).unwrap(), right["text"].as_str().unwrap(), "{name}");
                text.encode_chat(&chat).unwrap()
            }
            None => {
                let ids_of_prompt =
                    text.encode_prompt(case["prompt"].as_str().unwrap(), case["special"] == true).unwrap();
                assert_eq!(ids_of_prompt, ids(&right["promptIds"]), "{name}");
                ids_of_prompt
            }
        };
        if let Some(count) = right["promptTokens"].as_u64() {
            assert_eq!(prompt.len() as u64, count, "{name}");
        }
        let greedy = ids(&right["greedy"]);
        let options = Options { max_tokens: Some(greedy.len()), ignore_eos: true, ..Options::default() };
        assert_eq!(generate(&mut engine, &prompt, &options).1, greedy, "{name}");
        if let Some(stop) = case["stop"].as_str() {
            let options = Options { stop: vec![stop.into()], ..Options::default() };
            let (said, _, reason) = generate(&mut engine, &prompt, &options);
            assert_eq!((said.as_str(), reason), (case["text"].as_str().unwrap(), FinishReason::Stop), "{name}");
        }
        assert_eq!(info.chat, case["broken"].is_null(), "{name}");
        if let Some(place) = case["broken"].as_str() {
            match text.check_template(None, false) {
                Err(Error::Template { problem }) => assert!(problem.contains(place), "{name}: {problem}"),
                other => panic!("{name}: {other:?}"),
            }
            text.check_template(Some("{{ messages | length }}"), false).unwrap();
        }
        let skipped = events.into_iter().find_map(|event| match event {
            weights::Event::Skipped { tensors } => Some(json!(tensors)),
            _ => None,
        });
        assert_eq!(skipped.as_ref(), case.get("skipped"), "{name}");
    }
}

/// An end token of the model's own stops an answer, also where the files say -1 for it.
#[test]
fn minus_one_leaves_the_tokenizers_own_end() {
    let case = json!({"config": {"eos_token_id": -1}});
    let folder = Folder::new(1000, &case);
    let (engine, ..) = open(&folder);
    assert_eq!(engine.text().eos(), [1]);
    let case = json!({"files": {"generation_config.json": "{\"eos_token_id\": [300]}"}});
    let folder = Folder::new(1001, &case);
    let opened = block_on(async {
        let (source, options) = (DirSource::new(&folder.0), weights::Options::default());
        let checkpoint = Checkpoint::open(NativeHost::default(), source, NoStore::default(), options, |_| {}).await?;
        let cpu = async |config: &mobilellm_web::config::Config| Ok(Cpu::new(config, Precision::F16));
        Engine::open(&checkpoint, &OpenOptions::default(), cpu).await
    });
    let problem = opened.err().unwrap().to_string();
    assert_eq!(problem, "generation_config.json: eos_token_id: 300 is outside the vocabulary of 300 tokens");
}

/// A stop string that has a special token and more would never be found.
#[test]
fn a_stop_string_that_cannot_be_found_is_an_error() {
    let folder = Folder::new(1002, &json!({}));
    let (mut engine, ..) = open(&folder);
    let session = engine.open_session(64).unwrap();
    let options = Options { stop: vec!["<|end|>\n".into()], ..Options::default() };
    match engine.begin(session, &[101], &options) {
        Err(Error::InvalidOption { name, problem }) => {
            assert_eq!(name, "stop");
            assert!(problem.contains("stopTokenIds"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

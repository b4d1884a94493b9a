//! Checkpoints from their sources to a sink.

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::bytes::Bytes;
use mobilellm_web::config::Config;
use mobilellm_web::engine::{self, DeviceChoice, Engine, OpenOptions};
use mobilellm_web::error::{Error, Result};
use mobilellm_web::text::ChatInput;
use mobilellm_web::weights::convert;
use mobilellm_web::weights::formats::gguf;
use mobilellm_web::weights::source::{DirSource, NativeHost, NoStore};
use mobilellm_web::weights::{Checkpoint, Dtype, Options, TensorInfo, TensorSink};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Puts tensors together and insists that their bytes come in order.
#[derive(Default)]
struct Collected {
    infos: Vec<TensorInfo>,
    bytes: Vec<Vec<u8>>,
    unwanted: &'static str,
}

impl TensorSink for Collected {
    fn begin(&mut self, tensors: &[TensorInfo]) -> Result<Vec<bool>> {
        self.infos = tensors.to_vec();
        self.bytes = vec![Vec::new(); tensors.len()];
        Ok(tensors.iter().map(|t| t.name != self.unwanted).collect())
    }

    fn write(&mut self, tensor: usize, offset: u64, bytes: &dyn Bytes) -> Result<()> {
        assert_eq!(offset, self.bytes[tensor].len() as u64, "{}: bytes out of order", self.infos[tensor].name);
        let mut part = vec![0; bytes.len()];
        bytes.read(0, &mut part);
        self.bytes[tensor].extend(part);
        Ok(())
    }
}

impl Collected {
    fn by_name(self) -> BTreeMap<String, (TensorInfo, Vec<u8>)> {
        self.infos.into_iter().zip(self.bytes).map(|(t, b)| (t.name.clone(), (t, b))).collect()
    }
}

fn load_dir(folder: &str, unwanted: &'static str) -> Result<BTreeMap<String, (TensorInfo, Vec<u8>)>> {
    pollster::block_on(async {
        let source = DirSource::new(folder);
        let checkpoint =
            Checkpoint::open(NativeHost::default(), source, NoStore::default(), Options::default(), |_| {}).await?;
        let mut sink = Collected { unwanted, ..Collected::default() };
        checkpoint.load(&mut sink).await?;
        Ok(sink.by_name())
    })
}

#[test]
fn demo_from_a_folder() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/www/models/demo");
    let tensors = load_dir(folder, "model.norm.weight").unwrap();
    let mut left = tensors.len();
    for shard in std::fs::read_dir(folder).unwrap() {
        let path = shard.unwrap().path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        // Read in the plainest way that the format allows.
        let file = std::fs::read(path).unwrap();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&file[8..header]).unwrap();
        for (name, entry) in json.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__") {
            let at = |n: usize| header + entry["data_offsets"][n].as_u64().unwrap() as usize;
            let (info, bytes) = &tensors[name];
            if name == "model.norm.weight" {
                assert!(bytes.is_empty());
            } else {
                assert!(bytes == &file[at(0)..at(1)], "{name}");
            }
            assert_eq!(entry["shape"], serde_json::json!(info.shape));
            left -= 1;
        }
    }
    assert_eq!(left, 0);
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/checkpoints/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Names, shapes and bytes; dtypes too.
fn fixture_tensors(name: &str) -> BTreeMap<String, (TensorInfo, Vec<u8>)> {
    load_dir(&fixture(name), "").unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The same weights, written by `torch.save` and by transformers' `save_pretrained`, are the same tensors.
#[test]
fn pickled_and_safetensors_files_agree() {
    for dtype in ["f16", "bf16"] {
        let (pickled, sharded) =
            (fixture_tensors(&format!("torch-{dtype}")), fixture_tensors(&format!("transformers-{dtype}")));
        assert!(pickled.len() > 10 && pickled == sharded, "{dtype}");
    }
    let twice = fixture_tensors("torch-tied-twice");
    assert_eq!(twice["lm_head.weight"].1, twice["model.embed_tokens.weight"].1);
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    for (name, says) in [("torch-before-1.6", "before PyTorch 1.6"), ("torch-views", "o_proj.weight: is not row-major")]
    {
        match load_dir(&fixture(name), "") {
            Err(Error::Checkpoint { file, problem }) => {
                assert!(file == "pytorch_model.bin" && problem.contains(says), "{problem}");
            }
            other => panic!("{name}: {:?}", other.map(|t| t.len())),
        }
    }
}

struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mobilellm-weights-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// Every source ends as the same f16 tensors, sharded, verified; the conversion is deterministic.
#[test]
fn conversion() {
    let temporary = Temporary::new("conversion");
    let to = |name: &str| temporary.0.join(name);
    let convert = |from: &str, name: &str| {
        convert::convert(Path::new(&fixture(from)), &to(name), Precision::F16, 20_000, &|_, _| {})
    };
    for (from, like) in [
        ("torch-f16", "transformers-f16"),
        ("transformers-f16", "transformers-f16"),
        ("lm-head-only", "transformers-f16"),
        ("torch-tied-twice", "transformers-f16"),
        ("torch-unused-head", "transformers-f16"),
    ] {
        convert(from, from).unwrap();
        let (got, expected) = (load_dir(to(from).to_str().unwrap(), "").unwrap(), fixture_tensors(like));
        assert!(got == expected, "{from}: {:?} and {:?}", got.keys(), expected.keys());
        assert!(convert::verify(&to(from), &|_, _| {}).unwrap().files.len() > 3, "several shards");
    }
    let halves = |bytes: &[u8]| bytes.chunks(2).map(|b| half::f16::from_le_bytes([b[0], b[1]])).collect::<Vec<_>>();
    for (from, size) in [("transformers-bf16", 2), ("torch-bf16", 2), ("f32", 4)] {
        convert(from, from).unwrap();
        let got = load_dir(to(from).to_str().unwrap(), "").unwrap();
        for (name, (_, source)) in fixture_tensors(from) {
            let expected = source.chunks(size).map(|b| match *b {
                [low, high] => half::f16::from_f32(half::bf16::from_le_bytes([low, high]).to_f32()),
                _ => half::f16::from_f32(f32::from_le_bytes(b.try_into().unwrap())),
            });
            assert!(expected.eq(halves(&got[&name].1)), "{from}: {name}");
        }
    }
    convert("torch-f16", "again").unwrap();
    assert!(files(&to("again")) == files(&to("torch-f16")));
    assert!(matches!(convert("torch-f16", "again"), Err(Error::Io { problem, .. }) if problem == "exists already"));
    assert!(convert("torch-views", "views").is_err());
    let left: Vec<_> = fs::read_dir(&temporary.0).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 9, "nothing half-written is left: {left:?}");
}

#[test]
fn verification_finds_a_single_flipped_bit() {
    let temporary = Temporary::new("verification");
    let folder = temporary.0.join("model");
    convert::convert(Path::new(&fixture("torch-f16")), &folder, Precision::F16, 20_000, &|_, _| {}).unwrap();
    for (name, bytes) in files(&folder) {
        let path = folder.join(&name);
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let error = convert::verify(&folder, &|_, _| {}).unwrap_err();
        if name != "manifest.json" {
            assert!(matches!(&error, Error::Integrity { file, .. } if *file == name), "{name}: {error:?}");
        }
        fs::write(&path, &bytes[1..]).unwrap();
        assert!(convert::verify(&folder, &|_, _| {}).is_err(), "{name} cut");
        fs::write(&path, &bytes).unwrap();
    }
    convert::verify(&folder, &|_, _| {}).unwrap();
}

/// An index that lies, one test for each lie.
#[test]
fn lying_indexes() {
    let temporary = Temporary::new("indexes");
    for (name, bytes) in files(Path::new(&fixture("transformers-f16"))) {
        fs::write(temporary.0.join(name), bytes).unwrap();
    }
    let path = temporary.0.join("model.safetensors.index.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let first = good["weight_map"]["model.norm.weight"].as_str().unwrap().to_owned();
    let with = |edit: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut index = good.clone();
        edit(index["weight_map"].as_object_mut().unwrap());
        fs::write(&path, index.to_string()).unwrap();
        load_dir(temporary.0.to_str().unwrap(), "").unwrap_err()
    };
    for name in
        ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", "%2e%2e", "https://x.test/a"]
    {
        let error = with(&|map| drop(map.insert("model.norm.weight".into(), name.into())));
        assert!(
            matches!(&error, Error::Checkpoint { problem, .. } if problem.contains("not a plain file name")),
            "{error}"
        );
    }
    let error = with(&|map| drop(map.insert("model.norm.weight".into(), "absent.safetensors".into())));
    assert!(matches!(&error, Error::FileNotFound { file, .. } if file == "absent.safetensors"), "{error}");
    let error = with(&|map| drop(map.insert("ghost.weight".into(), first.clone().into())));
    assert!(matches!(&error, Error::Tensor { name, .. } if name == "ghost.weight"), "{error}");
    let error = with(&|map| drop(map.remove("model.norm.weight")));
    assert!(matches!(&error, Error::Tensor { name, .. } if name == "model.norm.weight"), "{error}");
    let error = with(&|map| map.clear());
    assert!(matches!(&error, Error::Checkpoint { problem, .. } if problem.contains("empty")), "{error}");
    for text in ["", "[]", "{}", r#"{"weight_map":{"a":1}}"#] {
        fs::write(&path, text).unwrap();
        assert!(matches!(load_dir(temporary.0.to_str().unwrap(), ""), Err(Error::Checkpoint { .. })), "{text}");
    }
    // The same tensor in two shards.
    fs::write(&path, good.to_string()).unwrap();
    let shard = fs::read(temporary.0.join(&first)).unwrap();
    fs::write(temporary.0.join("copy.safetensors"), &shard).unwrap();
    let mut index = good.clone();
    let held: Vec<_> =
        good["weight_map"].as_object().unwrap().iter().filter(|(_, f)| **f == *first).map(|(t, _)| t.clone()).collect();
    index["weight_map"][&held[0]] = "copy.safetensors".into();
    fs::write(&path, index.to_string()).unwrap();
    assert!(matches!(load_dir(temporary.0.to_str().unwrap(), ""), Err(Error::Tensor { .. })));
}

/// A manifest that lies, one test for each lie.
#[test]
fn lying_manifests() {
    let temporary = Temporary::new("manifests");
    let folder = temporary.0.join("model");
    convert::convert(Path::new(&fixture("torch-f16")), &folder, Precision::F16, 20_000, &|_, _| {}).unwrap();
    let path = folder.join("manifest.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let with = |pointer: &str, value: serde_json::Value| {
        let mut manifest = good.clone();
        *manifest.pointer_mut(pointer).unwrap() = value;
        fs::write(&path, manifest.to_string()).unwrap();
        load_dir(folder.to_str().unwrap(), "").unwrap_err().to_string()
    };
    let twice = good["tensors"][0]["name"].clone();
    for (pointer, value, says) in [
        ("/version", 2.into(), "version 2"),
        ("/piece_size", 5.into(), "piece_size"),
        ("/files/0/name", "../x".into(), "not a plain file name"),
        ("/files/0/name", good["files"][1]["name"].clone(), "listed twice"),
        ("/files/0/size", (-1).into(), "invalid"),
        ("/files/0/size", 10.into(), "beyond the end"),
        ("/files/0/size", 20_000_000.into(), "piece hashes"),
        ("/files/0/sha256", "beef".into(), "not a SHA-256"),
        ("/tensors/0/file", "nowhere".into(), "is not listed"),
        ("/tensors/0/start", u64::MAX.into(), "beyond the end"),
        ("/tensors/0/dtype", "I64".into(), "unknown variant"),
        ("/tensors/0/shape", vec![u64::MAX, 2].into(), "overflows"),
        ("/tensors/1/name", twice, "is in"),
    ] {
        let error = with(pointer, value);
        assert!(error.contains(says), "{pointer}: {error} does not say {says}");
    }
    let overlapping = (1..).find(|n| good["tensors"][n]["file"] == good["tensors"][n - 1]["file"]).unwrap();
    let error = with(&format!("/tensors/{overlapping}/start"), good["tensors"][overlapping - 1]["start"].clone());
    assert!(error.contains("overlaps"), "{error}");
    let text = good.to_string();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let error = load_dir(folder.to_str().unwrap(), "").unwrap_err();
    assert!(matches!(&error, Error::Checkpoint { file, .. } if file == "manifest.json"), "{error}");
    // Another program's manifest is none of ours: the index is read.
    fs::write(&path, r#"{"name":"My app","icons":[]}"#).unwrap();
    assert!(load_dir(folder.to_str().unwrap(), "").is_ok());
}

/// GGUF files, whole and split, with their own tokenizers and template, say what plain float32 maths on their values says.
#[test]
fn gguf_models_say_what_the_reference_says() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf");
    let expected: Value = serde_json::from_slice(&fs::read(format!("{folder}/expected.json")).unwrap()).unwrap();
    for (name, tied, license) in [("narrow-q4_k_m", true, "mit"), ("split-00001-of-00003", false, "mit")] {
        let source = DirSource::new(format!("{folder}/{name}.gguf"));
        let opened = Checkpoint::open(NativeHost::default(), source, NoStore::default(), Options::default(), |_| {});
        let checkpoint = pollster::block_on(opened).unwrap();
        let options = OpenOptions { device: DeviceChoice::Cpu, ..OpenOptions::default() };
        let cpu = async |config: &Config| {
            assert_eq!(config.tied, tied);
            Ok(Cpu::with_threads(config, Precision::F16, 1))
        };
        let (mut engine, info) = pollster::block_on(Engine::open(&checkpoint, &options, cpu)).unwrap();
        assert_eq!(info.license.as_deref(), Some(license));
        assert_eq!(info.model, format!("{folder}/{name}.gguf"));
        for case in expected[name].as_array().unwrap() {
            let text = engine.text();
            let ids = match (case["prompt"].as_str(), case["message"].as_str()) {
                (Some(prompt), _) => text.encode_prompt(prompt, false).unwrap(),
                (None, Some(message)) => {
                    let messages = [json!({"role": "user", "content": message})];
                    let chat = ChatInput { messages: &messages, add_generation_prompt: true, ..ChatInput::default() };
                    text.encode_chat(&chat).unwrap()
                }
                _ => panic!("{case}"),
            };
            assert_eq!(json!(ids), case["ids"], "{name}");
            let options = engine::Options { max_tokens: Some(16), ..engine::Options::default() };
            let session = engine.open_session(64).unwrap();
            engine.begin(session, &ids, &options).unwrap();
            let mut greedy = Vec::new();
            loop {
                match pollster::block_on(engine.next()).unwrap() {
                    engine::Event::Token { token_id, .. } => greedy.push(token_id),
                    engine::Event::Done { .. } => break,
                    engine::Event::Prefill { .. } => {}
                }
            }
            assert_eq!(json!(greedy), case["greedy"], "{name}");
        }
    }
}

/// A folder of fewer bits holds what its source holds so already, and reads the same by manifest and by its shards' own headers.
#[test]
fn converted_folders_of_eight_and_four_bits() {
    let temporary = Temporary::new("fewer-bits");
    let to = |name: &str| temporary.0.join(name);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gguf/narrow-q4_k_m.gguf");
    let load = |path: &Path| load_dir(path.to_str().unwrap(), "").unwrap();
    let mut bytes = Vec::new();
    for (precision, tables, blocks) in [
        (Precision::F16, Dtype::F16, Dtype::F16),
        (Precision::Q8, Dtype::Q8_0, Dtype::Q8_0),
        (Precision::Q4, Dtype::Q8_0, Dtype::Q4_1),
    ] {
        let folder = to(&format!("{precision:?}"));
        let plan = convert::convert(Path::new(source), &folder, precision, 1 << 20, &|_, _| {}).unwrap();
        bytes.push(plan.tensors.iter().map(|t| t.info.bytes()).sum::<u64>());
        let tensors = load(&folder);
        assert_eq!(tensors["model.embed_tokens.weight"].0.dtype, tables);
        assert_eq!(tensors["model.layers.0.mlp.up_proj.weight"].0.dtype, blocks);
        assert_eq!(tensors["model.norm.weight"].0.dtype, Dtype::F16);
        // Without the manifest the shard says it itself.
        fs::remove_file(folder.join("manifest.json")).unwrap();
        assert_eq!(load(&folder), tensors);
        let original = load(Path::new(source));
        let (table, rows) = &tensors["model.embed_tokens.weight"];
        if table.dtype == Dtype::Q8_0 {
            assert!(*rows == original["model.embed_tokens.weight"].1, "blocks of 8 bits are copied");
        }
    }
    assert!(bytes[1] * 18 < bytes[0] * 10 && bytes[2] * 10 < bytes[1] * 8, "{bytes:?}");
}

/// What is written as GGUF and read again has the same weights, in the same order, and the same tokenizer.
#[test]
fn gguf_files_survive_a_round_trip() {
    let temporary = Temporary::new("round-trip");
    let to = |name: &str| temporary.0.join(name);
    for (name, tokenizer) in [("narrow-q4_k_m", "tokenizer.json"), ("split-00001-of-00003", "tokenizer.model")] {
        let source = format!("{}/tests/fixtures/gguf/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
        let folder = |from: &Path, name: &str| {
            convert::convert(from, &to(name), Precision::F16, 1 << 20, &|_, _| {}).unwrap();
            (load_dir(to(name).to_str().unwrap(), "").unwrap(), fs::read(to(name).join(tokenizer)).unwrap())
        };
        let (first, second) = (format!("{name}-1"), format!("{name}-2"));
        let once = folder(Path::new(&source), &first);
        let file = to(&format!("{name}-whole.gguf"));
        gguf::write::write(&to(&first), &file, Dtype::F16, &|_, _| {}).unwrap();
        let twice = folder(&file, &second);
        assert!(once == twice, "{name}");
        let again = gguf::write::write(&to(&first), &file, Dtype::F16, &|_, _| {});
        assert!(matches!(again, Err(Error::Io { .. })), "{again:?}");
        let part = gguf::write::write(&to(&first), &to("m-00001-of-00002.gguf"), Dtype::F16, &|_, _| {});
        assert!(matches!(part, Err(Error::InvalidOption { .. })), "{part:?}");
    }
}

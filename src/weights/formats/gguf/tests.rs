//! Every lie that a GGUF can tell, and what sound ones say (`tests/reference/make_gguf.py`).

use super::Header;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::text::Tokenizer;
use crate::weights::file::FileMeta;
use crate::weights::plan::Plan;
use crate::weights::{Dtype, Source};
use proptest::prelude::*;
use serde_json::Value;
use std::cell::Cell;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf").join(name)).unwrap()
}

/// Files in memory, the first of them the GGUF that is named; `size`: what it claims to be long.
struct Files {
    files: Vec<(String, Vec<u8>)>,
    size: Option<u64>,
    read: Cell<u64>,
}

impl Files {
    fn new(name: &str, bytes: Vec<u8>) -> Self {
        Self { files: vec![(name.into(), bytes)], size: None, read: Cell::new(0) }
    }

    fn plan(&self) -> Result<(Plan, Header)> {
        pollster::block_on(Plan::read(self)).map(|(plan, header)| (plan, header.unwrap()))
    }
}

impl Source for Files {
    type Bytes = Vec<u8>;

    fn id(&self) -> String {
        "files".into()
    }

    fn gguf(&self) -> Option<String> {
        Some(self.files[0].0.clone())
    }

    async fn stat(&self, name: &str) -> Result<Option<FileMeta>> {
        let found = self.files.iter().find(|(file, _)| file == name);
        Ok(found.map(|(_, bytes)| FileMeta::new(name, self.size.unwrap_or(bytes.len() as u64))))
    }

    async fn read(&self, file: &FileMeta, range: Range<u64>, _: usize, _: &dyn Fn(u64)) -> Result<Vec<u8>> {
        self.read.set(self.read.get() + range.end - range.start);
        let (_, bytes) = self.files.iter().find(|(name, _)| *name == file.name).unwrap();
        // Beyond what is there, zeros: a file that is longer than it looks.
        Ok((range.start..range.end).map(|at| bytes.get(at as usize).copied().unwrap_or(0)).collect())
    }
}

/// Writes a GGUF piece by piece, right or wrong.
#[derive(Clone)]
struct Builder {
    version: u32,
    counts: Option<(u64, u64)>,
    keys: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    alignment: usize,
    data: usize,
}

fn text(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

fn key(name: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(name)[..], &kind.to_le_bytes(), value].concat()
}

fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

fn tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let shape: Vec<u8> = shape.iter().rev().flat_map(|n| n.to_le_bytes()).collect();
    let dimensions = (shape.len() as u32 / 8).to_le_bytes();
    [&text(name)[..], &dimensions, &shape, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

impl Builder {
    /// Two tensors: "a" of 3 x 32 in Q8_0 (102 bytes), "b" of 5 in F32 (20 bytes).
    fn new() -> Self {
        let tensors = vec![tensor("a", &[3, 32], 8, 0), tensor("b", &[5], 0, 128)];
        let keys = vec![key("general.architecture", 8, &text("llama"))];
        Self { version: 3, counts: None, keys, tensors, alignment: 32, data: 148 }
    }

    fn key(mut self, key: Vec<u8>) -> Self {
        self.keys.push(key);
        self
    }

    fn tensor(mut self, number: usize, tensor: Vec<u8>) -> Self {
        self.tensors[number] = tensor;
        self
    }

    fn build(&self) -> Vec<u8> {
        let (tensors, keys) = self.counts.unwrap_or((self.tensors.len() as u64, self.keys.len() as u64));
        let mut file =
            [&b"GGUF"[..], &self.version.to_le_bytes(), &tensors.to_le_bytes(), &keys.to_le_bytes()].concat();
        file.extend(self.keys.iter().chain(&self.tensors).flatten());
        file.resize(file.len().next_multiple_of(self.alignment) + self.data, 1);
        file
    }

    fn problem(&self) -> String {
        match Files::new("m.gguf", self.build()).plan() {
            Err(Error::Checkpoint { file, problem }) if file == "m.gguf" => problem,
            Err(other) => panic!("{other:?}"),
            Ok((plan, _)) => panic!("{plan:?}"),
        }
    }
}

#[test]
fn reads_what_the_format_says() {
    let built =
        Builder::new().key(key("general.alignment", 4, &32u32.to_le_bytes())).key(key("n", 5, &(-3i32).to_le_bytes()));
    for version in [2, 3] {
        let (plan, header) = Files::new("m.gguf", Builder { version, ..built.clone() }.build()).plan().unwrap();
        let seen: Vec<_> =
            plan.tensors.iter().map(|t| (&*t.info.name, t.info.dtype, &t.info.shape[..], t.end() - t.start)).collect();
        assert_eq!(seen, [("a", Dtype::Q8_0, &[3, 32][..], 102), ("b", Dtype::F32, &[5][..], 20)]);
        assert_eq!(plan.tensors[1].start - plan.tensors[0].start, 128);
        assert_eq!(plan.tensors[1].end(), plan.files[0].size);
        assert_eq!(header.text("general.architecture").unwrap(), Some("llama"));
        assert!(header.whole("n").is_err() && header.number("n").unwrap().is_some());
    }
    // Trailing padding, as the format's writer in Python leaves it, is no lie.
    assert!(Files::new("m.gguf", Builder { data: 160, ..built }.build()).plan().is_ok());
}

#[test]
fn one_error_for_each_lie() {
    let good = Builder::new;
    let huge = |kind| array(kind, u64::MAX / 2, &[]);
    for (says, file) in [
        ("version 1 of GGUF", Builder { version: 1, ..good() }),
        ("big-endian", Builder { version: 3u32.swap_bytes(), ..good() }),
        ("version 4", Builder { version: 4, ..good() }),
        ("claims 18446744073709551615 tensors", Builder { counts: Some((u64::MAX, 1)), ..good() }),
        ("claims 9223372036854775807 keys", Builder { counts: Some((2, u64::MAX / 2)), ..good() }),
        // One key less: the rest of the last is taken for tensors.
        ("tensor", Builder { counts: Some((2, 0)), ..good() }),
        ("name of tensor 2", Builder { counts: Some((4, 1)), data: 0, ..good() }),
        ("x is given twice", good().key(key("x", 0, &[1])).key(key("x", 0, &[1]))),
        ("x: 13 is no type", good().key(key("x", 13, &[1]))),
        ("x: 2 is neither true nor false", good().key(key("x", 7, &[2]))),
        ("x: 3 is neither true nor false", good().key(key("x", 9, &array(7, 2, &[1, 3])))),
        ("x: 18446744073709551615 bytes reach beyond", good().key(key("x", 8, &u64::MAX.to_le_bytes()))),
        ("x: 60000 bytes reach beyond", good().key(key("x", 8, &60_000u64.to_le_bytes()))),
        ("x: 9223372036854775807 bytes reach beyond", good().key(key("x", 9, &huge(0)))),
        ("x: 9223372036854775807 elements", good().key(key("x", 9, &huge(12)))),
        ("x: 9223372036854775807 elements", good().key(key("x", 9, &huge(8)))),
        ("x: 60000 texts reach beyond", good().key(key("x", 9, &array(8, 60_000, &[])))),
        ("x: lists of lists", good().key(key("x", 9, &array(9, 1, &array(0, 1, &[1]))))),
        ("name of key 1 has 1000000 bytes", good().key(1_000_000u64.to_le_bytes().to_vec())),
        ("name of key 1 is not UTF-8", good().key([&text([255, 254])[..], &[0, 0, 0, 0, 1]].concat())),
        ("general.alignment 0", good().key(key("general.alignment", 4, &[0; 4]))),
        ("general.alignment 24", good().key(key("general.alignment", 4, &24u32.to_le_bytes()))),
        ("general.alignment 2147483648", good().key(key("general.alignment", 4, &(1u32 << 31).to_le_bytes()))),
        ("general.alignment is not", good().key(key("general.alignment", 10, &32u64.to_le_bytes()))),
        ("tensor a is given twice", good().tensor(1, tensor("a", &[5], 0, 128))),
        ("name of tensor 1 has 256 bytes", good().tensor(1, tensor(&"x".repeat(256), &[5], 0, 128))),
        ("tensor b: 0 dimensions", good().tensor(1, tensor("b", &[], 0, 128))),
        ("tensor b: 5 dimensions", good().tensor(1, tensor("b", &[1; 5], 0, 128))),
        ("tensor b: shape [4294967296, 4294967296] overflows", good().tensor(1, tensor("b", &[1 << 32; 2], 0, 128))),
        ("overflows", good().tensor(1, tensor("b", &[u64::MAX / 64, 32], 8, 128))),
        ("tensor b: shape [5, 0] is empty", good().tensor(1, tensor("b", &[5, 0], 0, 128))),
        ("tensor b: rows of shape [2, 48] are not whole blocks of 32", good().tensor(1, tensor("b", &[2, 48], 8, 128))),
        ("blocks of 256", good().tensor(1, tensor("b", &[2, 288], 12, 128))),
        ("tensor b: type IQ2_XXS is not read", good().tensor(1, tensor("b", &[5], 16, 128))),
        ("tensor b: type 4 is not read", good().tensor(1, tensor("b", &[5], 4, 128))),
        ("tensor b: offset 18446744073709551615 is out of range", good().tensor(1, tensor("b", &[5], 0, u64::MAX))),
        ("tensor b: overlaps", good().tensor(1, tensor("b", &[5], 0, 96))),
        ("tensor b: offset 160 is not 128", good().tensor(1, tensor("b", &[5], 0, 160))),
        ("tensor b: offset 120 is not 128", good().tensor(1, tensor("b", &[5], 0, 120))),
        (
            "tensor a: offset 32 is not 0",
            good().tensor(0, tensor("a", &[3, 32], 8, 32)).tensor(1, tensor("b", &[5], 0, 160)),
        ),
        ("tensor b: ends at byte", Builder { data: 147, ..good() }),
    ] {
        let problem = file.problem();
        assert!(problem.contains(says), "{says}: {problem}");
    }
    let whole = Builder::new().build();
    for len in 0..whole.len() {
        let cut = Files::new("m.gguf", whole[..len].to_vec()).plan();
        assert!(matches!(cut, Err(Error::Checkpoint { .. })), "{len}: {cut:?}");
    }
    let other = Files::new("m.gguf", b"PK\x03\x04 and more than 24 bytes of it".to_vec()).plan();
    assert!(other.unwrap_err().to_string().contains("not a GGUF file"));
}

/// A header is read no further than it goes, and never further than its limit, whatever length a file has.
#[test]
fn little_is_read() {
    let sound = Builder::new();
    let header = sound.build().len() as u64 - 148;
    let mut source = Files::new("m.gguf", sound.build());
    source.size = Some(1 << 50);
    source.plan().unwrap();
    assert!(source.read.get() <= 4 * header, "{}", source.read.get());
    let mut source = Files::new("m.gguf", sound.key(key("x", 9, &array(8, 7_000, &[]))).build());
    source.size = Some(1 << 50);
    let error = source.plan().unwrap_err();
    assert!(matches!(&error, Error::Checkpoint { .. }), "{error:?}");
    assert!(source.read.get() <= super::header::MAX_HEADER);
}

#[test]
fn values_are_those_of_the_python_package_to_the_last_bit() {
    let (file, expected) = (fixture("types.gguf"), fixture("types.f32"));
    let (plan, _) = Files::new("types.gguf", file.clone()).plan().unwrap();
    let (mut expected, mut types) = (expected.as_slice(), 0);
    for tensor in &plan.tensors {
        let mut values = Vec::new();
        tensor.info.dtype.to_f32(&file[tensor.start as usize..tensor.end() as usize], &mut values);
        assert_eq!(values.len(), 1024, "{}", tensor.info.name);
        for (at, value) in values.iter().enumerate() {
            let (right, rest) = expected.split_first_chunk().unwrap();
            assert_eq!(value.to_bits(), u32::from_le_bytes(*right), "{} {at}: {value}", tensor.info.name);
            expected = rest;
        }
        types += 1;
    }
    assert!(types == 12 && expected.is_empty());
}

/// What is written is what the reference code writes, to the last bit. The writer is the command line's alone.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn blocks_are_those_of_the_python_package() {
    let file = fixture("types.gguf");
    let (plan, _) = Files::new("types.gguf", file.clone()).plan().unwrap();
    let bytes = |dtype: Dtype| {
        let tensor = plan.tensors.iter().find(|t| t.info.dtype == dtype).unwrap();
        &file[tensor.start as usize..tensor.end() as usize]
    };
    let mut values = Vec::new();
    Dtype::F32.to_f32(bytes(Dtype::F32), &mut values);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1]
    {
        let mut out = Vec::new();
        super::write::encode_values("t", dtype, &values, &mut out).unwrap();
        assert!(out == bytes(dtype), "{dtype:?}");
    }
    let mut zero = Vec::new();
    super::write::encode_values("t", Dtype::Q4_1, &[0.0; 32], &mut zero).unwrap();
    assert_eq!(zero, [0; 20]);
}

fn expected() -> Value {
    serde_json::from_slice(&fixture("expected.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_are_split_by_the_pre_tokenizer_of_their_name() {
    let mut seen = std::collections::BTreeMap::new();
    for case in expected()["strings"].as_array().unwrap() {
        let pre = case["pre"].as_str().unwrap();
        let tokenizer = seen.entry(pre.to_owned()).or_insert_with(|| {
            let (_, header) = Files::new("m.gguf", fixture(&format!("pre-{pre}.gguf"))).plan().unwrap();
            assert_eq!(header.small_file("tokenizer.model").unwrap(), None);
            Tokenizer::from_json(&header.small_file("tokenizer.json").unwrap().unwrap()).unwrap()
        });
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode_with_control(text).unwrap(), ids(&case["ids"]), "{pre}: {text:?}");
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids_as_text"]), "{pre}: {text:?}");
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn parts_of_a_split_file() {
    let names = super::parts("dir/m-00002-of-00003.gguf").unwrap();
    assert_eq!(names, ["dir/m-00001-of-00003.gguf", "dir/m-00002-of-00003.gguf", "dir/m-00003-of-00003.gguf"]);
    for other in [
        "m.gguf",
        "m-1-of-3.gguf",
        "m-00004-of-00003.gguf",
        "m-00000-of-00003.gguf",
        "m-00001-of-00003.bin",
        "m-0000١-of-00003.gguf",
    ] {
        assert_eq!(super::parts(other), None, "{other}");
    }
    let parts: Vec<_> =
        (1..=3).map(|n| format!("split-{n:05}-of-00003.gguf")).map(|name| (name.clone(), fixture(&name))).collect();
    let plan = |files: Vec<(String, Vec<u8>)>| Files { files, size: None, read: Cell::new(0) }.plan();
    let (all, header) = plan(parts.clone()).unwrap();
    assert_eq!(all.files.len(), 3);
    // The head lies in the last part.
    let config = header.small_file("config.json").unwrap().unwrap();
    assert!(!Config::parse(std::str::from_utf8(&config).unwrap()).unwrap().tied);
    // Any part may be named.
    let mut turned = parts.clone();
    turned.rotate_left(1);
    assert_eq!(plan(turned).unwrap().0, all);
    let error = |files| plan(files).unwrap_err().to_string();
    assert!(error(parts[..2].to_vec()).contains("split-00003-of-00003.gguf not found"));
    let renamed = |name: &str, part: usize| (name.to_owned(), parts[part].1.clone());
    assert!(error(vec![renamed("whole.gguf", 0)]).contains("is a part of 3"));
    let two = vec![renamed("m-00001-of-00002.gguf", 0), renamed("m-00002-of-00002.gguf", 1)];
    assert!(error(two).contains("3 parts, its name says 2"));
    let swapped = vec![parts[0].clone(), renamed(&parts[1].0, 2), renamed(&parts[2].0, 1)];
    assert!(error(swapped).contains("says that it is part 3, its name says 2"));
}

/// What a GGUF says that the engine does not compute is refused by its key.
#[test]
fn what_is_not_computed_is_refused_by_name() {
    let number = |name: &str, value: u32| key(&format!("llama.{name}"), 4, &value.to_le_bytes());
    let base = || {
        let mut file = Builder::new()
            .tensor(0, tensor("token_embd.weight", &[3, 32], 8, 0))
            .tensor(1, tensor("output_norm.weight", &[5], 0, 128));
        file.keys.extend([
            number("embedding_length", 32),
            number("block_count", 1),
            number("attention.head_count", 2),
            number("feed_forward_length", 32),
            key("llama.attention.layer_norm_rms_epsilon", 6, &1e-6f32.to_le_bytes()),
        ]);
        file
    };
    let config = |file: Builder| -> Result<Config> {
        let (_, header) = Files::new("m.gguf", file.build()).plan()?;
        Config::parse(std::str::from_utf8(&header.small_file("config.json")?.unwrap()).unwrap())
    };
    let sound = config(base()).unwrap();
    assert!(
        sound.vocab_size == 3
            && sound.head_dim == 16
            && sound.num_kv_heads == 2
            && sound.tied
            && sound.rms_norm_eps == 1e-6
    );
    for same in [
        number("rope.dimension_count", 16),
        number("attention.key_length", 16),
        number("expert_count", 0),
        key("llama.rope.scaling.type", 8, &text("none")),
        key("llama.rope.scaling.factor", 6, &1f32.to_le_bytes()),
        key("llama.attention.head_count_kv", 9, &array(4, 2, &[2u32.to_le_bytes(); 2].concat())),
    ] {
        assert_eq!(config(base().key(same)).unwrap(), sound);
    }
    for (says, other) in [
        ("llama.rope.dimension_count", number("rope.dimension_count", 8)),
        ("llama.attention.value_length", number("attention.value_length", 8)),
        ("llama.expert_count", number("expert_count", 4)),
        ("llama.attention.sliding_window", number("attention.sliding_window", 512)),
        ("llama.rope.scaling: yarn", key("llama.rope.scaling.type", 8, &text("yarn"))),
        ("llama.rope.scaling: linear", key("llama.rope.scaling.factor", 6, &4f32.to_le_bytes())),
        (
            "head_count_kv: has not the same",
            key("llama.attention.head_count_kv", 9, &array(4, 2, &[2, 0, 0, 0, 1, 0, 0, 0])),
        ),
    ] {
        let error = config(base().key(other)).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(says), "{says}: {error}");
    }
    let mut other = base();
    other.keys[0] = key("general.architecture", 8, &text("qwen2"));
    assert!(config(other).unwrap_err().to_string().contains("\"qwen2\" is not llama"));
    let rope = base().tensor(1, tensor("rope_freqs.weight", &[5], 0, 128));
    assert!(config(rope).unwrap_err().to_string().contains("rope_freqs.weight"));
    let ill_typed = base().key(key("llama.rope.freq_base", 8, &text("10000")));
    assert!(matches!(config(ill_typed), Err(Error::Checkpoint { .. })));
}

/// Everything that is made of a header.
fn everything(bytes: Vec<u8>) -> Result<Plan> {
    let (plan, header) = Files::new("m.gguf", bytes).plan()?;
    let file = |name: &str| header.small_file(name);
    if let Some(config) = file("config.json")? {
        Config::parse(std::str::from_utf8(&config).unwrap())?;
    }
    if let Some(json) = file("tokenizer.json")? {
        Tokenizer::from_json(&json)?;
    }
    if let Some(model) = file("tokenizer.model")? {
        Tokenizer::from_sentencepiece(&model)?;
    }
    for name in ["tokenizer_config.json", "generation_config.json", "README.md"] {
        file(name)?;
    }
    Ok(plan)
}

#[test]
fn undamaged() {
    for name in ["narrow-q4_k_m.gguf", "pre-llama-bpe.gguf"] {
        let (plan, header) = Files::new(name, fixture(name)).plan().unwrap();
        assert_eq!(plan.tensors.is_empty(), name.starts_with("pre"));
        Tokenizer::from_json(&header.small_file("tokenizer.json").unwrap().unwrap()).unwrap();
    }
    everything(fixture("narrow-q4_k_m.gguf")).unwrap();
}

fn hostile(sound: &str, damage: &[(prop::sample::Index, u8, u8)], header: usize) {
    let mut bytes = fixture(sound);
    for (at, byte, kind) in damage {
        let at = at.index(header.min(bytes.len()));
        match kind {
            0..=4 => bytes[at] = *byte,
            5 => bytes[at] ^= 1 << (byte % 8),
            6 => bytes.insert(at, *byte),
            7 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => bytes.truncate(at.max(1)),
        }
    }
    let size = bytes.len() as u64;
    match everything(bytes) {
        Ok(plan) => {
            let mut end = 0;
            for tensor in &plan.tensors {
                assert!(tensor.start >= end && tensor.end() <= size, "{tensor:?}");
                end = tensor.end();
            }
        }
        Err(error) => assert!(
            matches!(
                error,
                Error::Checkpoint { .. }
                    | Error::Tensor { .. }
                    | Error::Unsupported { .. }
                    | Error::Config { .. }
                    | Error::Tokenizer { .. }
                    | Error::FileNotFound { .. }
            ),
            "{error:?}"
        ),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_headers(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..9), 1..6)) {
        // The first 600 bytes hold most keys; a vocabulary and the tensors follow.
        hostile("narrow-q4_k_m.gguf", &damage, 600);
        hostile("narrow-q4_k_m.gguf", &damage, 13_000);
        hostile("split-00002-of-00003.gguf", &damage, 1200);
    }

    #[test]
    fn damaged_vocabularies(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..9), 1..6)) {
        hostile("pre-llama-bpe.gguf", &damage, 7200);
    }

    #[test]
    fn noise(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let after_magic = [&b"GGUF\x03\0\0\0"[..], &bytes].concat();
        for bytes in [bytes, after_magic] {
            let refused = matches!(everything(bytes), Err(Error::Checkpoint { .. }));
            prop_assert!(refused, "noise");
        }
    }
}

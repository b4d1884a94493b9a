//! The engine against PyTorch (`tests/reference/make_golden.py`): float32 arithmetic on the same f16 weights, no KV cache.
//!
//! Logits at the first, a middle and the last position of a 200-token prompt, prefilled at once, in chunks, and token by
//! token; then 32 greedy ids. Layer-sharing schedules, grouped-query ratios, widths that are not multiples of 128, an untied head,
//! rotary embeddings stretched in three ways.

use half::f16;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::backend::cpu::naive::Naive;
use mobilellm_web::backend::sampler::Sampling;
use mobilellm_web::backend::{Backend, Input, Precision};
use mobilellm_web::config::Config;
use mobilellm_web::model::{Loader, Model};
use mobilellm_web::session::{FinishReason, GenerateOptions, Generation, Session, Step};
use mobilellm_web::synthetic;
use mobilellm_web::weights::TensorSink;
use pollster::block_on;
use std::collections::BTreeMap;

#[derive(serde::Deserialize)]
struct Golden {
    config: serde_json::Value,
    seed: u64,
    prompt: Vec<u32>,
    /// Logits (vocab) at these positions.
    logits: BTreeMap<String, Vec<f32>>,
    /// The five best (id, logit) at every tenth position.
    top5: BTreeMap<String, Vec<(u32, f32)>>,
    greedy: Vec<u32>,
}

fn goldens() -> Vec<(String, Golden)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden");
    let mut list: Vec<(String, Golden)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let golden = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (path.file_stem().unwrap().to_string_lossy().into_owned(), golden)
        })
        .collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(list.len(), 15, "every case is checked");
    list
}

/// A model with synthetic weights; its bytes arrive in pieces of an awkward size.
fn model<B: Backend>(golden: &Golden, make: impl Fn(&Config) -> B) -> Model<B> {
    let config = Config::parse(&golden.config.to_string()).unwrap();
    let tensors = synthetic::tensors(&config);
    let backend = make(&config);
    let mut loader = Loader::new(config, backend);
    loader.begin(&tensors).unwrap();
    for (index, info) in tensors.iter().enumerate() {
        let values: Vec<f16> = synthetic::tensor(&info.name, &info.shape, golden.seed).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for (piece, chunk) in bytes.chunks(99_991).enumerate() {
            loader.write(index, piece as u64 * 99_991, &chunk.to_vec()).unwrap();
        }
    }
    loader.finish().unwrap()
}

/// All logits of the prompt, run in the largest passes up to position `from` and then in passes of at most `rows`.
fn logits<B: Backend>(model: &mut Model<B>, prompt: &[u32], from: usize, rows: usize) -> Vec<Vec<f32>> {
    let vocab = model.config().vocab_size;
    let mut cache = model.new_cache(prompt.len()).unwrap();
    let mut all = Vec::new();
    let (first, rest) = prompt.split_at(from);
    let largest = model.backend().max_rows();
    for chunk in first.chunks(largest).chain(rest.chunks(rows.min(largest))) {
        model.forward(&mut cache, Input::Tokens(chunk), all.len(), 0..chunk.len()).unwrap();
        let flat = block_on(model.backend().read_logits()).unwrap();
        all.extend(flat.chunks_exact(vocab).map(<[f32]>::to_vec));
    }
    all
}

/// `single`: where the run begins that goes token by token.
fn check<B: Backend>(make: impl Fn(&Config) -> B, single: usize, tolerance: f32) {
    for (name, golden) in goldens() {
        let mut model = model(&golden, &make);
        for (from, rows) in [(0, usize::MAX), (0, 60), (single, 1)] {
            let got = logits(&mut model, &golden.prompt, from, rows);
            let mut worst = 0.0f32;
            for (position, want) in &golden.logits {
                let got = &got[position.parse::<usize>().unwrap()];
                assert_eq!(got.len(), want.len());
                worst = got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(worst, f32::max);
            }
            for (position, want) in &golden.top5 {
                let got = &got[position.parse::<usize>().unwrap()];
                worst = want.iter().map(|(id, w)| (got[*id as usize] - w).abs()).fold(worst, f32::max);
            }
            assert!(worst <= tolerance, "{name}, passes of {rows}: logits differ by {worst}");
        }
        assert_eq!(greedy(&mut model, &golden), golden.greedy, "{name}");
    }
}

fn greedy<B: Backend>(model: &mut Model<B>, golden: &Golden) -> Vec<u32> {
    let mut session = Session::new(model, 256).unwrap();
    let options = GenerateOptions {
        sampling: Sampling::default(),
        max_tokens: Some(golden.greedy.len()),
        stop_ids: Vec::new(),
        keep_logits: false,
    };
    let mut generation = Generation::begin(model, &mut session, &golden.prompt, &options).unwrap();
    loop {
        if let Step::Done(reason) = block_on(generation.next(model, &mut session)).unwrap() {
            assert_eq!(reason, FinishReason::Length);
            return generation.answer().to_vec();
        }
    }
}

#[test]
fn naive() {
    check(Naive::new, 0, 2e-3);
}

#[test]
fn cpu() {
    check(|config| Cpu::new(config, Precision::F16), 0, 2e-3);
}

#[test]
fn cpu_on_three_threads() {
    check(|config| Cpu::with_threads(config, Precision::F16, 3), 0, 2e-3);
}

/// Values are held as f16. Token by token for the last 60: single steps take most of the time where the GPU is a program.
#[cfg(feature = "gpu")]
#[test]
fn gpu() {
    use mobilellm_web::backend::gpu::{Device, DeviceOptions, Gpu};
    let device = block_on(Device::open(&DeviceOptions { no_f16: true, ..DeviceOptions::default() })).unwrap();
    check(|config| Gpu::new(&device, config, Precision::F16).unwrap(), 140, 1e-2);
}

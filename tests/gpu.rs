//! The GPU backend as a whole: forced decoding of the demo model against the CPU, the distribution of the sampler, memory, pace.

#![cfg(feature = "gpu")]

use half::f16;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::backend::gpu::{Device, DeviceOptions, Gpu};
use mobilellm_web::backend::sampler::{Sampler, Sampling, argmax};
use mobilellm_web::backend::{Backend, Input, Packing, Precision, Role};
use mobilellm_web::config::Config;
use mobilellm_web::engine;
use mobilellm_web::model::{Loader, Model};
use mobilellm_web::session::{GenerateOptions, Generation, Session, Step};
use mobilellm_web::synthetic;
use mobilellm_web::weights::checkpoint::{Checkpoint, Options};
use mobilellm_web::weights::source::{DirSource, NativeHost, NoStore};
use pollster::block_on;

fn device() -> Device {
    block_on(Device::open(&DeviceOptions::default())).unwrap()
}

fn demo<B: Backend>(make: impl Fn(&Config) -> B) -> Model<B> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/www/models/demo");
    block_on(async {
        let source = DirSource::new(folder);
        let checkpoint =
            Checkpoint::open(NativeHost::default(), source, NoStore::default(), Options::default(), |_| ()).await?;
        let config = engine::config(&checkpoint).await?;
        let backend = make(&config);
        let mut loader = Loader::new(config, backend);
        checkpoint.load(&mut loader).await?;
        loader.finish()
    })
    .unwrap()
}

/// Greedy ids of each step, all given the same ids.
fn forced<B: Backend>(mut model: Model<B>, ids: &[u32]) -> Vec<u32> {
    let mut cache = model.new_cache(ids.len()).unwrap();
    let step = |(position, id): (usize, &u32)| {
        model.forward(&mut cache, Input::Tokens(&[*id]), position, 0..1).unwrap();
        argmax(&block_on(model.backend().read_logits()).unwrap())
    };
    ids.iter().enumerate().map(step).collect()
}

/// 256 steps of recorded dialogues, one row at a time: at least 99.5% of the most probable ids are those of the CPU.
#[test]
fn forced_decoding_of_the_demo_model_agrees_with_the_cpu() {
    let reference = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo/reference.json");
    let reference: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(reference).unwrap()).unwrap();
    let ids = |prompt: &serde_json::Value| {
        let list = |name: &str| prompt[name].as_array().unwrap().clone();
        [list("token_ids"), list("greedy_ids")]
            .concat()
            .iter()
            .map(|id| id.as_u64().unwrap() as u32)
            .collect::<Vec<_>>()
    };
    let mut all: Vec<u32> = reference["prompts"].as_array().unwrap().iter().flat_map(ids).collect();
    all.truncate(256);
    assert_eq!(all.len(), 256);
    for precision in [Precision::F16, Precision::Q8] {
        let expected = forced(demo(|config| Cpu::new(config, precision)), &all);
        let device = device();
        let got = forced(demo(|config| Gpu::new(&device, config, precision).unwrap()), &all);
        let same = expected.iter().zip(&got).filter(|(e, g)| e == g).count();
        println!("{precision:?}: {same} of 256");
        // The CPU rounds activations to 16 bits where weights have 8: near ties may differ.
        assert!(same >= if precision == Precision::F16 { 255 } else { 252 }, "{precision:?}: {same} of 256");
    }
}

/// One row of logits of a bigram model of `vocab` ids; what is returned must live until they are made.
fn bigram(backend: &mut Gpu, vocab: usize) -> impl Sized + use<> {
    let noise = |seed: usize, i: usize| ((i * 7919 + seed * 104_729) % 10_007) as f32 / 5003.5 - 1.0;
    let mut make = |role, scale: f32, seed| {
        let mut matrix = backend.new_matrix(role, vocab, 32).unwrap();
        let values = (0..vocab * 32).flat_map(|i| f16::from_f32(scale * noise(seed, i * i + i)).to_le_bytes());
        let bytes: Vec<u8> = values.collect();
        backend.write_rows(&mut matrix, 0, Packing::F16, &bytes, 0..bytes.len()).unwrap();
        matrix
    };
    let (table, head) = (make(Role::Embedding, 1.0, 1), make(Role::Head, 0.3, 2));
    let norm = backend.new_gain(&[1.0; 32]).unwrap();
    backend.embed(&table, Input::Tokens(&[3]), 0).unwrap();
    backend.logits(&norm, &head, 0..1).unwrap();
    backend.submit().unwrap();
    (table, head, norm)
}

/// Draws on the GPU have the distribution of the CPU sampler: chi-square, at one in a thousand.
#[test]
fn draws_have_the_distribution_of_the_cpu_sampler() {
    const DRAWS: usize = 3000;
    let vocab = 64;
    let config = Config { vocab_size: vocab, ..small() };
    let base = Sampling { temperature: 1.0, ..Sampling::default() };
    let penalties = Sampling { repetition_penalty: 1.4, presence_penalty: 0.5, frequency_penalty: 0.3, ..base.clone() };
    let all = [
        base.clone(),
        Sampling { temperature: 0.6, top_k: 9, ..base.clone() },
        Sampling { temperature: 1.5, top_p: 0.8, ..base.clone() },
        Sampling { min_p: 0.2, ..base.clone() },
        penalties.clone(),
        Sampling { top_k: 30, top_p: 0.9, min_p: 0.02, ..penalties },
    ];
    let (prompt, answer) = ([1, 5, 9], [5, 5, 12]);
    let device = device();
    let mut backend = Gpu::new(&device, &config, Precision::F16).unwrap();
    let mut random = fastrand::Rng::with_seed(4);
    for sampling in &all {
        let _model = bigram(&mut backend, vocab);
        let logits = block_on(backend.read_logits()).unwrap();
        // The CPU's distribution, from uniforms that lie evenly.
        let mut expected = vec![0.0; vocab];
        for i in 0..100_000 {
            let id = Sampler::new(sampling, vocab, &prompt, &answer).choose(&logits, (i as f32 + 0.5) / 1e5);
            expected[id as usize] += DRAWS as f64 / 1e5;
        }
        let mut found = vec![0.0; vocab];
        for _ in 0..DRAWS {
            // penalties look back on what was drawn: forget it
            backend.begin_sampling(sampling, &prompt, &answer).unwrap();
            let ticket = backend.choose(random.f32()).unwrap();
            found[block_on(backend.chosen(ticket)).unwrap() as usize] += 1.0;
        }
        // Ids too rare for the statistic count as one.
        let (mut chi, mut bins, mut rare) = (0.0, 0, (0.0, 0.0));
        for (e, f) in expected.iter().zip(&found) {
            if *e >= 5.0 {
                chi += (f - e) * (f - e) / e;
                bins += 1;
            } else {
                rare = (rare.0 + e, rare.1 + f);
            }
        }
        if rare.0 >= 5.0 {
            chi += (rare.1 - rare.0) * (rare.1 - rare.0) / rare.0;
            bins += 1;
        } else {
            assert!(rare.1 <= rare.0 + 5.0, "{sampling:?}: {} draws of ids that are cut off", rare.1);
        }
        // Wilson & Hilferty 1931: the quantile of one in a thousand
        let freedom = (bins - 1) as f64;
        let limit = freedom * (1.0 - 2.0 / (9.0 * freedom) + 3.09 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
        println!("{sampling:?}: chi-square {chi:.1} of {bins} bins, limit {limit:.1}");
        assert!(bins > 3 && chi < limit, "{sampling:?}: chi-square {chi:.1}, limit {limit:.1}");
    }
}

fn small() -> Config {
    Config::parse(
        r#"{ "model_type": "mobilellm", "vocab_size": 500, "hidden_size": 32, "intermediate_size": 96,
            "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000, "share_embedding": true }"#,
    )
    .unwrap()
}

fn small_model(device: &Device) -> Model<Gpu> {
    let config = small();
    let mut loader = Loader::new(config.clone(), Gpu::new(device, &config, Precision::F16).unwrap());
    synthetic::load(&config, 3, &mut loader).unwrap();
    loader.finish().unwrap()
}

fn answer(model: &mut Model<Gpu>, tokens: usize) -> Vec<u32> {
    let prompt: Vec<u32> = (0..tokens).map(|i| (i * 31 % 500) as u32).collect();
    let mut session = Session::new(model, 1300).unwrap();
    let options = GenerateOptions {
        sampling: Sampling::default(),
        max_tokens: Some(12),
        stop_ids: Vec::new(),
        keep_logits: false,
    };
    let mut generation = Generation::begin(model, &mut session, &prompt, &options).unwrap();
    while !matches!(block_on(generation.next(model, &mut session)).unwrap(), Step::Done(_)) {}
    generation.answer().to_vec()
}

/// A budget that nothing keeps cuts passes into one submission a layer; the answer is the same.
#[test]
fn a_small_budget_makes_more_submissions_of_the_same_answer() {
    let device = device();
    let mut model = small_model(&device);
    model.backend().set_budget(1e9);
    let whole = answer(&mut model, 600);
    let before = model.backend().submissions();
    assert_eq!(answer(&mut model, 600), whole);
    let few = model.backend().submissions() - before;
    model.backend().set_budget(1e-9);
    let before = model.backend().submissions();
    assert_eq!(answer(&mut model, 600), whole);
    let many = model.backend().submissions() - before;
    assert!(many > 3 * few, "{many} submissions against {few}");
}

/// Everything that a model and its sessions held on the device is freed with them.
#[test]
fn fifty_models_leave_no_memory_behind() {
    let device = device();
    let mut held = 0;
    for _ in 0..50 {
        let mut model = small_model(&device);
        answer(&mut model, 6);
        held = device.allocated();
        assert!(held > 500_000);
    }
    assert_eq!(device.allocated(), 0, "of {held} bytes");
}

/// A context that no binding holds is refused with its size.
#[test]
fn what_cannot_be_held_is_refused_with_numbers() {
    let device = device();
    let mut model = small_model(&device);
    let error = Session::new(&mut model, 1 << 30).err().unwrap();
    assert_eq!(error.code(), "gpu-out-of-memory");
    assert!(error.to_string().contains("bytes"), "{error}");
}

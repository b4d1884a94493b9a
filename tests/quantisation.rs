//! What fewer bits cost: the mean KL divergence from f16 weights of the packed weights computed with in f32 (the plain loops),
//! and of the engine, which rounds activations, keys and values besides. One token at a time, as answers are made.
//!
//! Of the demo model, or of another: MODEL=folder TOKENS=ids.json COUNT=300 cargo test --release --test quantisation -- --nocapture

use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::backend::cpu::naive::Naive;
use mobilellm_web::backend::{Backend, Input, Precision};
use mobilellm_web::config::Config;
use mobilellm_web::model::Loader;
use mobilellm_web::weights::source::{DirSource, NativeHost};
use mobilellm_web::weights::{Checkpoint, NoStore};
use pollster::block_on;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn tokens() -> Vec<u32> {
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap().try_into().unwrap()).collect()
    };
    let read = |path: &str| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    if let Ok(path) = std::env::var("TOKENS") {
        return ids(&read(&path));
    }
    let reference = read(&format!("{ROOT}/tests/fixtures/demo/reference.json"));
    let cases = reference["prompts"].as_array().unwrap().iter();
    cases.flat_map(|case| [ids(&case["token_ids"]), ids(&case["greedy_ids"])].concat()).collect()
}

/// Log-probabilities after each token.
fn run<B: Backend>(tokens: &[u32], make: impl FnOnce(&Config) -> B) -> Vec<Vec<f32>> {
    let folder = std::env::var("MODEL").unwrap_or(format!("{ROOT}/www/models/demo"));
    let source = DirSource::new(folder);
    let opened = Checkpoint::open(NativeHost::default(), source, NoStore::default(), Default::default(), |_| ());
    let checkpoint = block_on(opened).unwrap();
    let config = block_on(mobilellm_web::engine::config(&checkpoint)).unwrap();
    let backend = make(&config);
    let mut loader = Loader::new(config, backend);
    block_on(checkpoint.load(&mut loader)).unwrap();
    let mut model = loader.finish().unwrap();
    let mut cache = model.new_cache(tokens.len()).unwrap();
    let mut all = Vec::new();
    for (position, token) in tokens.iter().enumerate() {
        model.forward(&mut cache, Input::Tokens(&[*token]), position, 0..1).unwrap();
        all.push(mobilellm_web::backend::sampler::log_softmax(&block_on(model.backend().read_logits()).unwrap()));
    }
    all
}

fn kl(want: &[Vec<f32>], got: &[Vec<f32>]) -> f64 {
    let of = |(p, q): (&f32, &f32)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q));
    let sum: f64 = want.iter().zip(got).map(|(p, q)| p.iter().zip(q).map(of).sum::<f64>()).sum();
    sum / want.len() as f64
}

#[test]
fn the_engine_adds_next_to_nothing_to_the_rounding_of_weights() {
    let count = std::env::var("COUNT").map_or(120, |count| count.parse().unwrap());
    let tokens: Vec<u32> = tokens().into_iter().take(count).collect();
    let f16 = run(&tokens, Naive::new);
    println!("{} tokens\n| dtype | format in f32 | engine | ratio |\n| --- | --- | --- | --- |", tokens.len());
    for precision in [Precision::Q8, Precision::Q4] {
        let format = kl(&f16, &run(&tokens, |config| Naive::with_precision(config, precision)));
        let engine = kl(&f16, &run(&tokens, |config| Cpu::new(config, precision)));
        println!("| {} | {format:.3e} | {engine:.3e} | {:.3} |", precision.name(), engine / format);
        assert!(engine <= 1.05 * format + 1e-7, "{precision:?}: {engine:.3e} for {format:.3e}");
    }
}

//! Threads that part and meet again: whoever computes, the results are the same bits.

use mobilellm_web::backend::cpu::{Cpu, Rank, Shard, Threads};
use mobilellm_web::backend::{Backend, Input, Precision};
use mobilellm_web::config::Config;
use mobilellm_web::model::{Loader, Model};
use mobilellm_web::synthetic;
use pollster::block_on;

/// 9 heads over 3: with two threads they share a key/value head, with three they do not.
const CONFIG: &str = r#"{"model_type": "mobilellm", "vocab_size": 301, "hidden_size": 96, "intermediate_size": 224, "num_hidden_layers": 2,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "max_position_embeddings": 512, "layer_sharing": true, "share_embedding": true}"#;

fn model(precision: Precision, threads: usize, alone: bool) -> Model<Cpu> {
    let config = Config::parse(CONFIG).unwrap();
    let mut cpu = Cpu::with_threads(&config, precision, threads);
    if alone {
        cpu.part().unwrap();
    }
    let mut loader = Loader::new(config.clone(), cpu);
    synthetic::load(&config, 7, &mut loader).unwrap();
    loader.finish().unwrap()
}

enum Do {
    /// Tokens at a position, the cache's end or before it; caches by number.
    Pass(usize, usize, usize),
    /// A copy of the first positions of a cache, as the next number.
    Fork(usize, usize),
    Part,
    Join,
}

/// All logits of the passes, one after the other.
fn run(model: &mut Model<Cpu>, script: &[Do]) -> Vec<f32> {
    let mut caches = vec![model.new_cache(400).unwrap()];
    let mut logits = Vec::new();
    for step in script {
        match *step {
            Do::Pass(cache, start, count) => {
                let tokens: Vec<u32> = (start..start + count).map(|i| (i * 37 + cache) as u32 % 301).collect();
                model.forward(&mut caches[cache], Input::Tokens(&tokens), start, 0..count).unwrap();
                logits.extend(block_on(model.backend().read_logits()).unwrap());
            }
            Do::Fork(cache, len) => {
                let fork = model.backend().fork(&caches[cache], len).unwrap();
                caches.push(fork);
            }
            Do::Part => model.backend().part().unwrap(),
            Do::Join => model.backend().join().unwrap(),
        }
    }
    logits
}

/// Passes before and after each change, chunks that are crossed, a fork of what only one side knows, a way back.
fn script() -> Vec<Do> {
    use Do::{Fork, Join, Part, Pass};
    vec![
        Pass(0, 0, 40),
        Pass(0, 40, 1),
        Part,
        Pass(0, 41, 1),
        Pass(0, 42, 20),
        Fork(0, 60),
        Join,
        Pass(0, 62, 1),
        Pass(1, 60, 3),
        Part,
        Pass(1, 63, 1),
        Pass(0, 30, 5),
        Join,
        Pass(0, 35, 64),
        Pass(1, 64, 1),
        Fork(1, 50),
        Part,
        Pass(2, 50, 2),
        Join,
        Pass(2, 52, 1),
        Part,
        Join,
        Pass(0, 99, 1),
    ]
}

#[test]
fn results_do_not_depend_on_who_computes() {
    for precision in [Precision::F16, Precision::Q8, Precision::Q4] {
        let want = run(&mut model(precision, 1, false), &script());
        assert!(want.iter().all(|logit| logit.is_finite()) && want.iter().any(|logit| *logit != want[0]));
        for threads in [2, 3, 11] {
            for alone in [false, true] {
                let got = run(&mut model(precision, threads, alone), &script());
                assert_eq!(got, want, "{precision:?}, {threads} threads, alone at first: {alone}");
            }
        }
    }
}

#[test]
fn a_leader_that_is_alone_says_so() {
    let mut model = model(Precision::F16, 2, false);
    // The clock may have parted them before: both ways are asked for.
    model.backend().part().unwrap();
    assert_eq!(model.backend().threads(), 1);
    model.backend().join().unwrap();
    assert_eq!(model.backend().threads(), 2);
}

/// A thread that ends while the leader is alone is not missed.
#[test]
fn a_leader_that_is_alone_goes_on_without_a_thread_that_ended() {
    let config = Config::parse(CONFIG).unwrap();
    let mut team = Threads::team(2).into_iter();
    let (leader, follower) = (team.next().unwrap(), team.next().unwrap());
    let rank = Rank::new(&config, Precision::F16, Shard { rank: 1, count: 2 }, Box::new(follower));
    let mut cpu = Cpu::lead(&config, Precision::F16, Shard { rank: 0, count: 2 }, Box::new(leader));
    drop(rank);
    assert!(cpu.part().is_ok());
    let mut loader = Loader::new(config.clone(), cpu);
    synthetic::load(&config, 7, &mut loader).unwrap();
    let mut model = loader.finish().unwrap();
    let script = || [Do::Pass(0, 0, 5), Do::Join, Do::Pass(0, 5, 1)];
    assert_eq!(run(&mut model, &script()), run(&mut self::model(Precision::F16, 1, false), &script()));
    assert_eq!(model.backend().threads(), 1);
}

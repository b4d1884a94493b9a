//! The demo model end to end, natively: folder -> engine -> text, against PyTorch's greedy answers.

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::cpu::Cpu;
use mobilellm_web::engine::{DeviceChoice, DeviceKind, Engine, Event, Info, OpenOptions, Options};
use mobilellm_web::session::FinishReason;
use mobilellm_web::text::ChatInput;
use mobilellm_web::weights::source::{DirSource, NativeHost};
use mobilellm_web::weights::{Checkpoint, NoStore};
use pollster::block_on;
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// `<|call|>` and `<|end|>` of the demo model.
const CALL: u32 = 6;
const END: u32 = 8;

type Folder = Checkpoint<NativeHost, DirSource, NoStore<Vec<u8>>>;

fn checkpoint() -> Folder {
    let source = DirSource::new(format!("{ROOT}/www/models/demo"));
    let opened = Checkpoint::open(NativeHost::default(), source, NoStore::default(), Default::default(), |_| ());
    block_on(opened).unwrap()
}

fn open(device: DeviceChoice, threads: usize) -> (Engine, Info) {
    open_with(device, Precision::F16, threads)
}

fn open_with(device: DeviceChoice, precision: Precision, threads: usize) -> (Engine, Info) {
    let options = OpenOptions { device, ..OpenOptions::default() };
    let cpu = async |config: &_| Ok(Cpu::with_threads(config, precision, threads));
    block_on(Engine::open(&checkpoint(), &options, cpu)).unwrap()
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{ROOT}/tests/fixtures/demo/{name}")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A greedy answer of at most 160 tokens: (text with control tokens, ids).
fn answer(engine: &mut Engine, session: u32, prompt: &[u32]) -> (String, Vec<u32>) {
    let options = Options { max_tokens: Some(160), special_tokens: true, ..Options::default() };
    engine.begin(session, prompt, &options).unwrap();
    let (mut text, mut chosen) = (String::new(), Vec::new());
    loop {
        match block_on(engine.next()).unwrap() {
            Event::Prefill { .. } => {}
            Event::Token { text: more, token_id, .. } => {
                text.push_str(&more);
                chosen.push(token_id);
            }
            Event::Done { text: more, finish_reason, usage, .. } => {
                assert_eq!(finish_reason, FinishReason::Stop);
                assert_eq!((usage.prompt_tokens, usage.completion_tokens), (prompt.len(), chosen.len()));
                return (text + &more, chosen);
            }
        }
    }
}

fn encode(engine: &Engine, messages: &[Value]) -> Vec<u32> {
    let chat = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    engine.text().encode_chat(&chat).unwrap()
}

/// The first `count` of the 20 reference prompts: prompt ids, answer ids, answer text.
fn reference_answers(mut engine: Engine, count: usize, tolerance: f32) {
    let reference: Value = serde_json::from_str(&fixture("reference.json")).unwrap();
    let prompts = reference["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 20);
    let session = engine.open_session(1024).unwrap();
    for case in &prompts[..count] {
        let prompt = encode(&engine, case["turns"].as_array().unwrap());
        assert_eq!(prompt, ids(&case["token_ids"]));
        let (text, chosen) = answer(&mut engine, session, &prompt);
        assert_eq!(chosen, ids(&case["greedy_ids"]), "{}", case["text"]);
        assert_eq!(text + "<|end|>", case["greedy_text"].as_str().unwrap());
        let logits = block_on(engine.last_logits(&prompt)).unwrap();
        for pair in case["last_position_top10"].as_array().unwrap() {
            let (id, want) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap() as f32);
            assert!((logits[id] - want).abs() <= tolerance, "logit of {id}: {} for {want}", logits[id]);
        }
    }
}

#[test]
fn reference_answers_on_the_cpu() {
    for threads in [1, 2] {
        let (engine, info) = open(DeviceChoice::Cpu, threads);
        assert_eq!((info.device, info.executed_layers, info.parameters), (DeviceKind::Cpu, 16, 13_769_088));
        reference_answers(engine, 20, 2e-3);
    }
}

/// All 20 on WebGPU: `npm run evaluate`, in Chromium.
#[cfg(feature = "gpu")]
#[test]
fn reference_answers_on_the_gpu() {
    let (engine, info) = open(DeviceChoice::WebGpu, 1);
    assert_eq!(info.device, DeviceKind::WebGpu);
    reference_answers(engine, 5, 1e-2);
}

/// A device lost in mid-answer (and one lost while nothing runs): the model is loaded again, on the GPU or on the CPU, and the
/// text is that of an undisturbed run.
#[cfg(feature = "gpu")]
#[test]
fn lost_devices() {
    let messages = [serde_json::json!({"role": "user", "content": "Help me set an alarm at 7:30AM"})];
    let (mut engine, _) = open(DeviceChoice::WebGpu, 1);
    let prompt = encode(&engine, &messages);
    let session = engine.open_session(512).unwrap();
    let (_, undisturbed) = answer(&mut engine, session, &prompt);
    assert!(undisturbed.len() > 8, "{undisturbed:?}");
    for (lost_after, next) in [(0, DeviceChoice::WebGpu), (1, DeviceChoice::WebGpu), (6, DeviceChoice::Cpu)] {
        let (mut engine, _) = open(DeviceChoice::WebGpu, 1);
        let session = engine.open_session(512).unwrap();
        engine.begin(session, &prompt, &Options::default()).unwrap();
        let (mut chosen, mut lost) = (Vec::new(), false);
        loop {
            if chosen.len() == lost_after && !lost {
                engine.lose_device();
                lost = true;
            }
            match block_on(engine.next()) {
                Ok(Event::Prefill { .. }) => {}
                Ok(Event::Token { token_id, .. }) => chosen.push(token_id),
                Ok(Event::Done { usage, .. }) => break assert_eq!(usage.completion_tokens, chosen.len()),
                Err(error) => {
                    assert_eq!(error.code(), "device-lost", "{error}");
                    let options = OpenOptions { device: next, ..OpenOptions::default() };
                    let cpu = async |config: &_| Ok(Cpu::new(config, Precision::F16));
                    block_on(engine.recover(&checkpoint(), &options, cpu)).unwrap();
                }
            }
        }
        assert_eq!(chosen, undisturbed, "lost after {lost_after} tokens");
        engine.lose_device();
        if next == DeviceChoice::WebGpu {
            assert_eq!(block_on(engine.last_logits(&prompt)).unwrap_err().code(), "device-lost");
        }
    }
}

/// The calls of an answer: each `<|call|>` begins one; `None` if one is not JSON.
fn calls(engine: &Engine, chosen: &[u32]) -> Option<Vec<Value>> {
    let end = chosen.iter().position(|id| *id == END).unwrap_or(chosen.len());
    let parts = chosen[..end].split(|id| *id == CALL).skip(1);
    parts.map(|call| serde_json::from_str(&engine.text().tokenizer().decode(call, false)).ok()).collect()
}

/// Percent of equal ids, and of EM_intent and EM_structure, here and as PyTorch's answers scored, over the first `count`
/// dialogues (definitions: `tests/reference/README.md`). 8 bits: `tests/evaluate/dialogues.mjs`.
fn api_calls(count: usize) {
    let (mut engine, _) = open(DeviceChoice::Cpu, 2);
    let session = engine.open_session(1024).unwrap();
    let (calls_file, expected_file) = (fixture("test-api-calls.jsonl"), fixture("expected-greedy.jsonl"));
    let (mut same, mut intent, mut structure, mut intent_reference, mut structure_reference) = (0, 0, 0, 0, 0);
    for (case, expected) in calls_file.lines().zip(expected_file.lines()).take(count) {
        let case: Value = serde_json::from_str(case).unwrap();
        let expected: Value = serde_json::from_str(expected).unwrap();
        assert_eq!(case["id"], expected["id"]);
        let prompt = encode(&engine, case["messages"].as_array().unwrap());
        assert_eq!(prompt.len() as u64, expected["prompt_tokens"].as_u64().unwrap());
        let (_, chosen) = answer(&mut engine, session, &prompt);
        same += usize::from(chosen == ids(&expected["greedy_ids"]));
        let got = calls(&engine, &chosen);
        let want = case["expected"]["tool_calls"].as_array().cloned().unwrap_or_default();
        let names = |list: &[Value]| list.iter().map(|call| call["name"].clone()).collect::<Vec<_>>();
        intent += usize::from(got.as_ref().is_some_and(|got| names(got) == names(&want)));
        structure += usize::from(got.as_ref().is_some_and(|got| *got == want));
        intent_reference += usize::from(expected["intent"] == true);
        structure_reference += usize::from(expected["exact"] == true);
    }
    let percent = |n: usize| n as f64 * 100.0 / count as f64;
    println!(
        "{count} dialogues: ids as PyTorch's {:.2}%; EM_intent {:.2} (PyTorch {:.2}); EM_structure {:.2} (PyTorch {:.2})",
        percent(same),
        percent(intent),
        percent(intent_reference),
        percent(structure),
        percent(structure_reference)
    );
    assert!(percent(same) >= 99.0);
    assert!((percent(intent) - percent(intent_reference)).abs() <= 0.3);
    assert!((percent(structure) - percent(structure_reference)).abs() <= 0.3);
}

#[test]
fn first_300_api_calls() {
    api_calls(300);
}

/// `npm run evaluate`.
#[test]
#[ignore = "a quarter of an hour: npm run evaluate"]
fn all_api_calls() {
    api_calls(1561);
}

/// Perplexity of the demo model over the first `count` dialogues, PyTorch's answers included, in f16 and in 8 bits.
fn perplexities(count: usize) -> [f64; 2] {
    let (calls_file, expected_file) = (fixture("test-api-calls.jsonl"), fixture("expected-greedy.jsonl"));
    [Precision::F16, Precision::Q8].map(|precision| {
        let mut engine = open_with(DeviceChoice::Cpu, precision, 2).0;
        let (mut sum, mut tokens) = (0.0, 0);
        for (case, expected) in calls_file.lines().zip(expected_file.lines()).take(count) {
            let case: Value = serde_json::from_str(case).unwrap();
            let expected: Value = serde_json::from_str(expected).unwrap();
            let prompt = encode(&engine, case["messages"].as_array().unwrap());
            let score = &block_on(engine.score(&[([prompt, ids(&expected["greedy_ids"])].concat(), 1)])).unwrap()[0];
            sum += score.logprob;
            tokens += score.tokens.len();
        }
        (-sum / tokens as f64).exp()
    })
}

/// `npm run evaluate`.
#[test]
#[ignore = "minutes: npm run evaluate"]
fn eight_bits_keep_the_perplexity() {
    let [f16, q8] = perplexities(60);
    println!("perplexity over 60 dialogues: {f16:.4} in f16, {q8:.4} in 8 bits");
    assert!((q8 / f16 - 1.0).abs() < 0.01);
}

/// 8-bit weights against f16 along PyTorch's answers: how often the best id is the same, and how far logits are off.
#[test]
fn eight_bits_choose_the_same_ids() {
    let [mut f16, mut q8] =
        [Precision::F16, Precision::Q8].map(|precision| open_with(DeviceChoice::Cpu, precision, 1).0);
    let reference: Value = serde_json::from_str(&fixture("reference.json")).unwrap();
    let (mut same, mut count, mut squares, mut values) = (0, 0, 0.0f64, 0);
    for case in reference["prompts"].as_array().unwrap() {
        let all = [ids(&case["token_ids"]), ids(&case["greedy_ids"])].concat();
        for end in (ids(&case["token_ids"]).len()..=all.len()).step_by(6) {
            let a = block_on(f16.last_logits(&all[..end])).unwrap();
            let b = block_on(q8.last_logits(&all[..end])).unwrap();
            let best = |logits: &[f32]| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            same += usize::from(best(&a) == best(&b));
            count += 1;
            squares += a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            values += a.len();
        }
    }
    let error = (squares / values as f64).sqrt();
    println!("{same} of {count} best ids the same, logits off by {error:.3} (root mean square)");
    assert!(same * 100 >= count * 98);
    assert!(error < 0.2);
}

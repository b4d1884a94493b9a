//! The self-check finds every kernel that is wrong, and none where all are right.

#![cfg(feature = "gpu")]

use mobilellm_web::backend::Precision;
use mobilellm_web::backend::gpu::{Device, DeviceOptions, Gpu, Variant};
use mobilellm_web::config::Config;
use mobilellm_web::engine::probe::probe;
use mobilellm_web::model::{Loader, Model};
use mobilellm_web::synthetic;
use pollster::block_on;

fn model(options: &DeviceOptions, precision: Precision) -> Model<Gpu> {
    let config = Config::parse(
        r#"{ "model_type": "mobilellm", "vocab_size": 1000, "hidden_size": 288, "intermediate_size": 160,
            "num_hidden_layers": 2, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 32,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000, "share_embedding": true }"#,
    )
    .unwrap();
    let device = block_on(Device::open(options)).unwrap();
    let mut loader = Loader::new(config.clone(), Gpu::new(&device, &config, precision).unwrap());
    synthetic::load(&config, 3, &mut loader).unwrap();
    loader.finish().unwrap()
}

/// Every variant, both forms of weights, also a table split over bindings.
#[test]
fn right_kernels_pass() {
    for precision in [Precision::F16, Precision::Q8] {
        for max_table_binding in [None, Some(100_000)] {
            let mut model = model(&DeviceOptions { max_table_binding, ..DeviceOptions::default() }, precision);
            for variant in model.backend().variant().simpler() {
                model.backend().set_variant(variant).unwrap();
                assert_eq!(block_on(probe(&mut model)).unwrap(), None, "{variant} {precision:?}");
            }
        }
    }
}

/// A damage to each kernel (a piece of its text and what stands there instead) and the checks that may notice it first.
const DAMAGES: [(&str, &str, &str, &[&str]); 13] = [
    ("embed", "x[to + 1u] = w.high;", "x[to + 1u] = w.low;", &["prefill"]),
    ("qkv", "total.four * inverseSqrt", "total.four.yxzw * inverseSqrt", &["decode"]),
    ("attend", "inverseSqrt(f32(HEAD_DIM))", "(1.0 / f32(HEAD_DIM))", &["prefill"]),
    ("merge", "y / total", "y", &["long context"]),
    (
        "matmul_add",
        "x[group.y * (ROWS / 4u) + quad] += total.four;",
        "x[group.y * (ROWS / 4u) + quad] = total.four;",
        &["decode"],
    ),
    ("gate_up", "y.xy / (1.0 + exp(-y.xy)) * y.zw", "y.xy * y.zw", &["decode"]),
    ("logits", "product(w.y + k, a, b)", "product(w.x + k, a, b)", &["prefill"]),
    ("argmax", "candidate > value", "candidate < value", &["argmax"]),
    ("sample", "cumulative > target_mass", "cumulative > 0.0", &["sampling"]),
    ("rms_norm", "* scale * gain[k]", "* gain[k]", &["prefill"]),
    ("matmul", "k < cols / DEPTH", "k + 1u < cols / DEPTH", &["prefill"]),
    ("rope", "place(at.y, head, j,", "place(at.y, head, j, -", &["prefill"]),
    ("swiglu", "gate / (1.0 + exp(-gate))", "gate", &["prefill"]),
];

#[test]
fn each_wrong_kernel_is_found() {
    for (number, (kernel, text, _, checks)) in DAMAGES.iter().enumerate() {
        // A function pointer holds nothing: which damage is done is told through a thread's own variable.
        DAMAGE.set(number);
        let alter = |name: &str, source: String| {
            let (kernel, text, instead, _) = DAMAGES[DAMAGE.get()];
            if name == kernel { source.replace(text, instead) } else { source }
        };
        let options = DeviceOptions { alter: Some(alter), ..DeviceOptions::default() };
        let mut model = model(&options, Precision::F16);
        let texts = mobilellm_web::backend::gpu::texts(model.backend().variant(), Precision::F16);
        assert!(texts.iter().any(|(name, source)| name == kernel && source.contains(text)), "{kernel}: no such text");
        let failure = block_on(probe(&mut model)).unwrap().unwrap_or_else(|| panic!("{kernel}: passed"));
        assert!(checks.contains(&failure.check), "{kernel}: {failure}");
    }
}

thread_local! {
    static DAMAGE: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What only one variant gets wrong is no reason to give up the GPU.
#[test]
fn simpler_variants_end_with_the_plain_one() {
    let all = Variant { subgroups: true, f16: true };
    assert_eq!(all.simpler(), [all, Variant { subgroups: true, f16: false }, Variant::PLAIN]);
    assert_eq!(Variant::PLAIN.simpler(), [Variant::PLAIN]);
}

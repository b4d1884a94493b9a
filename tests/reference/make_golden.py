"""Writes tests/fixtures/golden/*.json and tests/fixtures/synthetic.json. Deterministic but for the last digits of the machine's float32."""

import json

from mobilellm import ROOT, f32, greedy, logits
from synthetic import fnv1a64, prompt, tensor, tensors, weights

FIXTURES = ROOT / "tests/fixtures"
PROMPT, GREEDY, POSITIONS, LEAST_GAP = 200, 32, (0, 99, 199), 0.05


def base_config(**changes) -> dict:
    """MobileLLM-125M's block, two of them, a small vocabulary; the fields that the released config.json files have."""
    config = {
        "architectures": ["MobileLLMForCausalLM"],
        "model_type": "mobilellm",
        "vocab_size": 320,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 2,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": 256,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "share_embedding": True,
        "tie_word_embeddings": False,
        "layer_sharing": False,
        "torch_dtype": "float16",
    }
    return config | changes


def shape(hidden, heads, kv_heads, head_dim, ffn, blocks, **changes) -> dict:
    return base_config(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=ffn,
        num_hidden_layers=blocks,
        **changes,
    )


LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "share_embedding": False}

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}

CASES = {
    "125m-plain": base_config(),
    "125m-immediate": base_config(layer_sharing=True),
    "350m-block": shape(960, 15, 5, 64, 2560, 1, vocab_size=333),
    "1.5b-width-untied": shape(1600, 25, 5, 64, 1088, 1, **LLAMA),
    "tiny-gqa": shape(64, 4, 2, 16, 96, 3, vocab_size=512, layer_sharing=True, layer_sharing_repeats=3),
    "tiny-mha": shape(64, 2, 2, 32, 96, 2),
    "repeat-all-over": shape(96, 3, 1, 32, 160, 2, layer_sharing="repeat-all-over"),
    "reverse": shape(96, 3, 1, 32, 160, 2, layer_sharing="reverse"),
    "odd-mqa": shape(96, 3, 1, 32, 160, 2, vocab_size=347),
    "wide-heads": shape(160, 4, 2, 64, 224, 2),
    "theta-100000": shape(96, 3, 1, 32, 160, 2, rope_theta=100000.0, rms_norm_eps=1e-6, **LLAMA | {"tie_word_embeddings": True}),
    "eps-1e-6": shape(96, 3, 1, 32, 160, 2, rms_norm_eps=1e-6, layer_sharing="reverse"),
    "rope-linear": shape(96, 3, 1, 32, 160, 2, rope_scaling={"type": "linear", "factor": 4.0}),
    "rope-llama3": shape(96, 3, 1, 32, 160, 2, rope_scaling=LLAMA3),
    "rope-yarn": shape(96, 3, 1, 32, 160, 2, rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
}


def digest(values) -> str:
    """FNV-1a of the little-endian f16 bytes."""
    return f"{fnv1a64(values.astype('<f2').tobytes()):016x}"


def golden(config: dict, seed: int) -> dict | None:
    """None where greedy decoding meets </s> or a near tie: such a seed would test rounding, not the engine."""
    stored = weights(config, seed)
    w = f32(stored)
    ids = prompt(PROMPT, config["vocab_size"], seed)
    eos = config["eos_token_id"]
    continuation, gap = greedy(w, config, ids, GREEDY, stop=[eos], least_gap=LEAST_GAP)
    if gap < LEAST_GAP or eos in continuation or len(set(continuation)) < GREEDY // 2:
        return None
    all_logits = logits(w, config, ids)
    top = all_logits.topk(5)
    return {
        "config": config,
        "seed": seed,
        "prompt": ids,
        "logits": {str(p): [round(x, 6) for x in all_logits[p].tolist()] for p in POSITIONS},
        "top5": {
            str(p): [[i, round(x, 6)] for i, x in zip(top.indices[p].tolist(), top.values[p].tolist())]
            for p in range(0, PROMPT, 10)
        },
        "greedy": continuation,
        "greedy_smallest_gap": round(gap, 4),
    }


def dump(path, value: dict):
    """One line a key."""
    lines = (f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_synthetic():
    """Bits of a few tensors, for the Rust twin of synthetic.py."""
    cases = [(name, shape, seed) for seed in (0, 0xFEDCBA9876543210) for name, shape in tensors(CASES["tiny-gqa"])]
    cases.append(("lm_head.weight", [333, 160], 7))
    listed = []
    for name, shape, seed in cases:
        values = tensor(name, shape, seed)
        bits = values.view("<u2").reshape(-1).tolist()
        listed.append({"name": name, "shape": shape, "seed": f"{seed:016x}", "first": bits[:4], "last": bits[-4:], "fnv1a64": digest(values)})
    (FIXTURES / "synthetic.json").write_text("[\n" + ",\n".join(map(json.dumps, listed)) + "\n]\n")


if __name__ == "__main__":
    write_synthetic()
    (FIXTURES / "golden").mkdir(exist_ok=True)
    for name, config in CASES.items():
        seed = next(s for s in range(1, 100) if (result := golden(config, s)))
        dump(FIXTURES / "golden" / f"{name}.json", result)
        print(f"{name}: seed {seed}, smallest greedy gap {result['greedy_smallest_gap']}, distinct {len(set(result['greedy']))}")

"""MobileLLM's forward pass in plain PyTorch lines: float32 maths on float16 weights, no KV cache. The oracle of the engine.

Run as a script it checks itself: against transformers' LlamaForCausalLM for every depth schedule (the shared blocks written out
as blocks of their own, so that the library knows nothing of sharing) and against the demo model's reference.json.
"""

import copy
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from synthetic import tied, weights

ROOT = Path(__file__).resolve().parents[2]
DEMO, DEMO_FIXTURES = ROOT / "www/models/demo", ROOT / "tests/fixtures/demo"


def order(config: dict) -> list[int]:
    """Stored block of each executed layer (paper, section 3.3): the depth schedule."""
    blocks = list(range(config["num_hidden_layers"]))
    repeats = config.get("layer_sharing_repeats", 2)
    match config.get("layer_sharing", False):
        case False | "none":
            return blocks
        case True | "immediate":
            return [b for b in blocks for _ in range(repeats)]
        case "repeat-all-over":
            return blocks * repeats
        case "reverse":
            return blocks + blocks[::-1]
        case other:
            raise ValueError(f"layer_sharing: {other}")


def rms_norm(x, gain, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def rotations(config: dict) -> tuple[torch.Tensor, float]:
    """Inverse frequencies (head_dim / 2) and the factor of cosines and sines; what stretches them is left to transformers."""
    half = config["head_dim"] // 2
    if config.get("rope_scaling") is None:
        return config["rope_theta"] ** -(torch.arange(half, dtype=torch.float32) / half), 1.0
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    fields = ("head_dim", "max_position_embeddings", "rope_theta", "rope_scaling")
    theirs = LlamaRotaryEmbedding(LlamaConfig(**{field: copy.deepcopy(config[field]) for field in fields}))
    return theirs.inv_freq, theirs.attention_scaling


def rope(x, frequency, factor):
    """Half-split rotation: (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin). x: (heads, T, head_dim)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * frequency
    x1, x2, cos, sin = x[..., :half], x[..., half:], angle.cos() * factor, angle.sin() * factor
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)


@torch.no_grad()
def logits(w: dict[str, torch.Tensor], config: dict, ids: list[int], last_only=False) -> torch.Tensor:
    """w: f32 tensors by Hugging Face name. Returns (T, vocab), or (1, vocab) with `last_only`."""
    T, heads, kv_heads = len(ids), config["num_attention_heads"], config["num_key_value_heads"]
    eps, rotation = config["rms_norm_eps"], rotations(config)
    hidden_future = torch.ones(T, T, dtype=torch.bool).triu(1)
    x = w["model.embed_tokens.weight"][torch.tensor(ids)]  # (T, d)
    for block in order(config):
        p = f"model.layers.{block}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q = (h @ w[p + "self_attn.q_proj.weight"].T).view(T, heads, -1).transpose(0, 1)
        k = (h @ w[p + "self_attn.k_proj.weight"].T).view(T, kv_heads, -1).transpose(0, 1)
        v = (h @ w[p + "self_attn.v_proj.weight"].T).view(T, kv_heads, -1).transpose(0, 1)
        q, k = rope(q, *rotation), rope(k, *rotation)
        k, v = (t.repeat_interleave(heads // kv_heads, 0) for t in (k, v))  # query head h reads h // group
        score = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
        attention = score.masked_fill(hidden_future, float("-inf")).softmax(-1) @ v  # (heads, T, head_dim)
        x = x + attention.transpose(0, 1).reshape(T, -1) @ w[p + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        gate, up = h @ w[p + "mlp.gate_proj.weight"].T, h @ w[p + "mlp.up_proj.weight"].T
        x = x + (torch.nn.functional.silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    x = rms_norm(x[-1:] if last_only else x, w["model.norm.weight"], eps)
    return x @ w["model.embed_tokens.weight" if tied(config) else "lm_head.weight"].T


def greedy(w, config, ids: list[int], count: int, stop=(), least_gap=0.0) -> tuple[list[int], float]:
    """Up to `count` ids that continue `ids`, and the smallest gap between the best and the second logit on the way.
    Ends early after an id in `stop` or a gap below `least_gap`."""
    out, smallest = [], float("inf")
    while len(out) < count and smallest >= least_gap and not (out and out[-1] in stop):
        top = logits(w, config, ids + out, last_only=True)[0].topk(2)
        smallest = min(smallest, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
    return out, smallest


def f32(w: dict) -> dict[str, torch.Tensor]:
    """f16 arrays or tensors -> f32 tensors of the same values."""
    return {name: torch.as_tensor(t).to(torch.float16).float() for name, t in w.items()}


def load(directory: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    w = {}
    for file in sorted(directory.glob("*.safetensors")):
        w |= load_file(file)
    return json.loads((directory / "config.json").read_text()), f32(w)


def check_against_transformers(config: dict, seed: int, length=200):
    from transformers import LlamaConfig, LlamaForCausalLM

    from synthetic import prompt

    w = f32(weights(config, seed))
    depth = order(config)
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_hidden_layers=len(depth),
            num_attention_heads=config["num_attention_heads"],
            num_key_value_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]} | (config["rope_scaling"] or {}),
            tie_word_embeddings=tied(config),
            attn_implementation="eager",
        )
    ).eval()
    state = {k: v for k, v in w.items() if ".layers." not in k}
    for layer, block in enumerate(depth):
        prefix = f"model.layers.{block}."
        state |= {k.replace(prefix, f"model.layers.{layer}."): v for k, v in w.items() if k.startswith(prefix)}
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    llama.load_state_dict(state, strict=True)
    ids = prompt(length, config["vocab_size"], seed)
    with torch.no_grad():
        theirs = llama(torch.tensor([ids]), use_cache=False).logits[0]
    ours = logits(w, config, ids)
    difference = (ours - theirs).abs().max().item()
    print(f"  {config['layer_sharing']!s:>15} depth {len(depth)}: max |logit difference| {difference:.2e}, deviation {ours.std():.2f}")
    assert difference < 1e-4, difference


def check_against_demo():
    config, w = load(DEMO)
    worst, smallest = 0.0, float("inf")
    reference = json.loads((DEMO_FIXTURES / "reference.json").read_text())["prompts"]
    for p in reference:
        ours = logits(w, config, p["token_ids"])
        for row, key in ((0, "first_position_top10"), (-1, "last_position_top10")):
            for token, value in p[key]:
                worst = max(worst, abs(ours[row, token].item() - value))
        ids, gap = greedy(w, config, p["token_ids"], 160, stop=[config["eos_token_id"]])
        assert ids == p["greedy_ids"], p["text"]
        smallest = min(smallest, gap)
    print(f"  demo: {len(reference)} greedy texts equal, max |top-10 logit difference| {worst:.2e}, smallest top-2 gap {smallest:.4f}")
    assert worst < 1e-4, worst


if __name__ == "__main__":
    from make_golden import base_config

    print("against transformers, synthetic weights:")
    for sharing in (False, True, "repeat-all-over", "reverse"):
        check_against_transformers(base_config(layer_sharing=sharing), seed=1)
    check_against_transformers(base_config(layer_sharing=True, layer_sharing_repeats=3, share_embedding=False), seed=2)
    check_against_transformers(base_config(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}), seed=3)
    print("against reference.json:")
    check_against_demo()

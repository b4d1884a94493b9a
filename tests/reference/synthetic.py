"""Seeded weights that `src/synthetic.rs` reproduces bit for bit, so that no checkpoint need be committed.

Element i of tensor `name`:
  z = splitmix64 mix of (fnv1a64(name) ^ seed) + (i + 1) * 0x9E3779B97F4A7C15      (64-bit, wrapping)
  u = ((z >> 40) - 2^23) / 2^23                                                    (exact f32 in [-1, 1))
  value = f16(center + u * scale)                                                  (f32 operations, each rounded; then to nearest even)
`center` and `scale` follow from name and shape (`distribution`), so that activations and logits stay healthy: logits with a
deviation of about 3, attention neither uniform nor one-hot.
"""

import math

import numpy as np

GAMMA = np.uint64(0x9E3779B97F4A7C15)


def fnv1a64(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def splitmix64(base: int, count: int) -> np.ndarray:
    """`count` mixed 64-bit values of the counter that starts after `base`."""
    z = np.uint64(base) + np.arange(1, count + 1, dtype=np.uint64) * GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def distribution(name: str, shape: list[int]) -> tuple[np.float32, np.float32]:
    """Center and half-width of the uniform distribution of a tensor."""
    if len(shape) == 1:
        center = 3.0 if name == "model.norm.weight" else 1.0
        return np.float32(center), np.float32(0.1 * center)
    factor = 1.4 if name.endswith((".q_proj.weight", ".k_proj.weight")) else 1.0
    return np.float32(0.0), np.float32(math.sqrt(3.0 / shape[1]) * factor)


def tensor_f32(name: str, shape: list[int], seed: int) -> np.ndarray:
    """The values before they are rounded to f16."""
    z = splitmix64(fnv1a64(name.encode()) ^ seed, math.prod(shape))
    u = ((z >> np.uint64(40)).astype(np.int32) - 2**23).astype(np.float32) * np.float32(2.0**-23)
    center, scale = distribution(name, shape)
    return (center + u * scale).reshape(shape)


def tensor(name: str, shape: list[int], seed: int) -> np.ndarray:
    return tensor_f32(name, shape, seed).astype(np.float16)


def tensors(config: dict) -> list[tuple[str, list[int]]]:
    """Names and shapes of the stored tensors of a config.json, in file order."""
    d, ff = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or d // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    out = [("model.embed_tokens.weight", [config["vocab_size"], d])]
    for b in range(config["num_hidden_layers"]):
        p = f"model.layers.{b}."
        out += [
            (p + "input_layernorm.weight", [d]),
            (p + "self_attn.q_proj.weight", [q, d]),
            (p + "self_attn.k_proj.weight", [kv, d]),
            (p + "self_attn.v_proj.weight", [kv, d]),
            (p + "self_attn.o_proj.weight", [d, q]),
            (p + "post_attention_layernorm.weight", [d]),
            (p + "mlp.gate_proj.weight", [ff, d]),
            (p + "mlp.up_proj.weight", [ff, d]),
            (p + "mlp.down_proj.weight", [d, ff]),
        ]
    out.append(("model.norm.weight", [d]))
    if not tied(config):
        out.append(("lm_head.weight", [config["vocab_size"], d]))
    return out


def tied(config: dict) -> bool:
    """`share_embedding` (true by default in the mobilellm family) or `tie_word_embeddings`."""
    share = config.get("share_embedding", config.get("model_type") == "mobilellm")
    return share or config.get("tie_word_embeddings", False)


def weights(config: dict, seed: int) -> dict[str, np.ndarray]:
    return {name: tensor(name, shape, seed) for name, shape in tensors(config)}


def prompt(length: int, vocab_size: int, seed: int) -> list[int]:
    """Seeded token ids from 3 (after <unk>, <s>, </s>) to the end of the vocabulary."""
    z = splitmix64(fnv1a64(b"prompt") ^ seed, length)
    return (z % np.uint64(vocab_size - 3) + np.uint64(3)).tolist()

"""Writes tests/fixtures/checkpoints/: one tiny model in every file format that the loader must read, and expected.json.

The golden values are float32 maths on the f16 weights that the loader must end up with, whatever type the file holds.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from make_golden import digest, shape
from mobilellm import ROOT, f32, logits
from synthetic import prompt, tensor_f32, tensors

OUT = ROOT / "tests/fixtures/checkpoints"
SEED = 11
MOBILELLM = shape(64, 4, 2, 16, 96, 2, vocab_size=128, layer_sharing=True)
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def transformers_sharded(directory: Path, w: dict, dtype: torch.dtype) -> dict:
    """save_pretrained's shards, index and config.json: a plain LLaMA twin. Returns the configuration."""
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    keys += ("head_dim", "rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id")
    config = LlamaConfig(**{k: MOBILELLM[k] for k in keys}, tie_word_embeddings=True, dtype=dtype)
    model = LlamaForCausalLM(config).to(dtype)
    model.load_state_dict(w | {HEAD: w[EMBED]})
    model.save_pretrained(directory, max_shard_size="50KB")
    (directory / "generation_config.json").unlink()
    written = json.loads((directory / "config.json").read_text())
    return written | {"rope_theta": written["rope_parameters"]["rope_theta"]}


def build() -> dict:
    exact = {name: torch.from_numpy(tensor_f32(name, dims, SEED)) for name, dims in tensors(MOBILELLM)}
    half, bfloat = ({n: t.to(d) for n, t in exact.items()} for d in (torch.float16, torch.bfloat16))
    other_head = torch.from_numpy(tensor_f32(HEAD, [128, 64], SEED)).half()
    tied_half = half | {HEAD: half[EMBED]}
    fused = dict(half)  # views of one storage, with offsets and, for o_proj, transposed strides
    for block in range(MOBILELLM["num_hidden_layers"]):
        names = [f"model.layers.{block}.self_attn.{m}_proj.weight" for m in "qkv"]
        rows = torch.cat([half[n] for n in names])
        fused |= zip(names, rows.split([half[n].shape[0] for n in names]))
        out = f"model.layers.{block}.self_attn.o_proj.weight"
        fused[out] = half[out].T.contiguous().T
    untied = MOBILELLM | {"share_embedding": False, "layer_sharing": False}

    def torch_file(w, **how):
        return lambda d: torch.save(w, d / "pytorch_model.bin", **how)

    def safetensors_file(w):
        return lambda d: save_file(w, d / "model.safetensors", metadata={"format": "pt"})

    lm_head_only = {HEAD if n == EMBED else n: t for n, t in half.items()}
    cases = {  # directory: (what its file shows, configuration, weights that count, writer)
        "transformers-f16": ("save_pretrained, several shards", None, half, lambda d: transformers_sharded(d, half, torch.float16)),
        "transformers-bf16": ("the same in bf16", None, bfloat, lambda d: transformers_sharded(d, bfloat, torch.bfloat16)),
        "f32": ("one file, f32 values that f16 must round", MOBILELLM, exact, safetensors_file(exact)),
        "lm-head-only": ("the shared matrix is called lm_head.weight", MOBILELLM, half, safetensors_file(lm_head_only)),
        "torch-f16": ("torch.save, HalfStorage", MOBILELLM, half, torch_file(half)),
        "torch-bf16": ("torch.save, BFloat16Storage", MOBILELLM, bfloat, torch_file(bfloat)),
        "torch-tied-twice": ("embedding and lm_head are one storage", MOBILELLM, half, torch_file(tied_half)),
        "torch-unused-head": ("a different lm_head that share_embedding overrules", MOBILELLM, half, torch_file(half | {HEAD: other_head})),
        "torch-untied": ("a different lm_head that counts", untied, half | {HEAD: other_head}, torch_file(half | {HEAD: other_head})),
        "torch-views": ("q, k, v are slices of one storage, o has transposed strides", MOBILELLM, half, torch_file(fused)),
        "torch-before-1.6": ("not a zip: the format that torch 1.5 wrote", MOBILELLM, half, torch_file(half, _use_new_zipfile_serialization=False)),
    }
    expected = {}
    ids = prompt(24, MOBILELLM["vocab_size"], SEED)
    for name, (shows, config, counted, write) in cases.items():
        directory = OUT / name
        directory.mkdir(parents=True)
        written = write(directory)
        if config:
            (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        config = config or written
        held = {n: t.half() for n, t in counted.items()}
        rows = logits(f32(held), config, ids)
        expected[name] = {
            "shows": shows,
            "prompt": ids,
            "logits": {str(p): [round(x, 6) for x in rows[p].tolist()] for p in (0, len(ids) - 1)},
            "tensors": {n: {"shape": list(t.shape), "fnv1a64": digest(np.asarray(t))} for n, t in held.items()},
        }
    return expected


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in build().items())
    (OUT / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{sum(f.stat().st_size for f in OUT.rglob('*') if f.is_file()) / 1e6:.2f} MB")

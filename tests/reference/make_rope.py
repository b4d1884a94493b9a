"""Writes tests/fixtures/rope.json: what transformers makes of `rope_scaling` and `rope_parameters`, in both of their forms."""

import json

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from make_golden import base_config
from mobilellm import ROOT

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
SCALINGS = {
    "default": [{}],
    "linear": [{"factor": 4.0}, {"factor": 1}, {"factor": 2.5}],
    "dynamic": [{"factor": 2.0}, {"factor": 8}],
    "llama3": [LLAMA3, LLAMA3 | {"factor": 32.0}, LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 16}, {k: v for k, v in LLAMA3.items() if "original" not in k}],
    "yarn": [
        YARN, YARN | {"factor": 1.0}, YARN | {"attention_factor": 0.7}, YARN | {"mscale": 0.707, "mscale_all_dim": 1.2}, YARN | {"mscale": 1.0, "mscale_all_dim": 0},
        YARN | {"mscale": 2.0}, YARN | {"beta_fast": 8, "beta_slow": 2}, YARN | {"beta_fast": 0, "beta_slow": None}, YARN | {"truncate": False},
        YARN | {"beta_fast": 100.0, "beta_slow": 0.001}, {"factor": 16.0}, YARN | {"factor": None, "original_max_position_embeddings": 128},
        {"factor": 40, "beta_fast": 1.0, "beta_slow": 1.0, "original_max_position_embeddings": 200},
    ],
}  # fmt: skip


def forms(kind: str, scaling: dict):
    yield {"rope_scaling": {"rope_type": kind} | scaling}
    yield {"rope_scaling": {"type": kind} | scaling, "rope_theta": 500000.0}
    yield {"rope_parameters": {"rope_type": kind, "rope_theta": 20000.0} | scaling, "rope_theta": None}


def main():
    cases = []
    for kind, scalings in SCALINGS.items():
        for scaling in scalings:
            for form in forms(kind, scaling):
                config = base_config() | {"model_type": "llama"} | form
                config = {k: v for k, v in config.items() if v is not None and k not in ("architectures", "layer_sharing", "share_embedding")}
                rope = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
                cases.append({"config": config, "inverse_frequencies": rope.inv_freq.tolist(), "attention_factor": rope.attention_scaling})
    # The context before stretching may also stand beside the object.
    config = cases[-1]["config"] | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0} | YARN, "original_max_position_embeddings": 32}
    rope = LlamaRotaryEmbedding(LlamaConfig(**json.loads(json.dumps(config))))
    cases.append({"config": config, "inverse_frequencies": rope.inv_freq.tolist(), "attention_factor": rope.attention_scaling})
    text = ",\n".join(json.dumps(case) for case in cases)
    (ROOT / "tests/fixtures/rope.json").write_text(f"[\n{text}\n]\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()

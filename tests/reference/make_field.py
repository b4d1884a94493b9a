"""Writes tests/fixtures/field/: a tiny LLaMA, and cases of how real-world files differ from it, with what transformers makes of them.

    base/           config.json, tokenizer.json (byte-level BPE, 300 tokens), tokenizer_config.json, model.safetensors (2 blocks, hidden 64)
    stop.safetensors  weights of the same shape, untied: after `a` come b, c, <|end|>, d, e, f, </s>
    cases.json      for each case what is laid over the base, what is asked and the right answer

A case: `config`, `settings` (of tokenizer_config.json; null takes away) and `files` are laid over the base's; `prefix` [from, to] renames tensors;
`extra` adds tensors [name, dtype, shape, bytes]; `weights` is another file. `right`: ids of the prompt, or its text and length where a template
writes it, and the greedy tokens.
"""

import json

import numpy as np
import torch
from safetensors.numpy import save
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mobilellm import ROOT

OUT = ROOT / "tests/fixtures/field"
HIDDEN, HEADS, KV, FFN, BLOCKS, VOCAB = 64, 4, 2, 96, 2, 300
DIM = HIDDEN // HEADS
SPECIAL = ["<s>", "</s>", "<|turn|>", "<|end|>"]
WORDS = ["hello", "there", " the", " you", "user", "model", "system", " and", "ing", " is", "tool", "er", "or", " to"]


def tokenizer() -> dict:
    plain, spare = [*range(33, 127), *range(161, 173), *range(174, 256)], iter(range(256, 512))
    letters = [chr(b if b in plain else next(spare)) for b in range(256)]
    vocab, merges = {t: i for i, t in enumerate([*SPECIAL, *letters])}, []
    for word in WORDS:
        whole, *rest = [letters[b] for b in word.encode()]
        for letter in rest:
            if whole + letter not in vocab:
                merges.append([whole, letter])
                vocab[whole + letter] = len(vocab)
            whole += letter
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i, t in enumerate(SPECIAL)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}


def weights() -> dict[str, np.ndarray]:
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for i in range(BLOCKS):
        p = f"model.layers.{i}."
        shapes |= {p + "input_layernorm.weight": (HIDDEN,), p + "post_attention_layernorm.weight": (HIDDEN,), p + "self_attn.q_proj.weight": (HEADS * DIM, HIDDEN),
                   p + "self_attn.k_proj.weight": (KV * DIM, HIDDEN), p + "self_attn.v_proj.weight": (KV * DIM, HIDDEN), p + "self_attn.o_proj.weight": (HIDDEN, HEADS * DIM),
                   p + "mlp.gate_proj.weight": (FFN, HIDDEN), p + "mlp.up_proj.weight": (FFN, HIDDEN), p + "mlp.down_proj.weight": (HIDDEN, FFN)}  # fmt: skip
    rng, out = np.random.default_rng(3), {}
    for name, shape in shapes.items():
        values, scale = rng.standard_normal(shape), 0.25 if "embed" in name else 1.6 / HIDDEN**0.5
        out[name] = (1 + 0.2 * values if "norm" in name else scale * values).astype(np.float16)
    return out


def chain(base: dict, follow: dict[int, int], other: int) -> dict:
    """A model whose next token depends on the last one only."""
    out = {n: np.zeros_like(a) if "o_proj" in n or "down_proj" in n else np.ones_like(a) if "norm" in n else a for n, a in base.items()}
    embed = out["model.embed_tokens.weight"].astype(np.float32)
    unit, head = embed / np.linalg.norm(embed, axis=1, keepdims=True), np.zeros_like(embed)
    for token in range(VOCAB):
        head[follow.get(token, other)] += unit[token] * (4 if token in follow else 0.5)
    return out | {"lm_head.weight": head.astype(np.float16)}


PLAIN = "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 1, "head_dim": DIM, "hidden_act": "silu",
          "hidden_size": HIDDEN, "intermediate_size": FFN, "max_position_embeddings": 512, "num_attention_heads": HEADS, "num_hidden_layers": BLOCKS, "num_key_value_heads": KV,
          "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float16", "vocab_size": VOCAB}  # fmt: skip
SETTINGS = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": False, "chat_template": PLAIN, "model_max_length": 512}
READS_FIRST = "{% if messages[0]['role'] == 'system' %}{% set intro = messages[0]['content'] + '\n' %}{% set rest = messages[1:] %}{% else %}{% set intro = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{{ '[Q] ' + (intro if loop.first else '') + m['content'].strip() + ' [/Q]' if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
ALTERNATES = "{% if not messages %}{{ raise_exception('there is nothing to answer') }}{% endif %}{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('take turns') }}{% endif %}{{ '[Q] ' + m['content'] if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
LAST_IS_USER = "{%- if messages[-1].role != 'user' %}{{- raise_exception('the last message must be a question') }}{%- endif %}{%- for m in messages %}{{- '<|turn|>' + m.role + '\n' + m.content + '<|end|>\n' }}{%- endfor %}{{- '<|turn|>assistant\n' }}"
GENERATION = "{% for m in messages %}<|turn|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}{% else %}{{ m['content'] }}<|end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
TOOLS = "{% if tools %}<|turn|>tool\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|end|>\n{% endif %}" + PLAIN
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks a word up.", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}
Q, A = {"role": "user", "content": "hello there"}, {"role": "assistant", "content": "you"}
LONG = "hello there you and the user is to the model system tooling and the other user"


def chat(template=None, messages=(Q,), **more) -> dict:
    return ({"settings": {"chat_template": template}} if template else {}) | {"messages": list(messages)} | more


def prompt(asked="hello there", **more) -> dict:
    return {"prompt": asked} | more


CASES = {
    "the first message is read": chat(READS_FIRST),
    "the first message is read, with a system message": chat(READS_FIRST, [{"role": "system", "content": "Be brief."}, Q]),
    "roles must alternate": chat(ALTERNATES),
    "roles must alternate, later": chat(ALTERNATES, [Q, A, Q]),
    "the last must be the user's": chat(LAST_IS_USER),
    "the last must be the user's, with history": chat(LAST_IS_USER, [Q, A, Q]),
    "generation tag": chat(GENERATION, [Q, A, Q]),
    "a list of templates": chat([{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": TOOLS}], tools=[TOOL]),
    "additional templates": chat(files={"chat_template.jinja": PLAIN, "additional_chat_templates/tool_use.jinja": TOOLS}, tools=[TOOL]),
    "additional templates without tools": chat(files={"chat_template.jinja": PLAIN, "additional_chat_templates/tool_use.jinja": TOOLS}),
    "a template that is cut off": prompt(settings={"chat_template": PLAIN[:-5]}, broken="tokenizer_config.json:4"),
    "a template file that is cut off": prompt(files={"chat_template.jinja": "\n" + PLAIN[:-5]}, broken="chat_template.jinja:"),
    "names of a compiled model": prompt(prefix=["", "_orig_mod."]),
    "names of a data-parallel model": prompt(prefix=["", "module."]),
    "names of the inner model": prompt(prefix=["model.", ""]),
    "names of a part of something": prompt(prefix=["model.", "model.language_model."]),
    "positions": prompt(extra=[["model.position_ids", "I64", [1, 8], 64]]),
    "a mask": prompt(extra=[["model.layers.0.self_attn.causal_mask", "BOOL", [2, 2], 4]]),
    "frequencies": prompt(extra=[["model.layers.0.self_attn.rotary_emb.inv_freq", "F64", [DIM // 2], DIM * 4]]),
    "a value head": prompt(extra=[["value_head.weight", "F32", [1, HIDDEN], HIDDEN * 4]], skipped=["value_head.weight"]),
    "no metadata": prompt(metadata=None),
    "rope_parameters with type": prompt(LONG, config={"rope_parameters": {"type": "linear", "factor": 4.0, "rope_theta": 10000.0}, "rope_theta": None}),
    "rope_scaling linear": prompt(LONG, config={"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "rope_scaling dynamic": prompt(LONG, config={"rope_scaling": {"type": "dynamic", "factor": 4.0}}),
    "rope_scaling default": prompt(LONG, config={"rope_scaling": {"type": "default"}}),
    "rope_scaling yarn": prompt(LONG, config={"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}}),
    "eos of -1": prompt(config={"bos_token_id": -1, "eos_token_id": -1, "pad_token_id": -1}),
    "eos of null and a list": prompt(config={"bos_token_id": None, "eos_token_id": [1, -1]}),
    "eos of -1 in generation_config.json": prompt(files={"generation_config.json": '{"eos_token_id": -1}'}),
    "special tokens in a prompt": prompt("<|turn|>user\nhello<|end|>\n<|turn|>assistant\n", special=True),
    "special tokens as text": prompt("<|turn|>user\nhello<|end|>\n<|turn|>assistant\n"),
    "a stop string that is a special token": prompt("a", weights="stop.safetensors", config={"tie_word_embeddings": False}, stop="<|end|>", text="bc"),
}


@torch.no_grad()
def greedy(config: dict, w: dict, ids: list[int], count=8) -> list[int]:
    given = {k: v for k, v in config.items() if k != "architectures" and v is not None}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        given.pop(name, None)
    model = LlamaForCausalLM(LlamaConfig(**given)).float().eval()
    w = {n: torch.from_numpy(a.astype(np.float32)) for n, a in w.items()}
    model.load_state_dict(w | ({"lm_head.weight": w["model.embed_tokens.weight"]} if config["tie_word_embeddings"] else {}), strict=True)
    out = list(ids)
    while len(out) < len(ids) + count:
        best = model(torch.tensor([out])).logits[0, -1].topk(2)
        if best.values[0] - best.values[1] < 0.02:
            break  # too close to tell rounding from a fault
        out.append(best.indices[0].item())
    return out[len(ids):]


def main():
    base = weights()
    (OUT / "base").mkdir(parents=True, exist_ok=True)
    for name, value in {"config.json": CONFIG, "tokenizer.json": tokenizer(), "tokenizer_config.json": SETTINGS}.items():
        (OUT / "base" / name).write_text(json.dumps(value, ensure_ascii=False, indent=None if name == "tokenizer.json" else 1) + "\n")
    (OUT / "base/model.safetensors").write_bytes(save(base, metadata={"format": "pt"}))
    whole = Tokenizer.from_file(str(OUT / "base/tokenizer.json"))
    line = [whole.token_to_id(t) for t in ("a", "b", "c", "<|end|>", "d", "e", "f", "</s>", "a")]
    stop = chain(base, dict(zip(line, line[1:])), line[0])
    (OUT / "stop.safetensors").write_bytes(save(stop, metadata={"format": "pt"}))
    fast = PreTrainedTokenizerFast(tokenizer_file=str(OUT / "base/tokenizer.json"), bos_token="<s>", eos_token="</s>")
    listed = []
    for name, case in CASES.items():
        config = CONFIG | case.get("config", {})
        right = {}
        if "messages" in case:
            files = case.get("files", {})
            template = files.get("chat_template.jinja", case.get("settings", SETTINGS).get("chat_template"))
            named = {t["name"]: t["template"] for t in template} if isinstance(template, list) else {"default": template}
            named |= {"tool_use": t for f, t in files.items() if f.startswith("additional")}
            chosen = named["tool_use"] if "tools" in case and "tool_use" in named else named["default"]
            right["text"] = fast.apply_chat_template(case["messages"], tools=case.get("tools"), chat_template=chosen, add_generation_prompt=True, tokenize=False)
            ids = whole.encode(right["text"], add_special_tokens=False).ids
            right["promptTokens"] = len(ids)
        elif case.get("special") or "<|" not in case["prompt"]:
            ids = right["promptIds"] = whole.encode(case["prompt"], add_special_tokens=False).ids
        else:
            plain = Tokenizer.from_file(str(OUT / "base/tokenizer.json"))
            plain.encode_special_tokens = True
            ids = right["promptIds"] = plain.encode(case["prompt"], add_special_tokens=False).ids
        right["greedy"] = greedy(config, stop if "weights" in case else base, ids)
        listed.append({"name": name} | case | {"right": right})
    (OUT / "cases.json").write_text("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in listed) + "\n]\n")
    print(len(listed), "cases")


if __name__ == "__main__":
    main()

"""Writes tests/fixtures/gguf/: small GGUF files and what the Python package `gguf` and plain float32 maths make of them.

Needs gguf, numpy and tokenizers only (requirements-gguf.txt).
"""

import json
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

OUT = Path(__file__).resolve().parents[2] / "tests/fixtures/gguf"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
SAMPLE = ("The keeper of the lighthouse wrote the weather into a book every evening: the wind, the waves, the ships that went by. "
          "When the storm came in 1953 he wrote only one line, that the light hadn't gone out.\n\ndef light(on):\n    return on\n"
          "There were other lights along the coast, and other keepers, and each of them thought that theirs was the brightest one. ") * 4
STRINGS = ["The keeper's 1953 light", "  two  spaces\n\n\tand a tab ", "HE'LL don't we'Ve", "12345678 + 9 = x", "<|im_end|> is text", "naïve café ﬁ 東京 🙂",
           "a\r\nb\n\n\nc", "x^2 <= $5 ~ [y] | z", "def light(on):\n        return on", "e\u0301 and \u00e9, ½ Ⅳ ²"]
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"


def split(*regexes):
    steps = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in regexes]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


PRE = {  # name: (how the published tokenizer.json of such a model splits, or llama.cpp where none is named; ignore_merges; NFC)
    "gpt-2": (gpt2, False, False),
    "smollm": (lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2()]), False, False),
    "llama-bpe": (lambda: split(LLAMA3), True, False),
    "qwen2": (lambda: split(QWEN2), False, True),
    "default": (lambda: split(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), False, False),
}


def bpe(size, pre):
    """(what goes into the file, the tokenizer itself): 3 control tokens, one added word, 256 bytes, merges learned from SAMPLE."""
    build, ignore_merges, nfc = PRE[pre]
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = build()
    tok.train_from_iterator([SAMPLE], trainers.BpeTrainer(
        vocab_size=size - 1, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"]))
    model = json.loads(tok.to_str())["model"]
    vocab = model["vocab"] | {"[sea]": len(model["vocab"])}
    tokens = sorted(vocab, key=vocab.get)
    merges = [tuple(m) for m in model["merges"]]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    tok.pre_tokenizer, tok.decoder = build(), decoders.ByteLevel()
    if nfc:
        tok.normalizer = normalizers.NFC()
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in tokens[:3]])
    tok.add_tokens([AddedToken("[sea]", normalized=False)])
    types = [CONTROL] * 3 + [NORMAL] * (len(tokens) - 4) + [USER_DEFINED]
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "types": types, "merges": [" ".join(m) for m in merges]}, tok


def sentencepiece():
    """A SentencePiece vocabulary: unknown, BOS, EOS, 256 bytes, then the beginnings of a few words, the longest best, and letters."""
    words = ["▁" + w for w in ("the", "keeper", "of", "a", "light")]
    pieces = sorted({w[:n] for w in words for n in range(2, len(w) + 1)}, key=lambda p: (-len(p), p))
    letters = list("▁abcdefghijklmnopqrstuvwxyz.,'")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces + letters + ["[PAD0]"]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(tokens) - 260) + [UNUSED]
    scores = [0.0] * 259 + [float(-i) for i in range(len(tokens) - 259)]
    return {"model": "llama", "tokens": tokens, "types": types, "scores": scores}


def merged(tok, text):
    """SentencePiece's merging, spelled out: the neighbours whose piece scores highest, of equals the leftmost."""
    ids = {t: i for i, t in enumerate(tok["tokens"]) if tok["types"][i] == NORMAL}
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(tok["scores"][ids[a + b]], -i) for i, (a, b) in enumerate(zip(symbols, symbols[1:])) if a + b in ids]
        if not pairs:
            break
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return [1] + [i for s in symbols for i in ([ids[s]] if s in ids else [3 + b for b in s.encode()])]


def blocks(rng, kind, rows, columns, std):
    """Random bytes of a K-quant or of IQ4_NL with sensible scales."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = rng.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    half = lambda x: x.astype(np.float16).view(np.uint8).reshape(-1, 2)
    d = np.full(len(out), std / {Q.IQ4_NL: 70, Q.Q4_K: 180, Q.Q5_K: 370, Q.Q6_K: 1400}[kind]) * rng.uniform(0.5, 1.5, len(out))
    if kind == Q.Q6_K:
        out[:, 208:210] = half(d)
    else:
        out[:, 0:2] = half(d)
    if kind in (Q.Q4_K, Q.Q5_K):
        out[:, 2:4] = half(d * {Q.Q4_K: 7.5, Q.Q5_K: 15.5}[kind])
    return out.reshape(rows, -1)


def matrix(rng, kind, rows, columns, std):
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL):
        return blocks(rng, kind, rows, columns, std)
    return gguf.quantize((rng.standard_normal((rows, columns)) * std).astype(np.float32), kind)


def header(path, shape, tok, **how):
    w = gguf.GGUFWriter(path, "llama", **how)
    w.add_name(path.stem)
    w.add_license("mit")
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length", "head_count", "head_count_kv", "rope_freq_base", "layer_norm_rms_eps"):
        if key in shape:
            getattr(w, "add_" + key)(shape[key])
    w.add_tokenizer_model(tok["model"])
    w.add_token_list(tok["tokens"])
    w.add_token_types(tok["types"])
    if tok["model"] == "gpt2":
        w.add_tokenizer_pre(tok["pre"])
        w.add_token_merges(tok["merges"])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_add_bos_token(False)
        w.add_chat_template(CHATML)
    else:
        w.add_token_scores(tok["scores"])
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
    return w


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def model(name, shape, tok, kind_of, seed, untied, **how):
    """A random model; kind_of(GGUF name) is the type of a matrix. Returns {GGUF name: float32 values}."""
    rng = np.random.default_rng(seed)
    h, f, heads = shape["embedding_length"], shape["feed_forward_length"], shape["head_count"]
    kv, vocab = h // heads * shape["head_count_kv"], len(tok["tokens"])
    w, values = header(OUT / f"{name}.gguf", shape, tok, **how), {}

    def add(tensor, rows, columns, std):
        kind = kind_of(tensor)
        raw = matrix(rng, kind, rows, columns, std)
        w.add_tensor(tensor, np.ascontiguousarray(raw), raw_dtype=kind)
        values[tensor] = gguf.dequantize(raw, kind)

    def norm(tensor):
        values[tensor] = (1 + 0.2 * rng.standard_normal(h)).astype(np.float32)
        w.add_tensor(tensor, values[tensor])

    add("token_embd.weight", vocab, h, 0.3)
    for i in range(shape["block_count"]):
        b = f"blk.{i}."
        norm(b + "attn_norm.weight")
        for part, rows, columns, gain in (("attn_q", h, h, 1.6), ("attn_k", kv, h, 1.6), ("attn_v", kv, h, 1.2), ("attn_output", h, h, 0.9)):
            add(f"{b}{part}.weight", rows, columns, gain / columns**0.5)
        norm(b + "ffn_norm.weight")
        for part, rows, columns, gain in (("ffn_gate", f, h, 1.2), ("ffn_up", f, h, 1.2), ("ffn_down", h, f, 0.9)):
            add(f"{b}{part}.weight", rows, columns, gain / columns**0.5)
    norm("output_norm.weight")
    if untied:
        add("output.weight", vocab, h, 0.9)
    finish(w)
    return values


def logits(values, shape, ids):
    """Logits after the last id, in float32, straight from GGUF's tensors: RoPE turns neighbouring pairs of a head."""
    heads, kv = shape["head_count"], shape["head_count_kv"]
    dim, eps = shape["embedding_length"] // heads, np.float32(shape["layer_norm_rms_eps"])
    rms = lambda x, g: x / np.sqrt(np.mean(x * x, -1, keepdims=True) + eps) * g
    angle = np.outer(np.arange(len(ids)), shape["rope_freq_base"] ** (-np.arange(0, dim, 2) / dim))[:, None]
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def rope(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return np.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(x.shape)

    x = values["token_embd.weight"][ids]
    for i in range(shape["block_count"]):
        p = lambda part: values[f"blk.{i}.{part}.weight"]
        y = rms(x, p("attn_norm"))
        q, k, v = ((y @ p(part).T).reshape(len(ids), -1, dim) for part in ("attn_q", "attn_k", "attn_v"))
        q, k, v = rope(q), np.repeat(rope(k), heads // kv, 1), np.repeat(v, heads // kv, 1)
        s = np.einsum("qhd,khd->hqk", q, k) / np.float32(dim**0.5) + np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)
        s = np.exp(s - s.max(-1, keepdims=True))
        x = x + np.einsum("hqk,khd->qhd", s / s.sum(-1, keepdims=True), v).reshape(len(ids), -1) @ p("attn_output").T
        y = rms(x, p("ffn_norm"))
        gate = y @ p("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ p("ffn_up").T)) @ p("ffn_down").T
    return values.get("output.weight", values["token_embd.weight"]) @ rms(x[-1], values["output_norm.weight"])


def greedy(values, shape, ids, count=16):
    out, gaps = [], []
    for _ in range(count):
        z = logits(values, shape, ids + out)
        best = np.argsort(-z)[:2]
        gaps.append(float(z[best[0]] - z[best[1]]))
        out.append(int(best[0]))
    return out, min(gaps)


def steady(name, shape, tok, kind_of, untied, prompts, **how):
    """The first seed whose greedy text has no close call, so that the text tests the reader and not rounding."""
    for seed in range(1, 200):
        values = model(name, shape, tok, kind_of, seed, untied, **how)
        cases = [greedy(values, shape, ids) for ids in prompts]
        if min(gap for _, gap in cases) > 0.1 and not any(2 in ids for ids, _ in cases):
            return [{"ids": ids, "greedy": out, "smallest_gap": round(gap, 4)} for ids, (out, gap) in zip(prompts, cases)]
    raise SystemExit(f"{name}: no steady seed")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    expected = {}

    # One tensor of each type, and its values to the last bit. Those that the package can write are made of the F32 one.
    rng = np.random.default_rng(1)
    w = gguf.GGUFWriter(OUT / "types.gguf", "llama")
    values, base = [], (rng.standard_normal((2, 512)) * 0.05).astype(np.float32)
    for kind in (Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.IQ4_NL, Q.Q4_K, Q.Q5_K, Q.Q6_K):
        raw = blocks(rng, kind, 2, 512, 0.05) if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL) else gguf.quantize(base, kind)
        w.add_tensor(kind.name, np.ascontiguousarray(raw), raw_dtype=kind)
        values.append(gguf.dequantize(raw, kind).astype("<f4"))
    finish(w)
    np.concatenate(values).tofile(OUT / "types.f32")

    # As a Q4_K_M of a narrow model is: K-quants only where rows are long enough.
    shape = {"block_count": 1, "context_length": 256, "embedding_length": 64, "feed_forward_length": 256, "head_count": 4, "head_count_kv": 2,
             "rope_freq_base": 50000.0, "layer_norm_rms_eps": 1e-5}
    tok, encoder = bpe(400, "smollm")
    kinds = {"token_embd.weight": Q.Q8_0, "blk.0.attn_v.weight": Q.Q8_0, "blk.0.ffn_down.weight": Q.Q6_K}
    question = "Who keeps the light?"
    chat = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    prompts = [encoder.encode(text).ids for text in ("The keeper wrote 1953 into the book.", chat)]
    cases = steady("narrow-q4_k_m", shape, tok, lambda n: kinds.get(n, Q.Q5_0), False, prompts)
    cases[0]["prompt"] = "The keeper wrote 1953 into the book."
    cases[1]["message"] = question
    expected["narrow-q4_k_m"] = cases

    # Three parts, SentencePiece, a head of its own, wide types.
    shape = {"block_count": 3, "context_length": 128, "embedding_length": 32, "feed_forward_length": 64, "head_count": 2, "head_count_kv": 1,
             "rope_freq_base": 10000.0, "layer_norm_rms_eps": 1e-6}
    tok = sentencepiece()
    kind_of = lambda n: Q.F32 if "attn_q" in n else Q.BF16 if "ffn" in n else Q.F16
    texts = ["the keeper of a light.", "a thé of light"]
    cases = steady("split", shape, tok, kind_of, True, [merged(tok, text) for text in texts], split_max_tensors=11)
    for case, text in zip(cases, texts):
        case["prompt"] = text
    expected["split-00001-of-00003"] = cases
    assert len(list(OUT.glob("split-*-of-00003.gguf"))) == 3

    # Headers alone: how texts are split by pre-tokenizers of each name.
    strings = []
    for pre in PRE:
        tok, encoder = bpe(360, pre)
        finish(header(OUT / f"pre-{pre}.gguf", {}, tok))
        for text in STRINGS:
            encoder.encode_special_tokens = False
            case = {"pre": pre, "text": text, "ids": encoder.encode(text).ids}
            encoder.encode_special_tokens = True
            strings.append(case | {"ids_as_text": encoder.encode(text).ids})
    lines = lambda items: "[\n" + ",\n".join(json.dumps(x) for x in items) + "\n]"
    body = {**{name: lines(cases) for name, cases in expected.items()}, "strings": lines(strings)}
    (OUT / "expected.json").write_text("{\n" + ",\n".join(f'"{k}": {v}' for k, v in body.items()) + "\n}\n")
    for path in sorted(OUT.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.name}")


if __name__ == "__main__":
    main()

"""KL divergence of candidate forms of weights from the f16 ones: every weight matrix rounded, everything else in f32.

    quantisation.py FOLDER TEXT_IDS.json [tokens]

FOLDER is a checkpoint in Hugging Face layout, also one with shared layers; TEXT_IDS.json a list of token ids. Needs torch,
transformers and safetensors.
docs/quantisation.md has the results.
"""
import json, math, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

GROUP = 32


def half(x):
    return x.clamp(-65504, 65504).to(torch.float16).to(torch.float32)


def bf16_up(x):
    """The smallest bf16 not below x."""
    bits = x.view(torch.int32)
    return ((bits + 0xFFFF) >> 16 << 16).view(torch.float32)


def symmetric(scale, most=127):
    def form(w):
        s = scale(w)
        inverse = torch.where(s == 0, 0, 1 / s)
        return (w * inverse).round().clamp(-most, most) * s
    return form


def largest(w):
    return w.abs().amax(-1, keepdim=True)


def fitted(parts, rounds=1):
    """The scale of the least squared error that is found from parts of the range."""
    def scale(w):
        best = None
        for part in parts:
            s = largest(w) * part / 127
            for turn in range(rounds + 1):
                s = half(s)
                q = (w * torch.where(s == 0, 0, 1 / s)).round().clamp(-127, 127)
                error = ((w - q * s) ** 2).sum(-1, keepdim=True)
                better = error < best[0] if best else torch.ones_like(error, dtype=torch.bool)
                best = (torch.where(better, error, best[0]), torch.where(better, s, best[1])) if best else (error, s)
                squares = (q * q).sum(-1, keepdim=True)
                s = torch.where(squares > 0, (w * q).sum(-1, keepdim=True) / squares, 0)
        return best[1]
    return scale


def grid(levels, starts, rounds):
    """Scale and minimum: of the range, or improved by least squares from several starts."""
    def codes(w, s, m):
        return ((w - m) * torch.where(s == 0, 0, 1 / s)).round().clamp(0, levels)

    def form(w):
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        best = None
        for part in starts:
            s, m = half((high - low) * part / levels), half(low + (high - low) * (1 - part) / 2)
            for turn in range(rounds + 1):
                q = codes(w, s, m)
                value = q * s + m
                error = ((w - value) ** 2).sum(-1, keepdim=True)
                if best is None:
                    best = (error, value)
                else:
                    better = error < best[0]
                    best = (torch.where(better, error, best[0]), torch.where(better, value, best[1]))
                spread = GROUP * (q * q).sum(-1, keepdim=True) - q.sum(-1, keepdim=True) ** 2
                scale = (GROUP * ((w - m) * q).sum(-1, keepdim=True) - q.sum(-1, keepdim=True) * (w - m).sum(-1, keepdim=True)) / spread
                new_m = half(m + ((w - m).sum(-1, keepdim=True) - scale * q.sum(-1, keepdim=True)) / GROUP)
                s, m = torch.where(spread > 0, half(scale), s), torch.where(spread > 0, new_m, m)
        return best[1]
    return form


def q4_0(w):
    at = w.abs().argmax(-1, keepdim=True)
    d = half(w.gather(-1, at) / -8)
    return ((w * torch.where(d == 0, 0, 1 / d)).round() + 8).clamp(0, 15).sub(8) * d


OURS = symmetric(fitted([1.0, 0.995, 0.99, 0.985, 0.98, 0.97, 0.96]))

FORMS = {
    # name: (bits, of the blocks, of the embedding)
    "q8: bf16 scale rounded up (before)": (8.5, symmetric(lambda w: bf16_up(largest(w) / 127)), None),
    "q8: f16 scale of the largest (Q8_0)": (8.5, symmetric(lambda w: half(largest(w) / 127)), None),
    "q8: f16 scale by squared error, one start": (8.5, symmetric(fitted([1.0])), None),
    "q8: f16 scale by squared error, seven starts": (8.5, OURS, None),
    "q8: f16 scale by squared error, 21 starts": (8.5, symmetric(fitted([1 - i / 200 for i in range(21)])), None),
    "q8: f16 scale and minimum of the range": (9.0, grid(255, [1.0], 0), None),
    "q8: seven starts, blocks only": (8.5, OURS, lambda w: w),
    "q4: scale of the largest (Q4_0)": (4.5, q4_0, OURS),
    "q4: scale and minimum of the range (Q4_1)": (5.0, grid(15, [1.0], 0), OURS),
    "q4: by squared error, from the range": (5.0, grid(15, [1.0], 2), OURS),
    "q4: by squared error, three starts": (5.0, grid(15, [1.0, 0.9, 0.8], 2), OURS),
    "q4: by squared error, eight starts": (5.0, grid(15, [1 - i / 20 for i in range(8)], 4), OURS),
}


def load(folder):
    config = json.loads((folder / "config.json").read_text())
    tied = config.get("share_embedding", config.get("tie_word_embeddings", False))
    names = {*LlamaConfig().to_dict(), "rope_theta"} - {"architectures", "dtype", "model_type", "transformers_version"}
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k in names} | {"tie_word_embeddings": tied, "use_cache": False}))
    state = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= load_file(file)
    missing, unexpected = model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    if config.get("layer_sharing"):
        model.model.layers = torch.nn.ModuleList([layer for layer in model.model.layers for _ in range(2)])
        model.config.num_hidden_layers *= 2
        model.model.config.num_hidden_layers = model.config.num_hidden_layers
    return model.eval()


def main():
    folder, ids = Path(sys.argv[1]), json.load(open(sys.argv[2]))
    ids = torch.tensor([ids[: int(sys.argv[3]) if len(sys.argv) > 3 else None]])
    model = load(folder)
    weights = {name: p.data.clone() for name, p in model.named_parameters() if p.dim() == 2}

    def logprobs():
        with torch.no_grad():
            return model(ids, use_cache=False).logits[0].log_softmax(-1)

    want = logprobs()
    target = ids[0, 1:]
    perplexity = lambda lp: math.exp(-lp[:-1].gather(1, target[:, None]).mean())
    print(f"| form | bits | mean KL | top-1 | perplexity |\n| --- | --- | --- | --- | --- |\n| f16 | 16 | 0 | 100 % | {perplexity(want):.4f} |", flush=True)
    for name, (bits, blocks, embedding) in FORMS.items():
        for key, p in model.named_parameters():
            if key in weights:
                form = (embedding or blocks) if "embed_tokens" in key or "lm_head" in key else blocks
                w = weights[key]
                p.data.copy_(form(w.reshape(-1, GROUP)).reshape(w.shape))
        got = logprobs()
        kl = (want.exp() * (want - got)).sum(-1).mean().item()
        top = (got.argmax(-1) == want.argmax(-1)).float().mean().item()
        print(f"| {name} | {bits} | {kl:.3g} | {100 * top:.1f} % | {perplexity(got):.4f} |", flush=True)


main()

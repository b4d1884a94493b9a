"""KL divergence of candidate forms of weights from the f16 ones: every weight matrix rounded, everything else in f32.

    quantisation.py FOLDER TEXT_IDS.json [tokens]

FOLDER is a checkpoint in the layout of transformers' Llama, TEXT_IDS.json a list of token ids. Needs torch, transformers.
docs/quantisation.md has the results.
"""
import json, math, sys, time
import torch
from transformers import AutoModelForCausalLM

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


def fitted(w):
    s = largest(w) / 127
    q = (w * torch.where(s == 0, 0, 1 / s)).round()
    squares = (q * q).sum(-1, keepdim=True)
    return half(torch.where(squares > 0, (w * q).sum(-1, keepdim=True) / squares, 0))


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


FORMS = {
    # name: (bits, of the blocks, of the embedding)
    "q8: bf16 scale rounded up (before)": (8.5, symmetric(lambda w: bf16_up(largest(w) / 127)), None),
    "q8: f16 scale of the largest (Q8_0)": (8.5, symmetric(lambda w: half(largest(w) / 127)), None),
    "q8: f16 scale by squared error (ours)": (8.5, symmetric(fitted), None),
    "q8: f16 scale and minimum of the range": (9.0, grid(255, [1.0], 0), None),
    "q8: ours, blocks only": (8.5, symmetric(fitted), lambda w: w),
    "q4: scale of the largest (Q4_0)": (4.5, q4_0, symmetric(fitted)),
    "q4: scale and minimum of the range (Q4_1)": (5.0, grid(15, [1.0], 0), symmetric(fitted)),
    "q4: by squared error, from the range": (5.0, grid(15, [1.0], 2), symmetric(fitted)),
    "q4: by squared error, three starts (ours)": (5.0, grid(15, [1.0, 0.9, 0.8], 2), symmetric(fitted)),
    "q4: by squared error, eight starts": (5.0, grid(15, [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65], 4), symmetric(fitted)),
}


def main():
    folder, ids = sys.argv[1], json.load(open(sys.argv[2]))
    ids = torch.tensor([ids[: int(sys.argv[3]) if len(sys.argv) > 3 else None]])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = {name: p.data.clone() for name, p in model.named_parameters() if p.dim() == 2}

    def logprobs():
        with torch.no_grad():
            return model(ids).logits[0].log_softmax(-1)

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

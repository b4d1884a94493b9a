// chosen = the index of the highest logit, of equal ones the lowest.

override VOCAB: u32 = 64u;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // (VOCAB)
@group(0) @binding(1) var<storage, read_write> chosen: array<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32) {
    var best = min(i, VOCAB - 1u);
    var value = logits[best];
    for (var k = i + THREADS; k < VOCAB; k += THREADS) {
        let candidate = logits[k];
        if candidate > value {
            value = candidate;
            best = k;
        }
    }
    best_of(i, value, best);
    if i == 0u {
        chosen[0] = indices[0];
    }
}

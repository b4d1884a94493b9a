// chosen = the index of the highest logit, of equal ones the lowest.

override VOCAB: u32 = 64u;

const THREADS = 256u;

@group(0) @binding(0) var<storage, read> logits: array<f32>; // (VOCAB)
@group(0) @binding(1) var<storage, read_write> chosen: array<u32>;

var<workgroup> values: array<f32, THREADS>;
var<workgroup> indices: array<u32, THREADS>;

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
    values[i] = value;
    indices[i] = best;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            let other = values[i + s];
            if other > values[i] || (other == values[i] && indices[i + s] < indices[i]) {
                values[i] = other;
                indices[i] = indices[i + s];
            }
        }
    }
    if i == 0u {
        chosen[0] = indices[0];
    }
}

// Causal attention of one row and one query head over positions 0..=its own, with a running maximum (Milakov &
// Gimelshein 2018): scores of CHUNK positions at a time are all that is ever held.

struct Step {
    start: u32, // position of row 0
    rows: u32,
    first: u32, // row of x that is row 0 of the logits
    logit_rows: u32,
    uniform_value: f32, // decides where there is chance
}

override HEADS: u32 = 1u;
override KV_HEADS: u32 = 1u;
override HEAD_DIM: u32 = 64u;

const THREADS = 256u;
const CHUNK = 1024u;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> q: array<vec4f>; // (rows, HEADS HEAD_DIM)
@group(0) @binding(2) var<storage, read> keys: array<vec4f>; // (capacity, KV_HEADS HEAD_DIM)
@group(0) @binding(3) var<storage, read> values: array<vec4u>; // (capacity, KV_HEADS HEAD_DIM) f16
@group(0) @binding(4) var<storage, read_write> a: array<f32>; // (rows, HEADS HEAD_DIM)

var<workgroup> query: array<vec4f, 64>; // HEAD_DIM <= 256
var<workgroup> scores: array<f32, CHUNK>;
var<workgroup> shared_value: array<f32, THREADS>;
var<workgroup> partial: array<array<vec4f, 2>, THREADS>;

fn largest(i: u32, value: f32) -> f32 {
    shared_value[i] = value;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            shared_value[i] = max(shared_value[i], shared_value[i + s]);
        }
    }
    return workgroupUniformLoad(&shared_value[0]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let head = group.x;
    let row = group.y;
    let context = step.start + row + 1u;
    let width = HEAD_DIM / 8u; // of one head, in vec4u
    let stride = KV_HEADS * width;
    let offset = head / (HEADS / KV_HEADS) * width;
    if i < 2u * width {
        query[i] = q[(row * HEADS + head) * 2u * width + i] * inverseSqrt(f32(HEAD_DIM));
    }
    // For the weighted sum of values: thread = slice * width + eighth.
    let slices = THREADS / width;
    let slice = i / width;
    let eighth = i % width;
    var sum0 = vec4f();
    var sum1 = vec4f();
    var highest = -3.4e38;
    var total = 0.0;
    for (var chunk = 0u; chunk < context; chunk += CHUNK) {
        let count = min(CHUNK, context - chunk);
        workgroupBarrier();
        var best = -3.4e38;
        for (var t = i; t < count; t += THREADS) {
            let origin = 2u * ((chunk + t) * stride + offset);
            var score = 0.0;
            for (var k = 0u; k < 2u * width; k++) {
                score += dot(keys[origin + k], query[k]);
            }
            scores[t] = score;
            best = max(best, score);
        }
        let before = highest;
        highest = max(highest, largest(i, best));
        let shrink = exp(before - highest);
        total *= shrink;
        sum0 *= shrink;
        sum1 *= shrink;
        for (var t = i; t < count; t += THREADS) {
            let p = exp(scores[t] - highest);
            scores[t] = p;
            total += p;
        }
        workgroupBarrier();
        if slice < slices {
            for (var t = slice; t < count; t += slices) {
                let w = values[(chunk + t) * stride + offset + eighth];
                sum0 += scores[t] * vec4f(unpack2x16float(w.x), unpack2x16float(w.y));
                sum1 += scores[t] * vec4f(unpack2x16float(w.z), unpack2x16float(w.w));
            }
        }
    }
    partial[i] = array(sum0, sum1);
    shared_value[i] = total;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            shared_value[i] += shared_value[i + s];
        }
    }
    workgroupBarrier();
    if i < HEAD_DIM {
        var y = 0.0;
        for (var s = 0u; s < slices; s++) {
            y += partial[s * width + i / 8u][i / 4u % 2u][i % 4u];
        }
        a[(row * HEADS + head) * HEAD_DIM + i] = y / shared_value[0];
    }
}

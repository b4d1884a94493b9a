// q, k, v = W . RMSNorm(x); RoPE (half-split rotation) on q and k; k and v into the cache, v as f16. For few rows of x.
//
// A workgroup makes four rows: the two pairs (j, j + HEAD_DIM / 2), (j + 1, j + 1 + HEAD_DIM / 2) of a head, which
// rotate together and pack into whole words. Each thread sums its part of x^2 beside the products, so that the norm
// needs no pass of its own.

struct Step {
    start: u32, // position of row 0
    rows: u32,
    first: u32, // row of x that is row 0 of the logits
    logit_rows: u32,
    uniform_value: f32, // decides where there is chance
}

override HIDDEN: u32 = 64u;
override HEADS: u32 = 1u;
override KV_HEADS: u32 = 1u;
override HEAD_DIM: u32 = 64u;
override EPSILON: f32 = 1e-5;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(2) var<storage, read> gain: array<vec4f>; // (HIDDEN)
@group(0) @binding(3) var<storage, read> weight: array<vec4u>; // ((HEADS + 2 KV_HEADS) HEAD_DIM, HIDDEN) f16
@group(0) @binding(4) var<storage, read> rope: array<vec2f>; // (positions, HEAD_DIM / 2): cosine, sine
@group(0) @binding(5) var<storage, read_write> q: array<f32>; // (rows, HEADS HEAD_DIM)
@group(0) @binding(6) var<storage, read_write> keys: array<f32>; // (KV_HEADS HEAD_DIM / 4, capacity, 4)
@group(0) @binding(7) var<storage, read_write> values: array<u32>; // (capacity, KV_HEADS HEAD_DIM) f16


fn dot8(w: vec4u, a: vec4f, b: vec4f) -> f32 {
    return dot(vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), a)
        + dot(vec4f(unpack2x16float(w.z), unpack2x16float(w.w)), b);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let half = HEAD_DIM / 2u;
    let quad = group.x;
    let head = quad / (HEAD_DIM / 4u);
    let j = 2u * (quad % (HEAD_DIM / 4u));
    let width = HIDDEN / 8u;
    let w = (head * HEAD_DIM + j) * width;
    let origin = group.y * width;
    var products = vec4f();
    var squares = 0.0;
    for (var k = i; k < width; k += THREADS) {
        let x0 = x[2u * (origin + k)];
        let x1 = x[2u * (origin + k) + 1u];
        let a = x0 * gain[2u * k];
        let b = x1 * gain[2u * k + 1u];
        squares += dot(x0, x0) + dot(x1, x1);
        products += vec4f(
            dot8(weight[w + k], a, b),
            dot8(weight[w + width + k], a, b),
            dot8(weight[w + half * width + k], a, b),
            dot8(weight[w + (half + 1u) * width + k], a, b),
        );
    }
    let total = sum(i, products, squares);
    if i > 0u {
        return;
    }
    var y = total.four * inverseSqrt(total.one / f32(HIDDEN) + EPSILON);
    let position = step.start + group.y;
    if head < HEADS + KV_HEADS {
        let r0 = rope[position * half + j];
        let r1 = rope[position * half + j + 1u];
        let cosine = vec2f(r0.x, r1.x);
        let sine = vec2f(r0.y, r1.y);
        y = vec4f(y.xy * cosine - y.zw * sine, y.zw * cosine + y.xy * sine);
    }
    if head < HEADS {
        let to = (group.y * HEADS + head) * HEAD_DIM + j;
        q[to] = y.x;
        q[to + 1u] = y.y;
        q[to + half] = y.z;
        q[to + half + 1u] = y.w;
    } else {
        let kv = head - HEADS;
        if kv < KV_HEADS {
            let capacity = arrayLength(&keys) / (KV_HEADS * HEAD_DIM);
            let to = 4u * ((kv * HEAD_DIM + j) / 4u * capacity + position) + j % 4u;
            let far = to + half * capacity;
            keys[to] = y.x;
            keys[to + 1u] = y.y;
            keys[far] = y.z;
            keys[far + 1u] = y.w;
        } else {
            let to = (position * KV_HEADS + kv - KV_HEADS) * HEAD_DIM + j;
            values[to / 2u] = pack2x16float(y.xy);
            values[(to + half) / 2u] = pack2x16float(y.zw);
        }
    }
}

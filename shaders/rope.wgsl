// The product qkv = W . RMSNorm(x) of many rows -> q rotated; k rotated and v, as f16, into the cache. One thread moves two
// pairs (j, j + HEAD_DIM / 2), (j + 1, j + 1 + HEAD_DIM / 2).

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

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> y: array<f32>; // (rows, (HEADS + 2 KV_HEADS) HEAD_DIM)
@group(0) @binding(2) var<storage, read> rope: array<vec2f>; // (positions, HEAD_DIM / 2): cosine, sine
@group(0) @binding(3) var<storage, read_write> q: array<f32>; // (rows, HEADS HEAD_DIM)
@group(0) @binding(4) var<storage, read_write> keys: array<f32>; // (KV_HEADS HEAD_DIM / 4, capacity, 4)
@group(0) @binding(5) var<storage, read_write> values: array<u32>; // (capacity, KV_HEADS HEAD_DIM) f16

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3u) {
    let half = HEAD_DIM / 2u;
    let head = at.x / (HEAD_DIM / 4u);
    if head >= HEADS + 2u * KV_HEADS {
        return;
    }
    let j = 2u * (at.x % (HEAD_DIM / 4u));
    let origin = (at.y * (HEADS + 2u * KV_HEADS) + head) * HEAD_DIM + j;
    var v = vec4f(y[origin], y[origin + 1u], y[origin + half], y[origin + half + 1u]);
    let position = step.start + at.y;
    if head < HEADS + KV_HEADS {
        let r0 = rope[position * half + j];
        let r1 = rope[position * half + j + 1u];
        let cosine = vec2f(r0.x, r1.x);
        let sine = vec2f(r0.y, r1.y);
        v = vec4f(v.xy * cosine - v.zw * sine, v.zw * cosine + v.xy * sine);
    }
    if head < HEADS {
        let to = (at.y * HEADS + head) * HEAD_DIM + j;
        q[to] = v.x;
        q[to + 1u] = v.y;
        q[to + half] = v.z;
        q[to + half + 1u] = v.w;
    } else {
        let kv = head - HEADS;
        if kv < KV_HEADS {
            let capacity = arrayLength(&keys) / (KV_HEADS * HEAD_DIM);
            let to = 4u * ((kv * HEAD_DIM + j) / 4u * capacity + position) + j % 4u;
            let far = to + half * capacity;
            keys[to] = v.x;
            keys[to + 1u] = v.y;
            keys[far] = v.z;
            keys[far + 1u] = v.w;
        } else {
            let to = (position * KV_HEADS + kv - KV_HEADS) * HEAD_DIM + j;
            values[to / 2u] = pack2x16float(v.xy);
            values[(to + half) / 2u] = pack2x16float(v.zw);
        }
    }
}

// Where a pass's queries, keys and values go. Prepended to qkv.wgsl and rope.wgsl.

override HEADS: u32 = 1u;
override KV_HEADS: u32 = 1u;
override HEAD_DIM: u32 = 64u;

@group(0) @binding(2) var<storage, read> rotations: array<vec2f>; // (positions, HEAD_DIM / 2): cosine, sine
@group(0) @binding(3) var<storage, read_write> q: array<f32>; // (rows, HEADS HEAD_DIM)
@group(0) @binding(4) var<storage, read_write> keys: array<f32>; // (KV_HEADS HEAD_DIM / 4, capacity, 4)
@group(0) @binding(5) var<storage, read_write> values: array<u32>; // (capacity, KV_HEADS HEAD_DIM) f16

/// Rotates (half-split) and stores the two pairs (j, j + HEAD_DIM / 2), (j + 1, j + 1 + HEAD_DIM / 2) of one head of a row:
/// `made` is elements j, j + 1, j + HEAD_DIM / 2, j + 1 + HEAD_DIM / 2. Heads are numbered queries, keys, values.
fn place(row: u32, head: u32, j: u32, made: vec4f) {
    let half = HEAD_DIM / 2u;
    let position = step.start + row;
    var y = made;
    if head < HEADS + KV_HEADS {
        let r0 = rotations[position * half + j];
        let r1 = rotations[position * half + j + 1u];
        let cosine = vec2f(r0.x, r1.x);
        let sine = vec2f(r0.y, r1.y);
        y = vec4f(y.xy * cosine - y.zw * sine, y.zw * cosine + y.xy * sine);
    }
    if head < HEADS {
        let to = (row * HEADS + head) * HEAD_DIM + j;
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

// The product qkv = W . RMSNorm(x) of many rows -> q rotated; k rotated and v, as f16, into the cache. One thread moves two
// pairs.

@group(0) @binding(1) var<storage, read> y: array<f32>; // (rows, (HEADS + 2 KV_HEADS) HEAD_DIM)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3u) {
    let half = HEAD_DIM / 2u;
    let head = at.x / (HEAD_DIM / 4u);
    if head < HEADS + 2u * KV_HEADS {
        let j = 2u * (at.x % (HEAD_DIM / 4u));
        let origin = (at.y * (HEADS + 2u * KV_HEADS) + head) * HEAD_DIM + j;
        place(at.y, head, j, vec4f(y[origin], y[origin + 1u], y[origin + half], y[origin + half + 1u]));
    }
}

// q, k, v = W . RMSNorm(x); RoPE on q and k; k and v into the cache, v as f16. For few rows of x.
//
// A workgroup makes the four rows of W that `place` takes, which rotate together and pack into whole words. Each thread sums
// its part of x^2 beside the products, so that the norm needs no pass of its own.

override HIDDEN: u32 = 64u;
override EPSILON: f32 = 1e-5;

@group(0) @binding(1) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(6) var<storage, read> gain: array<vec4f>; // (HIDDEN)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let half = HEAD_DIM / 2u;
    let head = group.x / (HEAD_DIM / 4u);
    let j = 2u * (group.x % (HEAD_DIM / 4u));
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
            product(w + k, a, b),
            product(w + width + k, a, b),
            product(w + half * width + k, a, b),
            product(w + (half + 1u) * width + k, a, b),
        );
    }
    let total = sum(i, products, squares);
    if i == 0u {
        place(group.y, head, j, total.four * inverseSqrt(total.one / f32(HIDDEN) + EPSILON));
    }
}

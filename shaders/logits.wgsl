// logits = W . RMSNorm(x), for few rows of x. A workgroup makes four; a head that is split over buffers runs once
// for each part.

override HIDDEN: u32 = 64u;
override VOCAB: u32 = 64u;
override EPSILON: f32 = 1e-5;
/// First row of W in this part, and how many it holds.
override FIRST: u32 = 0u;
override COUNT: u32 = 64u;

@group(0) @binding(1) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(2) var<storage, read> gain: array<vec4f>; // (HIDDEN)
@group(0) @binding(3) var<storage, read_write> logits: array<f32>; // (rows, VOCAB)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let row = 4u * group.x;
    let width = HIDDEN / 8u;
    let w = min(vec4u(row, row + 1u, row + 2u, row + 3u), vec4u(COUNT - 1u)) * width;
    let origin = (step.first + group.y) * width;
    var products = vec4f();
    var squares = 0.0;
    for (var k = i; k < width; k += THREADS) {
        let x0 = x[2u * (origin + k)];
        let x1 = x[2u * (origin + k) + 1u];
        let a = x0 * gain[2u * k];
        let b = x1 * gain[2u * k + 1u];
        squares += dot(x0, x0) + dot(x1, x1);
        products += vec4f(
            product(w.x + k, a, b),
            product(w.y + k, a, b),
            product(w.z + k, a, b),
            product(w.w + k, a, b),
        );
    }
    let total = sum(i, products, squares);
    if i < 4u && row + i < COUNT {
        let scale = inverseSqrt(total.one / f32(HIDDEN) + EPSILON);
        logits[group.y * VOCAB + FIRST + row + i] = total.four[i] * scale;
    }
}

// f = SiLU(Wg . RMSNorm(x)) * (Wu . RMSNorm(x)), for few rows of x. A workgroup makes two elements of f. The weights are
// (2 WIDTH, HIDDEN): gate rows, then up rows.

override HIDDEN: u32 = 64u;
override WIDTH: u32 = 64u; // of f
override EPSILON: f32 = 1e-5;

@group(0) @binding(0) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(1) var<storage, read> gain: array<vec4f>; // (HIDDEN)
@group(0) @binding(2) var<storage, read_write> f: array<vec2f>; // (rows, WIDTH)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let pair = group.x;
    let width = HIDDEN / 8u;
    let gate = 2u * pair * width;
    let up = gate + WIDTH * width;
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
            product(gate + k, a, b),
            product(gate + width + k, a, b),
            product(up + k, a, b),
            product(up + width + k, a, b),
        );
    }
    let total = sum(i, products, squares);
    if i == 0u {
        let y = total.four * inverseSqrt(total.one / f32(HIDDEN) + EPSILON);
        f[group.y * (WIDTH / 2u) + pair] = y.xy / (1.0 + exp(-y.xy)) * y.zw;
    }
}

// x += W . activation, for few rows of x. A workgroup makes four elements.

override ROWS: u32 = 64u; // of W, and width of x
override COLS: u32 = 64u;

@group(0) @binding(0) var<storage, read> activation: array<vec4f>; // (rows, COLS)
@group(0) @binding(1) var<storage, read> weight: array<vec4u>; // (ROWS, COLS) f16
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>; // (rows, ROWS)


fn dot8(w: vec4u, a: vec4f, b: vec4f) -> f32 {
    return dot(vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), a)
        + dot(vec4f(unpack2x16float(w.z), unpack2x16float(w.w)), b);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let quad = group.x;
    let width = COLS / 8u;
    let w = 4u * quad * width;
    let origin = group.y * width;
    var products = vec4f();
    for (var k = i; k < width; k += THREADS) {
        let a = activation[2u * (origin + k)];
        let b = activation[2u * (origin + k) + 1u];
        products += vec4f(
            dot8(weight[w + k], a, b),
            dot8(weight[w + width + k], a, b),
            dot8(weight[w + 2u * width + k], a, b),
            dot8(weight[w + 3u * width + k], a, b),
        );
    }
    let total = sum(i, products, 0.0);
    if i == 0u {
        x[group.y * (ROWS / 4u) + quad] += total.four;
    }
}

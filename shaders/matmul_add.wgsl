// x += W . activation, for few rows of x. A workgroup makes four elements.

override ROWS: u32 = 64u; // of W, and width of x
override COLS: u32 = 64u;

@group(0) @binding(0) var<storage, read> activation: array<vec4f>; // (rows, COLS)
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>; // (rows, ROWS)

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
            product(w + k, a, b),
            product(w + width + k, a, b),
            product(w + 2u * width + k, a, b),
            product(w + 3u * width + k, a, b),
        );
    }
    let total = sum(i, products, 0.0);
    if i == 0u {
        x[group.y * (ROWS / 4u) + quad] += total.four;
    }
}

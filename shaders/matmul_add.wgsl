// x += W . activation, for few rows of x. LANES threads share four rows of W.

override ROWS: u32 = 64u; // of W, and width of x
override COLS: u32 = 64u;

const LANES = 32u;
const GROUPS = 2u;

@group(0) @binding(0) var<storage, read> activation: array<vec4f>; // (rows, COLS)
@group(0) @binding(1) var<storage, read> weight: array<vec4u>; // (ROWS, COLS) f16
@group(0) @binding(2) var<storage, read_write> x: array<vec4f>; // (rows, ROWS)

var<workgroup> products: array<vec4f, LANES * GROUPS>;

fn dot8(w: vec4u, a: vec4f, b: vec4f) -> f32 {
    return dot(vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), a)
        + dot(vec4f(unpack2x16float(w.z), unpack2x16float(w.w)), b);
}

@compute @workgroup_size(LANES, GROUPS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u, @builtin(local_invocation_index) i: u32) {
    let quad = group.x * GROUPS + local.y; // ROWS is a multiple of 32: never past the end
    let width = COLS / 8u;
    let w = 4u * quad * width;
    let origin = group.y * width;
    var sum = vec4f();
    for (var k = local.x; k < width; k += LANES) {
        let a = activation[2u * (origin + k)];
        let b = activation[2u * (origin + k) + 1u];
        sum += vec4f(
            dot8(weight[w + k], a, b),
            dot8(weight[w + width + k], a, b),
            dot8(weight[w + 2u * width + k], a, b),
            dot8(weight[w + 3u * width + k], a, b),
        );
    }
    products[i] = sum;
    for (var s = LANES / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if local.x < s {
            products[i] += products[i + s];
        }
    }
    if local.x == 0u {
        x[group.y * (ROWS / 4u) + quad] += products[i];
    }
}

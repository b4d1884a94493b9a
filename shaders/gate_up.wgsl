// f = SiLU(Wg . RMSNorm(x)) * (Wu . RMSNorm(x)), for few rows of x. LANES threads share two rows of each half of W.

override HIDDEN: u32 = 64u;
override WIDTH: u32 = 64u; // of f
override EPSILON: f32 = 1e-5;

const LANES = 32u;
const GROUPS = 2u;

@group(0) @binding(0) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(1) var<storage, read> gain: array<vec4f>; // (HIDDEN)
@group(0) @binding(2) var<storage, read> weight: array<vec4u>; // (2 WIDTH, HIDDEN) f16: gate rows, then up rows
@group(0) @binding(3) var<storage, read_write> f: array<vec2f>; // (rows, WIDTH)

var<workgroup> products: array<vec4f, LANES * GROUPS>;
var<workgroup> squares: array<f32, LANES * GROUPS>;

fn dot8(w: vec4u, a: vec4f, b: vec4f) -> f32 {
    return dot(vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), a)
        + dot(vec4f(unpack2x16float(w.z), unpack2x16float(w.w)), b);
}

@compute @workgroup_size(LANES, GROUPS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u, @builtin(local_invocation_index) i: u32) {
    let pair = group.x * GROUPS + local.y; // WIDTH is a multiple of 32: never past the end
    let width = HIDDEN / 8u;
    let gate = 2u * pair * width;
    let up = gate + WIDTH * width;
    let origin = group.y * width;
    var sum = vec4f();
    var square = 0.0;
    for (var k = local.x; k < width; k += LANES) {
        let x0 = x[2u * (origin + k)];
        let x1 = x[2u * (origin + k) + 1u];
        let a = x0 * gain[2u * k];
        let b = x1 * gain[2u * k + 1u];
        square += dot(x0, x0) + dot(x1, x1);
        sum += vec4f(
            dot8(weight[gate + k], a, b),
            dot8(weight[gate + width + k], a, b),
            dot8(weight[up + k], a, b),
            dot8(weight[up + width + k], a, b),
        );
    }
    products[i] = sum;
    squares[i] = square;
    for (var s = LANES / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if local.x < s {
            products[i] += products[i + s];
            squares[i] += squares[i + s];
        }
    }
    if local.x == 0u {
        let y = products[i] * inverseSqrt(squares[i] / f32(HIDDEN) + EPSILON);
        f[group.y * (WIDTH / 2u) + pair] = y.xy / (1.0 + exp(-y.xy)) * y.zw;
    }
}

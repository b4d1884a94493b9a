// n = x / rms(x) * gain (Zhang & Sennrich 2019), one workgroup a row.

struct Step {
    start: u32, // position of row 0
    rows: u32,
    first: u32, // row of x that is row 0 of the logits
    logit_rows: u32,
    uniform_value: f32, // decides where there is chance
}

override HIDDEN: u32 = 64u;
override EPSILON: f32 = 1e-5;
/// 1: row 0 of n is row `first` of x.
override LOGITS: u32 = 0u;

const THREADS = 64u;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(2) var<storage, read> gain: array<vec4f>; // (HIDDEN)
@group(0) @binding(3) var<storage, read_write> n: array<vec4f>; // (rows, HIDDEN)

var<workgroup> squares: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let width = HIDDEN / 4u;
    let origin = (group.x + LOGITS * step.first) * width;
    var square = 0.0;
    for (var k = i; k < width; k += THREADS) {
        square += dot(x[origin + k], x[origin + k]);
    }
    squares[i] = square;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            squares[i] += squares[i + s];
        }
    }
    workgroupBarrier();
    let scale = inverseSqrt(squares[0] / f32(HIDDEN) + EPSILON);
    for (var k = i; k < width; k += THREADS) {
        n[group.x * width + k] = x[origin + k] * scale * gain[k];
    }
}

// n = x / rms(x) * gain (Zhang & Sennrich 2019), one workgroup a row.

override HIDDEN: u32 = 64u;
override EPSILON: f32 = 1e-5;
/// 1: row 0 of n is row `first` of x.
override LOGITS: u32 = 0u;

@group(0) @binding(1) var<storage, read> x: array<vec4f>; // (rows, HIDDEN)
@group(0) @binding(2) var<storage, read> gain: array<vec4f>; // (HIDDEN)
@group(0) @binding(3) var<storage, read_write> n: array<vec4f>; // (rows, HIDDEN)

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let width = HIDDEN / 4u;
    let origin = (group.x + LOGITS * step.first) * width;
    var squares = 0.0;
    for (var k = i; k < width; k += THREADS) {
        squares += dot(x[origin + k], x[origin + k]);
    }
    let scale = inverseSqrt(sum(i, vec4f(), squares).one / f32(HIDDEN) + EPSILON);
    for (var k = i; k < width; k += THREADS) {
        n[group.x * width + k] = x[origin + k] * scale * gain[k];
    }
}

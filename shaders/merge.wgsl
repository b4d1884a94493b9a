// Joins what several workgroups of attend.wgsl found about one row and one query head.

override HEADS: u32 = 1u;
override HEAD_DIM: u32 = 64u;
/// Positions that a workgroup of attend.wgsl takes at a time, and most workgroups that share a head.
override CHUNK: u32 = 512u;
override MOST: u32 = 16u;

@group(0) @binding(1) var<storage, read> parts: array<f32>; // (rows, HEADS, count, HEAD_DIM + 2): sums, their maximum and total
@group(0) @binding(2) var<storage, read_write> a: array<f32>; // (rows, HEADS HEAD_DIM)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let head = group.y * HEADS + group.x;
    let stride = HEAD_DIM + 2u;
    let count = min((step.start + step.rows + CHUNK - 1u) / CHUNK, MOST);
    let first = head * count * stride;
    var highest = -3.4e38;
    for (var p = 0u; p < count; p++) {
        highest = max(highest, parts[first + p * stride + HEAD_DIM]);
    }
    var total = 0.0;
    for (var p = 0u; p < count; p++) {
        total += parts[first + p * stride + HEAD_DIM + 1u] * exp(parts[first + p * stride + HEAD_DIM] - highest);
    }
    for (var k = i; k < HEAD_DIM; k += 64u) {
        var y = 0.0;
        for (var p = 0u; p < count; p++) {
            y += parts[first + p * stride + k] * exp(parts[first + p * stride + HEAD_DIM] - highest);
        }
        a[head * HEAD_DIM + k] = y / total;
    }
}

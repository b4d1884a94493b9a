// x = table[ids]. One thread makes eight elements; a table that is split over buffers runs once for each part.

override HIDDEN: u32 = 64u;
/// First table row of this part, and how many it holds.
override FIRST: u32 = 0u;
override COUNT: u32 = 1u;

@group(0) @binding(0) var<storage, read> ids: array<u32>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4f>; // (rows, HIDDEN)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3u) {
    let width = HIDDEN / 8u;
    let row = ids[at.y] - FIRST; // wraps to a huge number below FIRST
    if at.x < width && row < COUNT {
        let w = octet(row * width + at.x);
        let to = 2u * (at.y * width + at.x);
        x[to] = w.low;
        x[to + 1u] = w.high;
    }
}

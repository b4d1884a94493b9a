// The highest of 256 values, one a thread. Prepended to argmax.wgsl and sample.wgsl.

const THREADS = 256u;

var<workgroup> values: array<f32, THREADS>;
var<workgroup> indices: array<u32, THREADS>;

/// Leaves the highest value in `values[0]` and its index in `indices[0]`, of equal ones the lowest index.
fn best_of(i: u32, value: f32, index: u32) {
    values[i] = value;
    indices[i] = index;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            let other = values[i + s];
            if other > values[i] || (other == values[i] && indices[i + s] < indices[i]) {
                values[i] = other;
                indices[i] = indices[i + s];
            }
        }
    }
}

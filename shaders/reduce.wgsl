// Reductions over a workgroup of THREADS invocations, in workgroup memory. Prepended to the verbs that reduce, where the
// device has no subgroups; elsewhere reduce_subgroups.wgsl is. All invocations call, all get the result.

override THREADS: u32 = 64u; // a power of two

struct Sums {
    four: vec4f,
    one: f32,
}

var<workgroup> sums: array<Sums, THREADS>;
var<workgroup> maxima: array<f32, THREADS>;

fn sum(i: u32, four: vec4f, one: f32) -> Sums {
    workgroupBarrier();
    sums[i] = Sums(four, one);
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            sums[i] = Sums(sums[i].four + sums[i + s].four, sums[i].one + sums[i + s].one);
        }
    }
    workgroupBarrier();
    return sums[0];
}

fn largest(i: u32, value: f32) -> f32 {
    workgroupBarrier();
    maxima[i] = value;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            maxima[i] = max(maxima[i], maxima[i + s]);
        }
    }
    workgroupBarrier();
    return maxima[0];
}

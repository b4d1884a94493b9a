// Reductions over a workgroup of THREADS invocations: within subgroups of any size from 4 on, then over those. See reduce.wgsl.

override THREADS: u32 = 64u; // a power of two, at most 256

struct Sums {
    four: vec4f,
    one: f32,
}

var<workgroup> sums: array<Sums, 64>;
var<workgroup> maxima: array<f32, 64>;

fn sum(i: u32, four: vec4f, one: f32) -> Sums {
    let size = subgroupAdd(1u);
    let part = Sums(subgroupAdd(four), subgroupAdd(one));
    workgroupBarrier();
    if i == subgroupBroadcastFirst(i) {
        sums[i / size] = part;
    }
    workgroupBarrier();
    var all = sums[0];
    for (var s = 1u; s < THREADS / size; s++) {
        all = Sums(all.four + sums[s].four, all.one + sums[s].one);
    }
    return all;
}

fn largest(i: u32, value: f32) -> f32 {
    let size = subgroupAdd(1u);
    let part = subgroupMax(value);
    workgroupBarrier();
    if i == subgroupBroadcastFirst(i) {
        maxima[i / size] = part;
    }
    workgroupBarrier();
    var all = maxima[0];
    for (var s = 1u; s < THREADS / size; s++) {
        all = max(all, maxima[s]);
    }
    return all;
}

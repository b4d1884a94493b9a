// Causal attention of one row and one query head over positions 0..=its own, with a running maximum (Milakov &
// Gimelshein 2018): scores of CHUNK positions at a time are all that is ever held. THREADS is 256.
//
// Where there are few rows the chunks are dealt out to several workgroups (z of them), and merge.wgsl joins what they found.

override HEADS: u32 = 1u;
override KV_HEADS: u32 = 1u;
override HEAD_DIM: u32 = 64u;

const CHUNK = 512u;

@group(0) @binding(1) var<storage, read> q: array<vec4f>; // (rows, HEADS HEAD_DIM)
@group(0) @binding(2) var<storage, read> keys: array<vec4f>; // (KV_HEADS HEAD_DIM / 4, capacity, 4): neighbours read neighbours
@group(0) @binding(3) var<storage, read> values: array<vec4u>; // (capacity, KV_HEADS HEAD_DIM) f16
@group(0) @binding(4) var<storage, read_write> a: array<f32>; // (rows, HEADS HEAD_DIM)
@group(0) @binding(5) var<storage, read_write> parts: array<f32>; // (rows, HEADS, z, HEAD_DIM + 2): sums, their maximum and total

var<workgroup> query: array<vec4f, 64>; // HEAD_DIM is at most 256; zeros behind it
var<workgroup> scores: array<f32, CHUNK>;
var<workgroup> partial: array<vec4f, 256>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) i: u32) {
    let head = group.x;
    let row = group.y;
    let context = step.start + row + 1u;
    let quads = HEAD_DIM / 4u;
    let capacity = arrayLength(&keys) / (KV_HEADS * quads);
    let kv = head / (HEADS / KV_HEADS);
    if i < quads {
        query[i] = q[(row * HEADS + head) * quads + i] * inverseSqrt(f32(HEAD_DIM));
    }
    // For the weighted sum of values: thread = slice * width + eighth of the head.
    let width = HEAD_DIM / 8u;
    let stride = KV_HEADS * width;
    let slices = THREADS / width;
    let slice = i / width;
    let value = kv * width + i % width;
    var sum0 = vec4f();
    var sum1 = vec4f();
    var highest = -3.4e38;
    var total = 0.0;
    for (var chunk = group.z * CHUNK; chunk < context; chunk += groups.z * CHUNK) {
        let count = min(CHUNK, context - chunk);
        workgroupBarrier();
        // Two positions a thread and four loads of each under way at once.
        let origin = kv * quads * capacity + chunk;
        var near = origin + min(i, count - 1u);
        var far = origin + min(i + THREADS, count - 1u);
        var score = vec2f();
        for (var k = 0u; k < quads; k += 4u) {
            let n0 = keys[near];
            let n1 = keys[near + capacity];
            let n2 = keys[near + 2u * capacity];
            let n3 = keys[near + 3u * capacity];
            let f0 = keys[far];
            let f1 = keys[far + capacity];
            let f2 = keys[far + 2u * capacity];
            let f3 = keys[far + 3u * capacity];
            score += vec2f(
                dot(n0, query[k]) + dot(n1, query[k + 1u]) + dot(n2, query[k + 2u]) + dot(n3, query[k + 3u]),
                dot(f0, query[k]) + dot(f1, query[k + 1u]) + dot(f2, query[k + 2u]) + dot(f3, query[k + 3u]),
            );
            near += 4u * capacity;
            far += 4u * capacity;
        }
        let before = highest;
        highest = max(highest, largest(i, max(score.x, score.y))); // a score past the end repeats the last one
        let shrink = exp(before - highest);
        total *= shrink;
        sum0 *= shrink;
        sum1 *= shrink;
        let p = select(vec2f(), exp(score - highest), vec2u(i, i + THREADS) < vec2u(count));
        scores[i] = p.x;
        scores[i + THREADS] = p.y;
        total += p.x + p.y;
        workgroupBarrier();
        if slice < slices {
            for (var t = slice; t < count; t += 4u * slices) {
                // four loads under way at once; past the end the weight is 0
                let t1 = min(t + slices, CHUNK - 1u);
                let t2 = min(t + 2u * slices, CHUNK - 1u);
                let t3 = min(t + 3u * slices, CHUNK - 1u);
                let last = chunk + count - 1u;
                let w0 = values[(chunk + t) * stride + value];
                let w1 = values[min(chunk + t1, last) * stride + value];
                let w2 = values[min(chunk + t2, last) * stride + value];
                let w3 = values[min(chunk + t3, last) * stride + value];
                let p0 = scores[t];
                let p1 = select(0.0, scores[t1], t + slices < count);
                let p2 = select(0.0, scores[t2], t + 2u * slices < count);
                let p3 = select(0.0, scores[t3], t + 3u * slices < count);
                sum0 += p0 * vec4f(unpack2x16float(w0.x), unpack2x16float(w0.y)) + p1 * vec4f(unpack2x16float(w1.x), unpack2x16float(w1.y))
                    + p2 * vec4f(unpack2x16float(w2.x), unpack2x16float(w2.y)) + p3 * vec4f(unpack2x16float(w3.x), unpack2x16float(w3.y));
                sum1 += p0 * vec4f(unpack2x16float(w0.z), unpack2x16float(w0.w)) + p1 * vec4f(unpack2x16float(w1.z), unpack2x16float(w1.w))
                    + p2 * vec4f(unpack2x16float(w2.z), unpack2x16float(w2.w)) + p3 * vec4f(unpack2x16float(w3.z), unpack2x16float(w3.w));
            }
        }
    }
    let all = sum(i, vec4f(), total).one;
    let found = (row * HEADS + head) * groups.z + group.z;
    if i == 0u && groups.z > 1u {
        parts[found * (HEAD_DIM + 2u) + HEAD_DIM] = highest;
        parts[found * (HEAD_DIM + 2u) + HEAD_DIM + 1u] = all;
    }
    // Over the slices, one half of the eight elements at a time.
    for (var half = 0u; half < 2u; half++) {
        workgroupBarrier();
        partial[i] = select(sum0, sum1, half == 1u);
        workgroupBarrier();
        if i < HEAD_DIM / 2u {
            var y = 0.0;
            for (var s = 0u; s < slices; s++) {
                y += partial[s * width + i / 4u][i % 4u];
            }
            let element = i / 4u * 8u + half * 4u + i % 4u;
            if groups.z > 1u {
                parts[found * (HEAD_DIM + 2u) + element] = y;
            } else {
                a[(row * HEADS + head) * HEAD_DIM + element] = y / all;
            }
        }
    }
}

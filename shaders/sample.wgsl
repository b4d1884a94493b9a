// Chooses an id from one row of logits: penalties, temperature, top-k, top-p, min-p, one draw. The definition is that of
// src/backend/sampler.rs; sums are f32 and in another order, so a cut or a draw can differ from it where a cumulative sum lies
// within its rounding (1e-6 of the whole) of the border.
//
// One workgroup. Eight chunks of 32 threads each own a run of ids, of which a thread takes every 32nd. Cuts are found
// without sorting: values are mapped to integers of the same order, and the threshold is built four bits a round from
// the mass above each of 16 candidates.

struct Sampling {
    temperature: f32, // 0: greedy
    top_k: u32, // 0: all
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    penalties: u32, // 1: look at `history`
}

override VOCAB: u32 = 64u;

/// In `history`: the id was in prompt or answer; the bits below count its times in the answer.
const SEEN = 0x80000000u;

@group(0) @binding(1) var<uniform> sampling: Sampling;
@group(0) @binding(2) var<storage, read> logits: array<f32>; // (VOCAB)
@group(0) @binding(3) var<storage, read_write> history: array<u32>; // (VOCAB)
@group(0) @binding(4) var<storage, read_write> work: array<f32>; // (VOCAB) penalised logits, then weights
@group(0) @binding(5) var<storage, read_write> chosen: array<u32>;
@group(0) @binding(6) var<storage, read_write> candidates: array<f32>; // (VOCAB) weights among which the border of top-p lies

var<workgroup> buckets: array<array<vec4f, 4>, THREADS / 2u>;
var<workgroup> candidate_count: atomic<u32>;
var<workgroup> first_above: atomic<u32>;
var<workgroup> last_kept: atomic<u32>;

fn ordered(value: f32) -> u32 {
    let bits = bitcast<u32>(value);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn from_ordered(key: u32) -> f32 {
    return bitcast<f32>(select(key & 0x7fffffffu, ~key, key < 0x80000000u));
}

/// Ids that a thread owns; 32 times that are a chunk.
fn owned() -> u32 {
    return (VOCAB + THREADS - 1u) / THREADS;
}

fn id_of(i: u32, k: u32) -> u32 {
    return i / 32u * owned() * 32u + i % 32u + 32u * k;
}

/// The sum over all threads.
fn sum(i: u32, value: f32) -> f32 {
    values[i] = value;
    for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i < s {
            values[i] += values[i + s];
        }
    }
    return workgroupUniformLoad(&values[0]);
}

struct Threshold {
    key: u32,
    above: f32, // mass of what is greater
}

/// The greatest key such that the mass of all values of at least that key reaches `target_mass`: of the first `count`
/// candidates, whose mass is their value, or else of `work`, where each has mass 1.
fn threshold(i: u32, target_mass: f32, weighted: bool, count: u32) -> Threshold {
    var found = Threshold(0u, 0.0);
    for (var shift = 32u; shift > 0u;) {
        shift -= 4u;
        var mass = array<vec4f, 4>();
        for (var k = i; k < count; k += THREADS) {
            var value: f32;
            if weighted {
                value = candidates[k];
            } else {
                value = work[k];
            }
            let key = ordered(value);
            if key >= found.key {
                let digit = vec4u(min(15u, (key - found.key) >> shift));
                let m = vec4f(select(1.0, value, weighted));
                mass[0] += select(vec4f(), m, digit == vec4u(0u, 1u, 2u, 3u));
                mass[1] += select(vec4f(), m, digit == vec4u(4u, 5u, 6u, 7u));
                mass[2] += select(vec4f(), m, digit == vec4u(8u, 9u, 10u, 11u));
                mass[3] += select(vec4f(), m, digit == vec4u(12u, 13u, 14u, 15u));
            }
        }
        workgroupBarrier();
        if i >= THREADS / 2u {
            buckets[i - THREADS / 2u] = mass;
        }
        for (var s = THREADS / 2u; s > 0u; s >>= 1u) {
            workgroupBarrier();
            if i < s {
                for (var v = 0u; v < 4u; v++) {
                    mass[v] += buckets[i + select(s, 0u, s == THREADS / 2u)][v];
                }
                buckets[i] = mass;
            }
        }
        let all = workgroupUniformLoad(&buckets[0]);
        var above = 0.0;
        for (var digit = 15u; digit > 0u; digit--) {
            let upto = above + all[digit / 4u][digit % 4u];
            if upto >= target_mass {
                found.key += digit << shift;
                break;
            }
            above = upto;
        }
        found.above = above;
    }
    return found;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) i: u32) {
    var best = 0u;
    var highest = -3.4e38;
    for (var k = 0u; k < owned(); k++) {
        let id = id_of(i, k);
        if id < VOCAB {
            var logit = logits[id];
            if sampling.penalties == 1u {
                let past = history[id];
                if past >= SEEN {
                    logit = select(logit * sampling.repetition_penalty, logit / sampling.repetition_penalty, logit > 0.0);
                }
                let times = past & ~SEEN;
                if times > 0u {
                    logit -= sampling.presence_penalty + sampling.frequency_penalty * f32(times);
                }
            }
            work[id] = logit;
            if logit > highest {
                highest = logit;
                best = id;
            }
        }
    }
    best_of(i, highest, best);
    highest = workgroupUniformLoad(&values[0]);
    var id = workgroupUniformLoad(&indices[0]);
    if sampling.temperature > 0.0 {
        id = draw(i, highest);
    }
    if i == 0u {
        chosen[0] = id;
        if sampling.penalties == 1u {
            history[id] = (history[id] | SEEN) + 1u;
        }
    }
}

/// From penalised logits in `work`.
fn draw(i: u32, highest: f32) -> u32 {
    var floor = -3.4e38;
    if sampling.top_k > 0u && sampling.top_k < VOCAB {
        storageBarrier();
        workgroupBarrier();
        floor = from_ordered(threshold(i, f32(sampling.top_k), false, VOCAB).key);
    }
    var mine = 0.0;
    for (var k = 0u; k < owned(); k++) {
        let id = id_of(i, k);
        if id < VOCAB {
            let logit = work[id];
            let weight = select(0.0, exp((logit - highest) / sampling.temperature), logit >= floor);
            work[id] = weight;
            mine += weight;
        }
    }
    var least = sampling.min_p; // the most probable id has weight 1
    if sampling.top_p < 1.0 {
        if i == 0u {
            atomicStore(&candidate_count, 0u);
        }
        let whole = sum(i, mine);
        let target_mass = sampling.top_p * whole;
        // All weights below this sum to less than what top-p cuts off.
        let sure = 0.99 * (1.0 - sampling.top_p) * whole / f32(VOCAB);
        for (var k = 0u; k < owned(); k++) {
            let id = id_of(i, k);
            if id < VOCAB && work[id] >= sure {
                candidates[atomicAdd(&candidate_count, 1u)] = work[id];
            }
        }
        storageBarrier();
        workgroupBarrier();
        let cut = threshold(i, target_mass, true, atomicLoad(&candidate_count));
        let border = from_ordered(cut.key);
        least = max(least, border);
        var ties = 0.0;
        for (var k = 0u; k < owned(); k++) {
            let id = id_of(i, k);
            if id < VOCAB && work[id] == border {
                ties += 1.0;
            }
        }
        // Of ids as probable as the last one kept, the lowest that are needed stay. Equal f32 weights are rare there.
        let needed = max(1.0, ceil((target_mass - cut.above) / border));
        if sum(i, ties) > needed {
            storageBarrier();
            workgroupBarrier();
            if i == 0u {
                var kept = 0.0;
                for (var id = 0u; id < VOCAB; id++) {
                    if work[id] == border {
                        kept += 1.0;
                        if kept > needed {
                            work[id] = 0.0;
                        }
                    }
                }
            }
            storageBarrier();
            workgroupBarrier();
        }
    }
    mine = 0.0;
    for (var k = 0u; k < owned(); k++) {
        let id = id_of(i, k);
        if id < VOCAB {
            let weight = select(0.0, work[id], work[id] >= least);
            work[id] = weight;
            mine += weight;
        }
    }
    // The chunk that the draw falls into.
    values[i] = mine;
    for (var s = 16u; s > 0u; s >>= 1u) {
        workgroupBarrier();
        if i % 32u < s {
            values[i] += values[i + s];
        }
    }
    storageBarrier();
    workgroupBarrier();
    var total = 0.0;
    var last_chunk = 0u;
    for (var c = 0u; c < 8u; c++) {
        total += values[32u * c];
        last_chunk = select(last_chunk, c, values[32u * c] > 0.0);
    }
    let target_mass = step.uniform_value * total;
    var below = 0.0;
    var chunk = 0u;
    while chunk < last_chunk && below + values[32u * chunk] <= target_mass {
        below += values[32u * chunk];
        chunk++;
    }
    workgroupBarrier();
    // Within the chunk each thread owns a run of ids; a scan gives the mass below each run.
    let span = (owned() + 7u) / 8u;
    let start = chunk * owned() * 32u + i * span;
    let end = min(min(start + span, (chunk + 1u) * owned() * 32u), VOCAB);
    mine = 0.0;
    for (var id = start; id < end; id++) {
        mine += work[id];
    }
    values[i] = mine;
    for (var s = 1u; s < THREADS; s <<= 1u) {
        workgroupBarrier();
        var left = 0.0;
        if i >= s {
            left = values[i - s];
        }
        workgroupBarrier();
        values[i] += left;
    }
    if i == 0u {
        atomicStore(&first_above, 0xffffffffu);
        atomicStore(&last_kept, 0u);
    }
    workgroupBarrier();
    var cumulative = below + values[i] - mine;
    for (var id = start; id < end; id++) {
        let weight = work[id];
        if weight > 0.0 {
            cumulative += weight;
            atomicMax(&last_kept, id);
            if cumulative > target_mass {
                atomicMin(&first_above, id);
                break;
            }
        }
    }
    workgroupBarrier();
    let first = atomicLoad(&first_above);
    return select(first, atomicLoad(&last_kept), first == 0xffffffffu);
}

// Weights held in 8 bits (src/packed/q8.rs), read by octets. See weights_f16.wgsl. Activations stay f32: a product is exact up
// to f32 rounding, and a step is bound by bytes or by dispatches, not by the arithmetic that `dot4I8Packed` would save.

@group(0) @binding(8) var<storage, read> weight: array<vec2u>; // (rows, columns) i8
@group(0) @binding(9) var<storage, read> scales: array<u32>; // (rows, columns / 32) f16, two a word

struct Octet {
    low: vec4f,
    high: vec4f,
}

fn scale_of(at: u32) -> f32 {
    let pair = unpack2x16float(scales[at / 8u]);
    return select(pair.x, pair.y, (at & 4u) != 0u);
}

/// The four bytes of a word, the lowest first.
fn integers(word: u32) -> vec4f {
    return vec4f(bitcast<vec4i>(vec4u(word) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));
}

fn octet(at: u32) -> Octet {
    let w = weight[at];
    let scale = scale_of(at);
    return Octet(scale * integers(w.x), scale * integers(w.y));
}

/// Of an octet and eight elements of an activation.
fn product(at: u32, a: vec4f, b: vec4f) -> f32 {
    let w = weight[at];
    return scale_of(at) * (dot(integers(w.x), a) + dot(integers(w.y), b));
}

// Weights held in 4 bits (src/packed/q4.rs), read by octets. See weights_f16.wgsl.

@group(0) @binding(8) var<storage, read> weight: array<u32>; // (rows, columns) codes, eight a word
@group(0) @binding(9) var<storage, read> scales: array<u32>; // (rows, columns / 32) f16 scale, f16 minimum

struct Octet {
    low: vec4f,
    high: vec4f,
}

/// The lowest four codes of a word.
fn codes(word: u32) -> vec4f {
    return vec4f(vec4u(word) >> vec4u(0u, 4u, 8u, 12u) & vec4u(15u));
}

fn octet(at: u32) -> Octet {
    let w = weight[at];
    let s = unpack2x16float(scales[at / 4u]);
    return Octet(s.x * codes(w) + s.y, s.x * codes(w >> 16u) + s.y);
}

/// Of an octet and eight elements of an activation.
fn product(at: u32, a: vec4f, b: vec4f) -> f32 {
    let w = weight[at];
    let s = unpack2x16float(scales[at / 4u]);
    return s.x * (dot(codes(w), a) + dot(codes(w >> 16u), b)) + s.y * dot(vec4f(1.0), a + b);
}

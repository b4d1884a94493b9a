// Weights held as f16, read by octets: eight columns of a row. Prepended to the verbs that read weights; where the model is
// held in 8 bits, weights_q8.wgsl is.

@group(0) @binding(8) var<storage, read> weight: array<vec4u>; // (rows, columns) f16

struct Octet {
    low: vec4f,
    high: vec4f,
}

fn octet(at: u32) -> Octet {
    let w = weight[at];
    return Octet(vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), vec4f(unpack2x16float(w.z), unpack2x16float(w.w)));
}

/// Of an octet and eight elements of an activation.
fn product(at: u32, a: vec4f, b: vec4f) -> f32 {
    let w = weight[at];
    return dot(vec4f(unpack2x16float(w.x), unpack2x16float(w.y)), a)
        + dot(vec4f(unpack2x16float(w.z), unpack2x16float(w.w)), b);
}

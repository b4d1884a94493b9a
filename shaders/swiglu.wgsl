// f = SiLU(gate) * up (Shazeer 2020), of the product of many rows.

override WIDTH: u32 = 64u; // of f

@group(0) @binding(0) var<storage, read> y: array<vec4f>; // (rows, 2 WIDTH): gate, up
@group(0) @binding(1) var<storage, read_write> f: array<vec4f>; // (rows, WIDTH)

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) at: vec3u) {
    let width = WIDTH / 4u;
    if at.x < width {
        let gate = y[at.y * 2u * width + at.x];
        f[at.y * width + at.x] = gate / (1.0 + exp(-gate)) * y[(2u * at.y + 1u) * width + at.x];
    }
}

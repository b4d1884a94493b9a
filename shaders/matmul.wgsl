// y = A . W^T, or y += A . W^T: the product of many rows, in tiles of 64 x 64. A thread makes 4 x 4 elements.

/// Rows that `activation` has room for: with the sizes of the buffers it tells the shapes, so that one pipeline serves all matrices.
override ROOM: u32 = 512u;
/// Of y, where W is a part of a matrix and its first row makes column FIRST; 0: W is all of it.
override STRIDE: u32 = 0u;
override FIRST: u32 = 0u;
override ADD: u32 = 0u;
/// 1: rows of logits, else all rows of the pass.
override LOGITS: u32 = 0u;

const TILE = 64u;
const DEPTH = 32u;

@group(0) @binding(1) var<storage, read> activation: array<vec4f>; // (rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (rows, stride)

// Both tiles lie transposed: four neighbouring rows are one load.
var<workgroup> tile_a: array<array<Quad, TILE / 4u>, DEPTH>;
var<workgroup> tile_w: array<array<Quad, TILE / 4u>, DEPTH>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let rows = select(step.rows, step.logit_rows, LOGITS == 1u);
    let cols = arrayLength(&activation) / ROOM * 4u; // a multiple of 32
    let count = arrayLength(&weight) / (cols / 8u); // rows of W
    let stride = select(STRIDE, count, STRIDE == 0u);
    let line = i % TILE;
    let part = i / TILE; // 0..4
    let row = min(group.y * TILE + line, rows - 1u); // past the end: computed, never stored
    let col = min(group.x * TILE + line, count - 1u);
    let from_a = row * (cols / 4u) + part;
    let from_w = col * (cols / 8u) + part;
    let tx = i % 16u;
    let ty = i / 16u;
    var sum = array<vec4f, 4>();
    for (var k = 0u; k < cols / DEPTH; k++) {
        let a0 = activation[from_a + 8u * k];
        let a1 = activation[from_a + 8u * k + 4u];
        let w = octet(from_w + 4u * k);
        workgroupBarrier();
        let q = line / 4u;
        let c = line % 4u;
        tile_a[4u * part][q][c] = Element(a0.x);
        tile_a[4u * part + 1u][q][c] = Element(a0.y);
        tile_a[4u * part + 2u][q][c] = Element(a0.z);
        tile_a[4u * part + 3u][q][c] = Element(a0.w);
        tile_a[4u * part + 16u][q][c] = Element(a1.x);
        tile_a[4u * part + 17u][q][c] = Element(a1.y);
        tile_a[4u * part + 18u][q][c] = Element(a1.z);
        tile_a[4u * part + 19u][q][c] = Element(a1.w);
        tile_w[8u * part][q][c] = Element(w.low.x);
        tile_w[8u * part + 1u][q][c] = Element(w.low.y);
        tile_w[8u * part + 2u][q][c] = Element(w.low.z);
        tile_w[8u * part + 3u][q][c] = Element(w.low.w);
        tile_w[8u * part + 4u][q][c] = Element(w.high.x);
        tile_w[8u * part + 5u][q][c] = Element(w.high.y);
        tile_w[8u * part + 6u][q][c] = Element(w.high.z);
        tile_w[8u * part + 7u][q][c] = Element(w.high.w);
        workgroupBarrier();
        for (var d = 0u; d < DEPTH; d++) {
            let a = vec4f(tile_a[d][ty]);
            let b = vec4f(tile_w[d][tx]);
            sum[0] += a.x * b;
            sum[1] += a.y * b;
            sum[2] += a.z * b;
            sum[3] += a.w * b;
        }
    }
    let to_col = group.x * TILE + 4u * tx;
    for (var r = 0u; r < 4u; r++) {
        let to_row = group.y * TILE + 4u * ty + r;
        for (var c = 0u; c < 4u; c++) {
            if to_row < rows && to_col + c < count {
                let to = to_row * stride + FIRST + to_col + c;
                if ADD == 1u {
                    y[to] += sum[r][c];
                } else {
                    y[to] = sum[r][c];
                }
            }
        }
    }
}

// y = A . W^T, or y += A . W^T: the product of many rows, in tiles of 64 x 64. A thread makes 4 x 4 elements.

override COLS: u32 = 32u; // of A and of W, a multiple of 32
override COUNT: u32 = 64u; // rows of W
override STRIDE: u32 = 64u; // of y
override FIRST: u32 = 0u; // column of y that the first row of W makes
override ADD: u32 = 0u;
/// 1: rows of logits, else all rows of the pass.
override LOGITS: u32 = 0u;

const TILE = 64u;
const DEPTH = 32u;

@group(0) @binding(1) var<storage, read> activation: array<vec4f>; // (rows, COLS)
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (rows, STRIDE)

// Both tiles lie transposed: four neighbouring rows are one load.
var<workgroup> tile_a: array<array<Quad, TILE / 4u>, DEPTH>;
var<workgroup> tile_w: array<array<Quad, TILE / 4u>, DEPTH>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) i: u32) {
    let rows = select(step.rows, step.logit_rows, LOGITS == 1u);
    let line = i % TILE;
    let part = i / TILE; // 0..4
    let row = min(group.y * TILE + line, rows - 1u); // past the end: computed, never stored
    let col = min(group.x * TILE + line, COUNT - 1u);
    let from_a = row * (COLS / 4u) + part;
    let from_w = col * (COLS / 8u) + part;
    let tx = i % 16u;
    let ty = i / 16u;
    var sum = array<vec4f, 4>();
    for (var k = 0u; k < COLS / DEPTH; k++) {
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
            if to_row < rows && to_col + c < COUNT {
                let to = to_row * STRIDE + FIRST + to_col + c;
                if ADD == 1u {
                    y[to] += sum[r][c];
                } else {
                    y[to] = sum[r][c];
                }
            }
        }
    }
}

// What a decode step of a given shape can cost in this browser: the same bytes, dispatches (5 an executed layer + 3) and
// dependencies as a real step, with plain matrix-vector kernels and no attention arithmetic. Not a model: a ceiling to aim at.

const GEMV = (subgroups) => `${subgroups ? 'enable subgroups;' : ''}
  override K8: u32; override ROWS: u32;
  @group(0) @binding(0) var<storage, read> w: array<vec4u>;
  @group(0) @binding(1) var<storage, read> x: array<vec4f>;
  @group(0) @binding(2) var<storage, read_write> y: array<f32>;
  var<workgroup> part: array<f32, 128>;
  @compute @workgroup_size(32, 4) fn main(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u${subgroups ? ', @builtin(subgroup_size) size: u32' : ''}) {
    let row = g.x * 4u + l.y; var s = 0.0;
    if (row < ROWS) { for (var k = l.x; k < K8; k += 32u) { let q = w[row * K8 + k]; let a = x[2u * k]; let b = x[2u * k + 1u];
      s += dot(vec4f(unpack2x16float(q.x), unpack2x16float(q.y)), a) + dot(vec4f(unpack2x16float(q.z), unpack2x16float(q.w)), b); } }
    ${subgroups ? 'if (size == 32u) { let t = subgroupAdd(s); if (l.x == 0u && row < ROWS) { y[row] = t * 1e-3; } return; }' : ''}
    part[l.y * 32u + l.x] = s; workgroupBarrier();
    if (l.x == 0u && row < ROWS) { var t = 0.0; for (var k = 0u; k < 32u; k++) { t += part[l.y * 32u + k]; } y[row] = t * 1e-3; } }`;
const SMALL = `@group(0) @binding(0) var<storage, read> x: array<f32>; @group(0) @binding(1) var<storage, read_write> y: array<f32>;
  override VOCAB: u32 = 1u; var<workgroup> m: array<f32, 256>;
  @compute @workgroup_size(256) fn attend(@builtin(workgroup_id) g: vec3u, @builtin(local_invocation_id) l: vec3u) {
    m[l.x] = x[g.x * 64u + (l.x & 63u)]; workgroupBarrier();
    if (l.x < 64u) { y[g.x * 64u + l.x] = (m[l.x] + m[l.x + 64u] + m[l.x + 128u] + m[l.x + 192u]) * 0.25; } }
  @compute @workgroup_size(256) fn top(@builtin(local_invocation_id) l: vec3u) {
    var v = -1e30; for (var k = l.x; k < VOCAB; k += 256u) { v = max(v, x[k]); } m[l.x] = v; workgroupBarrier();
    if (l.x == 0u) { for (var k = 1u; k < 256u; k++) { v = max(v, m[k]); } y[0] = v; } }`;

/** Milliseconds a token of a step shaped like `config`, `flight` submissions of one token in flight. */
export async function ceiling(config, flight = 3, tokens = 240) {
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' });
  const subgroups = adapter.features.has('subgroups');
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredFeatures: subgroups ? ['subgroups'] : [],
    requiredLimits: { maxBufferSize, maxStorageBufferBindingSize },
  });
  const gemv = device.createShaderModule({ code: GEMV(subgroups) });
  const small = device.createShaderModule({ code: SMALL });
  const buffer = (size) => device.createBuffer({ size, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
  const pipeline = (module, entryPoint, constants) =>
    device.createComputePipeline({ layout: 'auto', compute: { module, entryPoint, constants } });
  const bind = (pipe, ...buffers) =>
    device.createBindGroup({
      layout: pipe.getBindGroupLayout(0),
      entries: buffers.map((b, binding) => ({ binding, resource: { buffer: b } })),
    });
  const { hidden_size: H, intermediate_size: F, vocab_size: V, num_attention_heads: heads } = config;
  const qkv = (heads + 2 * config.num_key_value_heads) * config.head_dim;
  const width = heads * config.head_dim;
  const make = (rows, cols) => [pipeline(gemv, 'main', { K8: cols / 8, ROWS: rows }), Math.ceil(rows / 4)];
  const P = { qkv: make(qkv, H), out: make(H, width), up: make(2 * F, H), down: make(H, F), head: make(V, H) };
  const attend = pipeline(small, 'attend', {});
  const top = pipeline(small, 'top', { VOCAB: V });
  const [x, q, a, f, logits, chosen] = [H, qkv, width, 2 * F, V, 64].map((n) => buffer(n * 4));
  const steps = [];
  for (let block = 0; block < config.num_hidden_layers; block++) {
    const weight = (rows, cols) => buffer(rows * cols * 2);
    const gemvStep = ([pipe, groups], w, from, to) => [pipe, bind(pipe, w, from, to), groups];
    const layer = [
      gemvStep(P.qkv, weight(qkv, H), x, q),
      [attend, bind(attend, q, a), heads],
      gemvStep(P.out, weight(H, width), a, x),
      gemvStep(P.up, weight(2 * F, H), x, f),
      gemvStep(P.down, weight(H, F), f, x),
    ];
    steps.push(...layer, ...(config.layer_sharing ? layer : []));
  }
  steps.push(
    [P.head[0], bind(P.head[0], buffer(V * H * 2), x, logits), P.head[1]],
    [top, bind(top, logits, chosen), 1],
    [attend, bind(attend, q, a), 1],
  );
  const staging = Array.from({ length: flight }, () =>
    device.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST }),
  );
  const submit = async (slot) => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const [pipe, group, n] of steps) {
      pass.setPipeline(pipe);
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(n);
    }
    pass.end();
    encoder.copyBufferToBuffer(chosen, 0, staging[slot], 0, 4);
    device.queue.submit([encoder.finish()]);
    await staging[slot].mapAsync(GPUMapMode.READ);
    staging[slot].unmap();
  };
  await submit(0);
  const start = performance.now();
  const waiting = [];
  for (let i = 0; i < tokens; i++) {
    if (waiting.length === flight) await waiting.shift();
    waiting.push(submit(i % flight));
  }
  await Promise.all(waiting);
  const ms = (performance.now() - start) / tokens;
  device.destroy();
  return ms;
}

// Measures the WebGPU backend on models of several shapes with seeded weights, next to the ceiling of the same shape.

import { ceiling } from './ceiling.js';
import { median } from './measure.mjs';

const block = (layers, hidden, heads, kv, ffn, more = {}) => ({
  model_type: 'mobilellm',
  vocab_size: 32000,
  hidden_size: hidden,
  intermediate_size: ffn,
  num_hidden_layers: layers,
  num_attention_heads: heads,
  num_key_value_heads: kv,
  head_dim: 64,
  hidden_act: 'silu',
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  share_embedding: true,
  bos_token_id: 1,
  eos_token_id: 2,
  ...more,
});
export const SHAPES = {
  'demo model': block(8, 384, 6, 2, 896, { layer_sharing: true, vocab_size: 6144, eos_token_id: 8 }),
  'MobileLLM-125M': block(30, 576, 9, 3, 1536),
  'MobileLLM-LS-125M': block(30, 576, 9, 3, 1536, { layer_sharing: true }),
  '60 unshared layers': block(60, 576, 9, 3, 1536),
  'MobileLLM-350M': block(32, 960, 15, 5, 2560),
};

const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;

/** One row of the record. `quick`: for software adapters; `plain`: without shader-f16 and subgroups. */
export async function measure({ GpuBench }, name, config, { quick = false, dtype = 'f16', plain = false } = {}) {
  const [few, count, encodes] = quick ? [1, 8, 4] : [5, 256, 64];
  const floorMs = await ceiling(config, 3, quick ? 4 : 240);
  const bench = await GpuBench.open(JSON.stringify(config), dtype, plain);
  const o = bench.opened();
  const rate = (times) => 1000 / mean(times);
  await bench.prefill(512, 2);
  const row = {
    name: [name, dtype !== 'f16' && dtype, plain && 'plain'].filter(Boolean).join(', '),
    adapter: [o.adapter, ...o.features].join(', '),
    parameters: o.parameters,
    deviceMs: o.deviceMs,
    initMs: o.initMs,
    uploadMs: o.uploadMs,
    compiledMs: o.compiledMs,
    selfCheck: o.selfCheck,
    selfCheckMs: o.selfCheckMs,
    uploadGBs: (2 * o.parameters) / o.uploadMs / 1e6,
    prefill128Ms: median(await bench.prefill(128, few)),
    prefill512Ms: median(await bench.prefill(512, few)),
    encodeMs: await bench.encode(encodes),
  };
  await bench.decode(128, quick ? 2 : 32, 0, 1);
  row.greedy = rate(await bench.decode(128, count, 0, 1));
  row.sampled = rate(await bench.decode(128, count, 0.8, 0.95));
  row.greedyGBs = (row.greedy * o.stepBytes) / 1e9;
  row.ceiling = 1000 / floorMs;
  row.ofCeiling = row.greedy / row.ceiling;
  row.prefill128 = 128e3 / row.prefill128Ms;
  row.prefill512 = 512e3 / row.prefill512Ms;
  bench.free();
  return row;
}

// Small checkpoints with seeded random weights and the demo's tokenizer, in memory: what faults are tried on.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';

const demo = (name) => readFileSync(join(root, 'www/models/demo', name));
export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** Mulberry32: numbers in [0, 1), the same for the same seed. */
export function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Files by name: `shards` safetensors of about the same size, one piece each, with an index or (`manifest`) with hashes as the
 * converter writes them. `megabytes`: about so many of weights, at least 1.
 */
export function checkpoint({ seed, shards, manifest = false, megabytes = 1 }) {
  const config = {
    ...JSON.parse(demo('config.json')),
    hidden_size: 64,
    num_attention_heads: 1,
    num_key_value_heads: 1,
    intermediate_size: 128,
    head_dim: 64,
    num_hidden_layers: Math.max(2, Math.round((megabytes * 1e6 - 786_432) / 82_176)),
    layer_sharing: false,
  };
  const { hidden_size: d, intermediate_size: f, vocab_size: vocab } = config;
  const tensors = [
    ['model.embed_tokens.weight', [vocab, d]],
    ['model.norm.weight', [d]],
  ];
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = (name, shape) => tensors.push([`model.layers.${i}.${name}.weight`, shape]);
    layer('input_layernorm', [d]);
    layer('post_attention_layernorm', [d]);
    for (const name of ['q', 'k', 'v', 'o']) layer(`self_attn.${name}_proj`, [d, d]);
    for (const name of ['gate', 'up']) layer(`mlp.${name}_proj`, [f, d]);
    layer('mlp.down_proj', [d, f]);
  }
  const size = ([, shape]) => 2 * shape.reduce((a, b) => a * b);
  const total = tensors.reduce((sum, tensor) => sum + size(tensor), 0);
  // In order; the embedding, which is more than a share, has the first shard for itself.
  const groups = [[]];
  let filled = 0;
  for (const tensor of tensors) {
    const least = (total - size(tensors[0])) / (shards - 1);
    if (groups.length < shards && (groups.length === 1 ? groups[0].length > 0 : filled >= least)) groups.push([]), (filled = 0);
    groups.at(-1).push(tensor);
    filled += size(tensor);
  }
  const random = dice(seed);
  const files = new Map([['config.json', Buffer.from(JSON.stringify(config))]]);
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'generation_config.json']) files.set(name, demo(name));
  const weightMap = {};
  const listed = [];
  for (const [n, group] of groups.entries()) {
    const name = `model-${String(n + 1).padStart(5, '0')}-of-${String(groups.length).padStart(5, '0')}.safetensors`;
    const header = {};
    let at = 0;
    for (const tensor of group) {
      header[tensor[0]] = { dtype: 'F16', shape: tensor[1], data_offsets: [at, (at += size(tensor))] };
      weightMap[tensor[0]] = name;
    }
    let json = JSON.stringify(header);
    json += ' '.repeat((8 - (json.length % 8)) % 8);
    const bytes = Buffer.alloc(8 + json.length + at);
    bytes.writeBigUInt64LE(BigInt(json.length));
    bytes.write(json, 8);
    // Magnitudes from 2^-6 to 2^-5, either sign.
    for (let i = 8 + json.length; i < bytes.length; i += 2) bytes.writeUInt16LE((Math.floor(random() * 65536) & 0x83ff) | 0x2400, i);
    files.set(name, bytes);
    for (const [
      tensor,
      {
        dtype,
        shape,
        data_offsets: [start],
      },
    ] of Object.entries(header)) {
      listed.push({ name: tensor, dtype, shape, file: name, start: 8 + json.length + start });
    }
  }
  files.set('model.safetensors.index.json', Buffer.from(JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap })));
  if (manifest) {
    const entries = [...files].map(([name, bytes]) => ({ name, size: bytes.length, sha256: sha256(bytes) }));
    files.set(
      'manifest.json',
      Buffer.from(JSON.stringify({ format: 'mobilellm-weights', version: 1, piece_size: 4 << 20, files: entries, tensors: listed })),
    );
  }
  return files;
}

export const isShard = (name) => name.endsWith('.safetensors');

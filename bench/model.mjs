// A checkpoint of the shape of MobileLLM-125M (the paper's Table 9) with seeded random weights and the demo's tokenizer: for
// speed only the shapes matter.
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root, run, target } from '../scripts/lib.mjs';

/** Where what is made for benchmarks lies. */
export const made = join(target, 'bench');

/** Makes the checkpoint unless it is there; returns its folder. `layerSharing`: every block runs twice, as in the LS models. */
export function synthesise({ layerSharing = false, layers = 30 } = {}) {
  const name = `125m${layerSharing ? '-ls' : ''}${layers === 30 ? '' : `-${layers}`}`;
  const folder = join(made, name);
  if (existsSync(join(folder, 'config.json')) && existsSync(join(folder, 'tokenizer.json'))) return folder;
  mkdirSync(made, { recursive: true });
  const config = {
    architectures: ['MobileLLMForCausalLM'],
    model_type: 'mobilellm',
    vocab_size: 32000,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: layers,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    head_dim: 64,
    hidden_act: 'silu',
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    max_position_embeddings: 2048,
    share_embedding: true,
    tie_word_embeddings: false,
    layer_sharing: layerSharing,
    attention_bias: false,
    mlp_bias: false,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: 'float16',
  };
  writeFileSync(join(made, `${name}.json`), JSON.stringify(config));
  run('cargo', ['run', '--no-default-features', '--bin', 'mobilellm', '--', 'synth', folder, join(made, `${name}.json`), '--shards', '16']);
  for (const file of ['tokenizer.json', 'tokenizer_config.json']) copyFileSync(join(root, 'www/models/demo', file), join(folder, file));
  return folder;
}

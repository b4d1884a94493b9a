// Runs in the page: the WebGPU backends of this package, wllama and transformers.js on the same weights (MobileLLM-125M's shape, from the
// folder that the peer benchmark set up), one after the other in one page, each through its public interface; and this package's own bench.

import { load as own } from './adapter.mjs';
import { measure as bench, SHAPES } from '../gpu.js';

const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];
const LOADERS = {
  own: (dtype) => own(location.origin, { dtype, device: 'webgpu' }),
  wllama,
  transformers,
};
export const CASES = ['bench', 'own f16', 'own q8', 'wllama f16', 'wllama q8_0', 'transformers fp32', 'transformers fp16', 'own f16', 'bench'];

/** One row. Decode: 64 steps after the first token of the 128-token prompt, by the clock of the callbacks; greedy, nothing cached. */
export async function measure(name, quick) {
  if (name === 'bench') {
    const glue = new URL('/wasm/mobilellm_web.js', location);
    const wasm = await import(glue);
    await wasm.default({ module_or_path: new URL('mobilellm_web_bg.wasm', glue) });
    return bench(wasm, 'MobileLLM-125M', SHAPES['MobileLLM-125M'], { quick });
  }
  const prompts = Object.fromEntries((await (await fetch('/ref/prompts.json')).json()).map((prompt) => [prompt.name, prompt]));
  const start = performance.now();
  const [kind, format] = name.split(' ');
  const runtime = await LOADERS[kind](format);
  const row = { name, loadMs: performance.now() - start };
  if (runtime.info) Object.assign(row, { initMs: runtime.info.timings.initMs, adapter: [runtime.info.device, runtime.info.adapter, ...runtime.info.features].join(', ') });
  const run = async (prompt, n) => {
    const times = [];
    const begin = performance.now();
    await runtime.generate(prompt, n, () => times.push(performance.now()));
    if (times.length !== n) throw new Error(`${times.length} tokens instead of ${n}`);
    return { firstMs: times[0] - begin, rate: (1000 * (n - 1)) / (times.at(-1) - times[0]) };
  };
  const repeat = async (prompt, n) => {
    const samples = [];
    for (let k = 0; k < (quick ? 1 : 5); k++) samples.push(await run(prompts[prompt], n));
    return samples;
  };
  await run(prompts.p16, quick ? 2 : 8);
  if (!quick) {
    for (const prompt of ['p128', 'p512']) {
      row[`${prompt}Ms`] = median((await repeat(prompt, 2)).map((sample) => sample.firstMs));
      row[prompt] = (1000 * prompts[prompt].ids.length) / row[`${prompt}Ms`];
    }
  }
  const rates = (await repeat(quick ? 'p16' : 'p128', quick ? 3 : 65)).map((sample) => sample.rate);
  row.greedy = median(rates);
  row.samples = rates.map((rate) => rate.toPrecision(3)).join(' ');
  if (!quick) row.greedy256 = (await run(prompts.p128, 257)).rate;
  const { ids } = await runtime.check(prompts.p16, quick ? 2 : 32);
  const differs = ids.findIndex((id, k) => id !== prompts.p16.greedy[k]);
  row.sameAsFloat32 = `${differs < 0 ? ids.length : differs} of ${ids.length}`;
  await runtime.dispose();
  return row;
}

async function wllama(format) {
  const { Wllama } = await import('/js/@wllama/wllama/esm/index.min.js');
  const quiet = { debug() {}, log() {}, warn() {}, error: console.error };
  const w = new Wllama({ default: `${location.origin}/js/@wllama/wllama/esm/wasm/wllama.wasm` }, { suppressNativeLog: true, logger: quiet });
  w.setCompat(null);
  const file = await (await fetch(`/models/gguf/model-${format}.gguf`)).blob();
  await w.loadModel([file], { n_ctx: 1024, n_threads: 4, n_gpu_layers: 999, n_parallel: 1, seed: 1 });
  const run = (prompt, n, more) =>
    w.createCompletion({
      prompt: prompt.text, max_tokens: n, temperature: 0, top_k: 1, samplers: ['top_k'], ignore_eos: true, cache_prompt: false,
      timings_per_token: true, stream: true, ...more,
    });
  return {
    async generate(prompt, n, onToken) {
      let seen = 0;
      // A chunk carries no or several tokens when text is held back.
      await run(prompt, n, {
        onData({ timings }) {
          for (const have = Math.min(timings?.predicted_n ?? seen + 1, n); seen < have; seen++) onToken();
        },
      });
    },
    async check(prompt, n) {
      const ids = [];
      await run(prompt, n, { logprobs: 10, n_probs: 10, onData: ({ choices }) => ids.push(...(choices?.[0]?.logprobs?.content ?? []).map(({ id }) => id)) });
      return { ids };
    },
    dispose: () => w.exit(),
  };
}

async function transformers(dtype) {
  const { env, AutoModelForCausalLM, AutoTokenizer, Tensor, BaseStreamer } = await import('/js/@huggingface/transformers/dist/transformers.min.js');
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = '/models/';
  env.useBrowserCache = false;
  env.useWasmCache = false;
  const { wasm } = env.backends.onnx;
  const dist = `${location.origin}/js/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify`;
  wasm.wasmPaths = { mjs: `${dist}.mjs`, wasm: `${dist}.wasm` };
  wasm.numThreads = 4;
  wasm.proxy = false;
  const [llm] = await Promise.all([AutoModelForCausalLM.from_pretrained('onnx', { device: 'webgpu', dtype }), AutoTokenizer.from_pretrained('onnx')]);
  const row = (values) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
  const generate = async ({ ids }, n, onToken) => {
    const made = [];
    class Streamer extends BaseStreamer {
      #prompt = true;
      put(value) {
        if (!this.#prompt) {
          onToken?.();
          made.push(Number(value[0][0] ?? value[0]));
        }
        this.#prompt = false;
      }
      end() {}
    }
    await llm.generate({ input_ids: row(ids), attention_mask: row(ids.map(() => 1)), max_new_tokens: n, min_new_tokens: n, do_sample: false, streamer: new Streamer() });
    return { ids: made };
  };
  return { generate, check: generate, dispose: () => llm.dispose() };
}

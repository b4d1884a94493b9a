// Runs in a page: this package, wllama and transformers.js behind one interface, with the packages and models that the peer benchmark set
// up (the same weights in each one's format).

import { load } from './adapter.mjs';

/**
 * Name -> (format, options) -> `{ info?, generate({ ids, text }, n, onToken), check({ ids, text }, n) -> { ids }, dispose() }`; greedy, nothing of
 * an earlier prompt. Options: `webgpu`: there or on the CPU; `threads`; `cached`: the weights come from the runtime's own storage where they
 * are there; others are for this package's load.
 */
export const runtimes = {
  own: (dtype, { webgpu, threads, cached, ...more }) =>
    load(location.origin, {
      dtype,
      device: webgpu ? 'webgpu' : 'cpu',
      cache: cached ? 'indexeddb' : 'none',
      ...(webgpu ? {} : { threads }),
      ...more,
    }),
  wllama,
  transformers,
};

async function wllama(format, { webgpu, threads, cached }) {
  const { Wllama } = await import('/js/@wllama/wllama/esm/index.min.js');
  const quiet = { debug() {}, log() {}, warn() {}, error: console.error };
  const w = new Wllama(
    { default: `${location.origin}/js/@wllama/wllama/esm/wasm/wllama.wasm` },
    { suppressNativeLog: true, logger: quiet },
  );
  w.setCompat(null);
  const url = `${location.origin}/models/gguf/model-${format}.gguf`;
  const options = { n_ctx: 1024, n_threads: threads, n_gpu_layers: webgpu ? 999 : 0, n_parallel: 1, seed: 1 };
  if (cached) await w.loadModelFromUrl(url, { ...options, useCache: true });
  else await w.loadModel([await (await fetch(url)).blob()], options);
  const run = (prompt, n, more) =>
    w.createCompletion({
      prompt: prompt.text,
      max_tokens: n,
      temperature: 0,
      top_k: 1,
      samplers: ['top_k'],
      ignore_eos: true,
      cache_prompt: false,
      timings_per_token: true,
      stream: true,
      ...more,
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
      await run(prompt, n, {
        logprobs: 10,
        n_probs: 10,
        onData: ({ choices }) => ids.push(...(choices?.[0]?.logprobs?.content ?? []).map(({ id }) => id)),
      });
      return { ids };
    },
    dispose: () => w.exit(),
  };
}

async function transformers(dtype, { webgpu, threads, cached }) {
  const { env, AutoModelForCausalLM, AutoTokenizer, Tensor, BaseStreamer } = await import(
    '/js/@huggingface/transformers/dist/transformers.min.js'
  );
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = '/models/';
  env.useBrowserCache = cached;
  env.useWasmCache = cached;
  const { wasm } = env.backends.onnx;
  const dist = `${location.origin}/js/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify`;
  wasm.wasmPaths = { mjs: `${dist}.mjs`, wasm: `${dist}.wasm` };
  wasm.numThreads = threads;
  wasm.proxy = false;
  const [llm] = await Promise.all([
    AutoModelForCausalLM.from_pretrained('onnx', { device: webgpu ? 'webgpu' : 'wasm', dtype }),
    AutoTokenizer.from_pretrained('onnx'),
  ]);
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
    await llm.generate({
      input_ids: row(ids),
      attention_mask: row(ids.map(() => 1)),
      max_new_tokens: n,
      min_new_tokens: n,
      do_sample: false,
      streamer: new Streamer(),
    });
    return { ids: made };
  };
  return { generate, check: generate, dispose: () => llm.dispose() };
}

// Warm load to first token of this package next to wllama and transformers.js, on the CPU, each from its own storage of an earlier visit: the
// packages and models that the peer benchmark set up in the folder $PEERBENCH (the same weights in each one's format).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { launchWith } from '../../tests/lib/browser.mjs';

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];
const CONFIGS = [
  { name: 'mobilellm-web f16', kind: 'own', dtype: 'f16' },
  { name: 'mobilellm-web q8', kind: 'own', dtype: 'q8' },
  { name: "mobilellm-web f16, verify: 'first'", kind: 'own', dtype: 'f16', verify: 'first' },
  { name: 'wllama f16', kind: 'wllama', model: 'model-f16.gguf' },
  { name: 'wllama q8_0', kind: 'wllama', model: 'model-q8_0.gguf' },
  { name: 'transformers.js fp16', kind: 'transformers', dtype: 'fp16' },
  { name: 'transformers.js q8', kind: 'transformers', dtype: 'q8' },
];

/** Rows of milliseconds, medians of `visits` later visits, each a new browser process. Rounds go through all configurations, so that a slow moment hits all. */
export async function measureWarm(peers, { visits = 3, threads = 1 } = {}) {
  const { server, url } = await serve({
    '/pkg/': join(root, 'pkg'), '/tests/': join(root, 'tests'), '/js/': join(peers, 'js/node_modules'), '/models/': join(peers, 'models'), '/': join(root, 'www'),
  });
  const [prompt] = JSON.parse(readFileSync(join(peers, 'ref/prompts.json'), 'utf8')).sort((a, b) => a.ids.length - b.ids.length);
  const runs = CONFIGS.map((config) => ({ config, profile: mkdtempSync(join(tmpdir(), 'mobilellm-peers-')), samples: [] }));
  try {
    for (let round = 0; round <= visits; round++) {
      for (const run of runs) {
        const context = await launchWith(run.profile, { webgpu: 'none' });
        try {
          const page = await context.newPage();
          await page.goto(`${url}tests/lib/blank.html`);
          await page.waitForFunction('globalThis.ready');
          const sample = await page.evaluate(toFirstToken, { ...run.config, prompt, threads });
          if (round > 0) run.samples.push(sample);
        } finally {
          await context.close();
        }
      }
    }
  } finally {
    server.closeAllConnections();
    server.close();
    for (const { profile } of runs) rmSync(profile, { recursive: true, force: true });
  }
  return runs.map(({ config, samples }) => ({
    runtime: config.name, threads, promptTokens: prompt.ids.length,
    readyMs: median(samples.map((s) => s.ready)), firstTokenMs: median(samples.map((s) => s.first)), samples: samples.map((s) => Math.round(s.first)).join(' '),
  }));
}

/** Runs in the page: milliseconds from the import of the package to the model's readiness and to its first token. */
async function toFirstToken({ kind, dtype, verify, model, prompt, threads }) {
  const start = performance.now();
  const since = () => performance.now() - start;
  if (kind === 'own') {
    const { MobileLLM } = await import('/pkg/index.js');
    const llm = await MobileLLM.load('/models/hf/', { device: 'cpu', dtype, threads, verify, contextLength: 1024 });
    const ready = since();
    for await (const chunk of llm.generate(prompt.text, { maxTokens: 1, ignoreEos: true })) if (chunk.tokenIds.length > 0) return { ready, first: since() };
    throw new Error('no token');
  }
  if (kind === 'wllama') {
    const { Wllama } = await import('/js/@wllama/wllama/esm/index.min.js');
    const quiet = { debug() {}, log() {}, warn() {}, error: console.error };
    const w = new Wllama({ default: `${location.origin}/js/@wllama/wllama/esm/wasm/wllama.wasm` }, { suppressNativeLog: true, logger: quiet });
    w.setCompat(null);
    await w.loadModelFromUrl(`${location.origin}/models/gguf/${model}`, { n_ctx: 1024, n_threads: threads, n_gpu_layers: 0, n_parallel: 1, useCache: true });
    const ready = since();
    let first = null;
    await w.createCompletion({
      prompt: prompt.text, max_tokens: 1, temperature: 0, top_k: 1, samplers: ['top_k'], ignore_eos: true, cache_prompt: false, stream: true, onData: () => (first ??= since()),
    });
    return { ready, first };
  }
  const { env, AutoModelForCausalLM, AutoTokenizer, Tensor, BaseStreamer } = await import('/js/@huggingface/transformers/dist/transformers.min.js');
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = '/models/';
  // What its cache is for: models that it has fetched once.
  env.useBrowserCache = true;
  const dist = `${location.origin}/js/onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify`;
  const { wasm } = env.backends.onnx;
  wasm.wasmPaths = { mjs: `${dist}.mjs`, wasm: `${dist}.wasm` };
  wasm.numThreads = threads;
  wasm.proxy = false;
  const [llm] = await Promise.all([AutoModelForCausalLM.from_pretrained('onnx', { device: 'wasm', dtype }), AutoTokenizer.from_pretrained('onnx')]);
  const ready = since();
  let first = null;
  class Streamer extends BaseStreamer {
    #prompt = true;
    put() {
      if (!this.#prompt) first ??= since();
      this.#prompt = false;
    }
    end() {}
  }
  const row = (values) => new Tensor('int64', BigInt64Array.from(values, BigInt), [1, values.length]);
  const ids = prompt.ids;
  await llm.generate({ input_ids: row(ids), attention_mask: row(ids.map(() => 1)), max_new_tokens: 1, min_new_tokens: 1, do_sample: false, streamer: new Streamer() });
  return { ready, first };
}

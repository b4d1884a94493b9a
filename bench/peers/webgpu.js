// Runs in the page: the WebGPU backends of this package, wllama and transformers.js on the same weights (MobileLLM-125M's shape, from the
// folder that the peer benchmark set up), one after the other in one page, each through its public interface; and this package's own bench.

import { measure as bench, SHAPES } from '../gpu.js';
import { median } from '../measure.mjs';
import { runtimes } from './runtimes.js';

export const CASES = [
  'bench',
  'own f16',
  'own q8',
  'wllama f16',
  'wllama q8_0',
  'transformers fp32',
  'transformers fp16',
  'own f16',
  'bench',
];

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
  const runtime = await runtimes[kind](format, { webgpu: true, threads: 4, cached: false });
  const row = { name, loadMs: performance.now() - start };
  if (runtime.info)
    Object.assign(row, {
      initMs: runtime.info.timings.initMs,
      adapter: [runtime.info.device, runtime.info.adapter, ...runtime.info.features].join(', '),
    });
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

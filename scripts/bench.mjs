// Speed of the package in Chromium: load, init, prefill, decode on each tier, for the demo model and for one of the shape of
// MobileLLM-125M with seeded random weights; then cold and warm loads of the latter (bench/load.mjs) and, where PEERBENCH names the
// folder that the peer benchmark filled, warm loads next to other runtimes. Prints tables and appends a record to
// target/bench/results.jsonl.
//   npm run bench [-- words]         words choose models (demo, 125m), tiers (cpu, webgpu) and parts (speed, load, peers);
//                                    --own: the machine's own GPU instead of WebGPU in software
//   npm run bench -- --cpu [...]     the CPU tier alone, in Chromium and in Node: bench/cpu.mjs
//   npm run bench -- --busy [...]    CPU threads beside other programs: bench/busy.mjs
//   npm run bench -- --gpu [...]     the WebGPU backend alone, in one page: bench/gpu.mjs
import { appendFileSync, mkdirSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { measureLoads } from '../bench/load.mjs';
import { made, synthesise } from '../bench/model.mjs';
import { measureWarm } from '../bench/peers/warm.mjs';
import { build } from './build.mjs';
import { output, root, run, show } from './lib.mjs';
import { serve } from './serve.mjs';
import { launch } from '../tests/lib/browser.mjs';

const words = process.argv.slice(2).filter((word) => word !== '--');
await build({ bench: true });
for (const tier of ['cpu', 'gpu', 'busy']) {
  if (words[0] === `--${tier}`) {
    run(process.execPath, [join(root, `bench/${tier}.mjs`), ...words.slice(1)]);
    process.exit();
  }
}
const chosen = (names) => (names.some((name) => words.includes(name)) ? names.filter((name) => words.includes(name)) : names);
const ownGpu = words.includes('--own');
const unknown = words.filter((word) => !['demo', '125m', 'cpu', 'webgpu', 'speed', 'load', 'peers', '--own'].includes(word));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(' ')}`);
  process.exit(1);
}

const parts = chosen(['speed', 'load', 'peers']);
const models = { demo: '/models/demo/', '125m': '/bench/125m/' };
mkdirSync(made, { recursive: true });
const only = chosen(Object.keys(models));
const tiers = chosen(['cpu', 'webgpu']);
const folder = only.includes('125m') || parts.includes('load') ? synthesise() : null;

const { server, url } = await serve({
  '/': join(root, 'www'),
  '/pkg/': join(root, 'pkg'),
  '/tests/': join(root, 'tests'),
  '/bench/': made,
});
const browser = await launch({ webgpu: ownGpu ? 'own' : 'software' });
const rows = [];
for (const model of parts.includes('speed') ? only : []) {
  for (const device of tiers) {
    const page = await browser.newPage();
    await page.goto(`${url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
    const { info, ...measured } = await page
      .evaluate(measure, { source: models[model], device })
      .catch((error) => ({ error: error.message }));
    await page.close();
    if (!info) {
      console.error(`${model} on ${device}: ${measured.error}`);
      process.exitCode = 1;
      continue;
    }
    // Bytes of weights that a token passes through, f16; the embedding counts once, as the head.
    const head = info.vocabSize * info.hiddenSize;
    const bytes = 2 * (head + ((info.parameters - head) * info.executedLayers) / info.storedBlocks);
    rows.push({
      model,
      device,
      adapter: info.adapter ?? '',
      threads: info.threads,
      loadMs: info.timings.loadMs,
      initMs: info.timings.initMs,
      ...measured,
      decodeGBps: (measured.decode * bytes) / 1e9,
    });
  }
}
const version = browser.version();
await browser.close();
server.closeAllConnections();
server.close();

const loads = parts.includes('load') ? await measureLoads(folder, { devices: tiers, ownGpu }) : [];
const peers = parts.includes('peers') && process.env.PEERBENCH ? await measureWarm(process.env.PEERBENCH) : [];

console.log(`${cpus()[0]?.model} x ${cpus().length}, Chromium ${version}, ${output('git', ['describe', '--always', '--dirty'])}`);
[rows, loads, peers].forEach(show);
if (parts.includes('peers') && !process.env.PEERBENCH) console.log('Other runtimes were not measured: PEERBENCH names no folder.');
appendFileSync(
  join(made, 'results.jsonl'),
  `${JSON.stringify({ when: new Date().toISOString(), machine: cpus()[0]?.model, cores: cpus().length, chromium: version, commit: output('git', ['describe', '--always', '--dirty']), rows, loads, peers })}\n`,
);

/** Runs in the page: tokens a second, the second of two runs, so that nothing is measured that happens once. */
async function measure({ source, device }) {
  const llm = await MobileLLM.load(source, { device, cache: 'none' });
  const prompt = (tokens) => {
    // Differs from the start each time, so that no cache helps.
    const first = ' abcdefghijklmnopqrstuvwxyz'[1 + (measure.n = ((measure.n ?? 0) + 1) % 26)];
    return first + ' a'.repeat(tokens);
  };
  const timings = async (promptTokens, maxTokens) => {
    const once = () => llm.generate(prompt(promptTokens), { maxTokens, ignoreEos: true }).result;
    await once();
    return (await once()).timings;
  };
  const { prefillTokensPerSecond: prefill128 } = await timings(128, 1);
  const { prefillTokensPerSecond: prefill512 } = await timings(512, 1);
  const { decodeTokensPerSecond: decode } = await timings(64, 64);
  const { info } = llm;
  await llm.close();
  return { info, prefill128, prefill512, decode };
}

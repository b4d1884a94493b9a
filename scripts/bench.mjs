// Speed of the package in Chromium: load, init, prefill, decode on each tier, for the demo model and for one of the shape of
// MobileLLM-125M with seeded random weights. Prints a table and appends a record to target/bench/results.jsonl.
//   npm run bench [-- words]     words choose models (demo, 125m) and tiers (cpu, webgpu); --gpu: the machine's own GPU
//                                instead of WebGPU in software
import { appendFileSync, mkdirSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { made, synthesise } from '../bench/model.mjs';
import { output, root } from './lib.mjs';
import { serve } from './serve.mjs';
import { launch } from '../tests/lib/browser.mjs';

const words = process.argv.slice(2);
const chosen = (names) => (names.some((name) => words.includes(name)) ? names.filter((name) => words.includes(name)) : names);
const ownGpu = words.includes('--gpu');
const unknown = words.filter((word) => !['demo', '125m', 'cpu', 'webgpu', '--gpu', '--'].includes(word));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(' ')}`);
  process.exit(1);
}

await import('./build.mjs');
const models = { demo: '/models/demo/', '125m': '/bench/125m/' };
mkdirSync(made, { recursive: true });
if (chosen(Object.keys(models)).includes('125m')) synthesise();

const { server, url } = await serve({
  '/': join(root, 'www'), '/pkg/': join(root, 'pkg'), '/tests/': join(root, 'tests'), '/bench/': made,
});
const browser = await launch({ webgpu: ownGpu ? 'own' : 'software' });
const rows = [];
for (const model of chosen(Object.keys(models))) {
  for (const device of chosen(['cpu', 'webgpu'])) {
    const page = await browser.newPage();
    await page.goto(`${url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
    const { info, ...measured } = await page.evaluate(measure, { source: models[model], device }).catch((error) => ({ error: error.message }));
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
      model, device, adapter: info.adapter ?? '', threads: info.threads, loadMs: info.timings.loadMs, initMs: info.timings.initMs,
      ...measured, decodeGBps: (measured.decode * bytes) / 1e9,
    });
  }
}
const version = browser.version();
await browser.close();
server.closeAllConnections();
server.close();

console.log(`${cpus()[0]?.model} x ${cpus().length}, Chromium ${version}, ${output('git', ['describe', '--always', '--dirty'])}`);
console.table(rows.map((row) => Object.fromEntries(Object.entries(row).map(([k, v]) => [k, typeof v === 'number' ? Number(v.toPrecision(4)) : v]))));
appendFileSync(
  join(made, 'results.jsonl'),
  `${JSON.stringify({ when: new Date().toISOString(), machine: cpus()[0]?.model, cores: cpus().length, chromium: version, commit: output('git', ['describe', '--always', '--dirty']), rows })}\n`,
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

// Warm load to first token of this package next to wllama and transformers.js, on the CPU, each from its own storage of an earlier visit: the
// packages and models that the peer benchmark set up in the folder $PEERBENCH (the same weights in each one's format).
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { launchWith } from '../../tests/lib/browser.mjs';
import { median } from '../measure.mjs';

const CONFIGS = [
  { name: 'mobilellm-web f16', kind: 'own', format: 'f16' },
  { name: 'mobilellm-web q8', kind: 'own', format: 'q8' },
  { name: "mobilellm-web f16, verify: 'first'", kind: 'own', format: 'f16', verify: 'first' },
  { name: 'wllama f16', kind: 'wllama', format: 'f16' },
  { name: 'wllama q8_0', kind: 'wllama', format: 'q8_0' },
  { name: 'transformers.js fp16', kind: 'transformers', format: 'fp16' },
  { name: 'transformers.js q8', kind: 'transformers', format: 'q8' },
];

/** Rows of milliseconds, medians of `visits` later visits, each a new browser process. Rounds go through all configurations, so that a slow moment hits all. */
export async function measureWarm(peers, { visits = 3, threads = 1 } = {}) {
  const { server, url } = await serve({
    '/pkg/': join(root, 'pkg'),
    '/mobilellm-web/': join(root, 'pkg'),
    '/bench/': join(root, 'bench'),
    '/tests/': join(root, 'tests'),
    '/js/': join(peers, 'js/node_modules'),
    '/models/': join(peers, 'models'),
    '/': join(root, 'www'),
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
          const { name: _, ...config } = run.config;
          const sample = await page.evaluate(toFirstToken, { ...config, prompt, threads });
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
    runtime: config.name,
    threads,
    promptTokens: prompt.ids.length,
    readyMs: median(samples.map((s) => s.ready)),
    firstTokenMs: median(samples.map((s) => s.first)),
    samples: samples.map((s) => Math.round(s.first)).join(' '),
  }));
}

/** Runs in the page: milliseconds from the import of the package to the model's readiness and to its first token. */
async function toFirstToken({ kind, format, prompt, threads, ...more }) {
  const { runtimes } = await import('/bench/peers/runtimes.js');
  const start = performance.now();
  const runtime = await runtimes[kind](format, { webgpu: false, threads, cached: true, ...more });
  const ready = performance.now() - start;
  let first = null;
  await runtime.generate(prompt, 1, () => (first ??= performance.now() - start));
  return { ready, first };
}

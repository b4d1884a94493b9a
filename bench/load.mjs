// Cold and warm load of a model of 250 MB (the shape of MobileLLM-125M, seeded weights) in Chromium with its storage on disk, through the
// public API: time until ready and until the first token, MB/s, peak memory; and the speed from IndexedDB to verified bytes alone.
// Each visit is a new browser process.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serve } from '../scripts/serve.mjs';
import { root } from '../scripts/lib.mjs';
import { launchWith } from '../tests/lib/browser.mjs';
import { median } from './measure.mjs';
import { watchMemory } from './memory.mjs';

/** Rows for `devices`; `folder` holds the checkpoint. */
export async function measureLoads(folder, { devices = ['cpu', 'webgpu'], warm = 3, ownGpu = false } = {}) {
  const { server, url } = await serve({
    '/': join(root, 'www'),
    '/pkg/': join(root, 'pkg'),
    '/tests/': join(root, 'tests'),
    '/bench/': join(root, 'bench'),
    '/wasm/': join(root, 'target/bindgen/bench'),
    '/model/': folder,
  });
  const rows = [];
  try {
    for (const device of devices) {
      const profile = mkdtempSync(join(tmpdir(), 'mobilellm-bench-'));
      const visit = async (work, argument, watched = false) => {
        const context = await launchWith(profile, { webgpu: device === 'cpu' ? 'none' : ownGpu ? 'own' : 'software' });
        try {
          const page = await context.newPage();
          await page.goto(`${url}tests/lib/blank.html`);
          await page.waitForFunction('globalThis.ready');
          // Watching costs a few percent of the speed.
          const stop = watched ? await watchMemory(page) : async () => ({});
          const result = await page.evaluate(work, argument);
          return { ...result, memory: await stop() };
        } finally {
          await context.close();
        }
      };
      try {
        const cold = await visit(load, device, true);
        const later = [];
        for (let i = 0; i < warm; i++) later.push(await visit(load, device));
        const { memory } = await visit(load, device, true);
        const read = device === 'cpu' ? await visit(readAll) : null;
        const megabytes = cold.storage.totalBytes / 1e6;
        if (cold.storage.downloadedBytes !== cold.storage.totalBytes || later.some(({ storage }) => storage.downloadedBytes > 0))
          throw new Error('not a cold load and warm loads');
        const of = (visits, what) => median(visits.map(what));
        for (const [kind, visits, { js, rss }] of [
          ['cold', [cold], cold.memory],
          ['warm', later, memory],
        ]) {
          rows.push({
            device,
            load: kind,
            megabytes,
            readyMs: of(visits, (v) => v.readyMs),
            firstTokenMs: of(visits, (v) => v.firstTokenMs),
            MBps: megabytes / (of(visits, (v) => v.readyMs) / 1e3),
            peakJsMB: js,
            peakRssMB: rss,
          });
        }
        if (read)
          rows.push({
            device: '-',
            load: 'IndexedDB to verified bytes',
            megabytes,
            readyMs: median(read.times),
            MBps: megabytes / (median(read.times) / 1e3),
          });
      } finally {
        rmSync(profile, { recursive: true, force: true });
      }
    }
  } finally {
    server.closeAllConnections();
    server.close();
  }
  return rows;
}

/** Runs in the page. The first token is that of a prompt of one word. */
async function load(device) {
  const start = performance.now();
  const llm = await MobileLLM.load('/model/', { device });
  const readyMs = performance.now() - start;
  await llm.generate('a', { maxTokens: 1, ignoreEos: true }).result;
  const firstTokenMs = performance.now() - start;
  const { storage } = llm.info;
  await llm.close();
  return { readyMs, firstTokenMs, storage };
}

/** Runs in the page: the crate's own path from the store, with every hash, into nothing. */
async function readAll() {
  const { default: init, loadIntoNothing } = await import('/wasm/mobilellm_web.js');
  await init({ module_or_path: '/wasm/mobilellm_web_bg.wasm' });
  const request = {
    source: { kind: 'url', url: new URL('/model/', location.href).href },
    revision: 'main',
    token: null,
    mirrors: [],
    cache: 'indexeddb',
  };
  const times = [];
  for (let i = 0; i < 5; i++) {
    const [ms, report] = await loadIntoNothing(request);
    if (report.downloadedBytes > 0) throw new Error('not from the store');
    times.push(ms);
  }
  return { times };
}

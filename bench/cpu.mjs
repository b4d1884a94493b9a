// Speed of the CPU tier: 125M shape with random weights, f16, q8 and q4, one thread and more, in Chromium and in Node; decode beside
// the speed at which the same bytes can merely be read; peak memory (Chromium: the renderer; Node: the process).
//   npm run bench -- --cpu [chromium|node] [f16|q8|q4] [1|2|..] [base|ls] [--reps 3]     what is not named: both, all, 1 and 2, base
//   npm run bench -- --cpu sharing [f16|q8|q4] [1|2|..]      base, layers shared, 60 layers unshared, by turns (the paper's Table 7)
import { execFileSync } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { output, root, show } from '../scripts/lib.mjs';
import { measure, plainRead } from './measure.mjs';
import { made, synthesise } from './model.mjs';
import { status } from './memory.mjs';
import { peakMemory } from './peak.mjs';

const words = process.argv.slice(2);
if (words[0] === '--child') {
  const [, source, dtype, threads, reps] = words;
  const { MobileLLM } = await import('../pkg/index.js');
  const result = await measure(MobileLLM, source, { dtype, threads: Number(threads) }, Number(reps));
  console.log(JSON.stringify({ ...result, peakMB: (status(process.pid, 'VmHWM') ?? NaN) / 2 ** 20 }));
  process.exit(0);
}

const at = words.indexOf('--reps');
const reps = at < 0 ? 3 : Number(words.splice(at, 2)[1]);
const named = (names, fallback) => {
  const some = words.filter((word) => names.test(word));
  return some.length > 0 ? some : fallback;
};
const places = named(/^(chromium|node)$/, ['chromium', 'node']);
const dtypes = named(/^(f16|q8|q4)$/, ['f16', 'q8', 'q4']);
const threads = named(/^\d+$/, ['1', '2']).map(Number);
const models = named(/^(base|ls)$/, ['base']);
const unknown = words.filter((word) => !/^(chromium|node|f16|q8|q4|base|ls|sharing|\d+)$/.test(word));
if (unknown.length > 0 || !(reps > 0)) throw new Error(`unknown: ${unknown.join(' ') || '--reps'}`);

const rows = [];
await (words.includes('sharing') ? measureSharing() : measureSpeed());
const stamp = {
  when: new Date().toISOString(),
  machine: cpus()[0]?.model,
  cores: cpus().length,
  commit: output('git', ['describe', '--always', '--dirty']),
};
console.log(Object.values(stamp).join(', '));
show(rows);
appendFileSync(join(made, 'cpu.jsonl'), `${JSON.stringify({ ...stamp, rows })}\n`);

async function measureSpeed() {
  for (const place of places) {
    for (const model of models) {
      const folder = synthesise({ layerSharing: model === 'ls' });
      for (const dtype of dtypes) {
        for (const count of threads) {
          const run = place === 'node' ? inNode : inChromium;
          const { info, read, blankMB, loadedMB, peakMB, ...speeds } = await run(folder, dtype, count);
          // Bytes of weights that a token passes through (src/packed): of the head, and of the blocks.
          const head = info.vocabSize * info.hiddenSize;
          const [ofHead, ofBlocks] = { f16: [2, 2], q8: [34 / 32, 34 / 32], q4: [34 / 32, 20 / 32] }[dtype];
          const weights = head * ofHead + (((info.parameters - head) * info.executedLayers) / info.storedBlocks) * ofBlocks;
          const decodeGBps = (speeds.decode * weights) / 1e9;
          rows.push({
            place,
            model,
            dtype,
            threads: info.threads,
            lanes: info.features.join(' '),
            ...speeds,
            decodeGBps,
            readGBps: read,
            blankMB,
            loadedMB,
            peakMB,
          });
          console.error(JSON.stringify(rows.at(-1)));
        }
      }
    }
  }
}

async function measureSharing() {
  const folders = [{}, { layerSharing: true }, { layers: 60 }].map(synthesise);
  const run = async (options) => {
    const { decodeByTurns } = await import('/bench/measure.mjs');
    return decodeByTurns(MobileLLM, ['/model0/', '/model1/', '/model2/'], options, 9);
  };
  for (const dtype of dtypes) {
    for (const count of threads) {
      const [base, shared, unshared] = await inPage(folders, run, { dtype, threads: count });
      rows.push({
        dtype,
        threads: count,
        baseMs: base,
        sharedMs: shared,
        unshared60Ms: unshared,
        sharedRatio: shared / base,
        unsharedRatio: unshared / base,
      });
      console.error(JSON.stringify(rows.at(-1)));
    }
  }
}

async function inNode(folder, dtype, count) {
  const child = execFileSync(process.execPath, [import.meta.filename, '--child', folder, dtype, String(count), String(reps)], {
    encoding: 'utf8',
  });
  return { ...JSON.parse(child), read: plainRead(9) };
}

async function inChromium(folder, dtype, count) {
  const run = async ({ dtype, count, reps }) => {
    const { measure, plainRead } = await import('/bench/measure.mjs');
    return { ...(await measure(MobileLLM, '/model0/', { dtype, threads: count }, reps)), read: plainRead(9) };
  };
  const measured = await inPage([folder], run, { dtype, count, reps });
  // In a browser of its own: no other renderer may be there.
  return { ...measured, ...(await peakMemory(folder, { device: 'cpu', cache: 'none', dtype, threads: count })) };
}

/** What `run` returns in a page of a new browser that has the models at /model0/ and so on. */
async function inPage(folders, run, argument) {
  const { serve } = await import('../scripts/serve.mjs');
  const { launch } = await import('../tests/lib/browser.mjs');
  const { server, url } = await serve({
    '/': join(root, 'www'),
    '/pkg/': join(root, 'pkg'),
    '/tests/': join(root, 'tests'),
    '/bench/': join(root, 'bench'),
    ...Object.fromEntries(folders.map((folder, i) => [`/model${i}/`, folder])),
  });
  const browser = await launch({ webgpu: 'none' });
  try {
    const page = await browser.newPage();
    await page.goto(`${url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
    return await page.evaluate(run, argument);
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
}

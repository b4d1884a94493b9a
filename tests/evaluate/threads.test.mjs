// A CPU thread that ends: the answer under way fails with a typed error, and the model can be loaded again.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { open, patchWorkers } from '../lib/browser.mjs';
import { references } from '../lib/reference.mjs';

let session;
before(async () => {
  session = await open({ webgpu: 'none' });
});
after(() => session?.end());

/** Lets the page end every thread that the worker started, by a message on the channel `end`; one on `ended` says that it is done. */
const SABOTAGE = `
  const threads = [];
  const Real = Worker;
  globalThis.Worker = class extends Real {
    constructor(...args) {
      super(...args);
      threads.push(this);
    }
  };
  new BroadcastChannel('end').onmessage = () => {
    threads.forEach((thread) => thread.terminate());
    new BroadcastChannel('ended').postMessage(threads.length);
  };`;

test('a thread that ends without a word is told within half a minute', async () => {
  const { page } = session;
  await patchWorkers(page, SABOTAGE);
  const { threads, error, ms, ids } = await page.evaluate(async () => {
    const llm = await MobileLLM.load('/models/demo/', { device: 'cpu', threads: 2 });
    const { threads } = llm.info;
    const run = (await llm.session()).send('hi');
    await run.result;
    const ended = new Promise((resolve) => (new BroadcastChannel('ended').onmessage = ({ data }) => resolve(data)));
    new BroadcastChannel('end').postMessage(null);
    if ((await ended) !== 1) throw new Error('one thread should have been ended');
    // Chromium lets a thread that is busy run on for two seconds.
    await new Promise((resolve) => setTimeout(resolve, 4000));
    const start = performance.now();
    const error = await rejection((await llm.session()).send('hi').result);
    const ms = performance.now() - start;
    await llm.close();
    const again = await MobileLLM.load('/models/demo/', { device: 'cpu', threads: 2 });
    const ids = (await (await again.session()).send('hi').result).tokenIds;
    await again.close();
    return { threads, error, ms, ids };
  });
  assert.equal(threads, 2);
  assert.equal(error.code, 'cpu-threads');
  assert.match(error.message, /thread/);
  assert.ok(error.remedy.length > 0);
  assert.ok(ms < 30_000, `${ms} ms`);
  assert.deepEqual(ids, references[1].ids);
});

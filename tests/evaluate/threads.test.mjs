// A CPU thread that ends: the answer under way fails with a typed error, or goes on if one thread was alone at that time, and the model
// can be loaded again.
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
  const { threads, error, answer, ms, ids } = await page.evaluate(async () => {
    const llm = await MobileLLM.load('/models/demo/', { device: 'cpu', threads: 2, cache: 'none' });
    const { threads } = llm.info;
    const run = (await llm.session()).send('hi');
    await run.result;
    const ended = new Promise((resolve) => (new BroadcastChannel('ended').onmessage = ({ data }) => resolve(data)));
    new BroadcastChannel('end').postMessage(null);
    const count = await ended;
    if (count !== 1) throw new Error(`one thread should have been ended, not ${count}`);
    // Chromium lets a thread that is busy run on for two seconds.
    await new Promise((resolve) => setTimeout(resolve, 4000));
    const start = performance.now();
    const { result } = (await llm.session()).send('hi');
    const answer = await result.catch(() => null);
    const error = answer ? null : await rejection(result);
    const ms = performance.now() - start;
    await llm.close();
    const again = await MobileLLM.load('/models/demo/', { device: 'cpu', threads: 2 });
    const ids = (await (await again.session()).send('hi').result).tokenIds;
    await again.close();
    return { threads, error, answer: answer?.tokenIds, ms, ids };
  });
  assert.equal(threads, 2);
  if (error) {
    assert.equal(error.code, 'cpu-threads');
    assert.match(error.message, /thread/);
    assert.ok(error.remedy.length > 0);
  } else {
    assert.deepEqual(answer, references[1].ids);
  }
  assert.ok(ms < 30_000, `${ms} ms`);
  assert.deepEqual(ids, references[1].ids);
});

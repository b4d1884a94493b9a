// What is kept in the browser, through the public API.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';
import { open, patchWorkers } from '../lib/browser.mjs';
import { references } from '../lib/reference.mjs';

let session;
const inPage = (work, argument) => session.page.evaluate(work, argument);
before(async () => {
  session = await open({ webgpu: 'none' });
});
after(() => session?.end());

test('estimate, load, availability, list, delete', async () => {
  const got = await inPage(async () => {
    const before = await MobileLLM.availability('/models/demo/');
    const estimate = await MobileLLM.estimate('/models/demo/', { contextLength: 512 });
    const llm = await MobileLLM.load('/models/demo/');
    const inUse = await rejection(MobileLLM.models.delete('/models/demo/'));
    await llm.close();
    const stored = await MobileLLM.availability('/models/demo/');
    const later = await MobileLLM.estimate('/models/demo/');
    const list = await MobileLLM.models.list();
    await MobileLLM.models.delete('/models/demo/');
    return {
      before,
      estimate,
      inUse,
      stored,
      later,
      list,
      gone: await MobileLLM.availability('/models/demo/'),
      missing: await MobileLLM.availability('/faults/missing/'),
    };
  });
  assert.equal(got.before, 'downloadable');
  const { downloadBytes, diskBytes, gpuBytes, cpuBytes, fits } = got.estimate;
  assert.ok(downloadBytes > 27_500_000 && downloadBytes < 29_200_000, `${downloadBytes}`);
  assert.ok(diskBytes >= downloadBytes);
  // 13,769,088 parameters in f16, and a cache that is not nothing.
  assert.ok(gpuBytes > 2 * 13_769_088 && cpuBytes > gpuBytes, `${gpuBytes} ${cpuBytes}`);
  assert.deepEqual(fits, { disk: true, gpu: false, cpu: true });
  assert.equal(got.inUse?.code, 'model-in-use');
  assert.equal(got.stored, 'cached');
  assert.equal(got.later.downloadBytes, 0);
  assert.equal(got.list.length, 1);
  assert.ok(got.list[0].complete && got.list[0].bytes > 27_500_000 && got.list[0].source.endsWith('/models/demo/'));
  assert.ok(Math.abs(got.list[0].lastUsed - Date.now()) < 120_000);
  assert.equal(got.gone, 'downloadable');
  assert.equal(got.missing, 'unavailable');
});

test('a second load asks the network for nothing', async () => {
  await inPage(async () => (await MobileLLM.load('/models/demo/')).close());
  const asked = [];
  const listen = (request) => request.url().includes('/models/') && asked.push(request.url());
  session.page.context().on('request', listen);
  const { text, progress } = await inPage(async () => {
    let progress;
    const llm = await MobileLLM.load('/models/demo/', { onProgress: (p) => (progress = p) });
    const chat = await llm.session();
    const { text } = await chat.send('what can you do?').result;
    await llm.close();
    return { text, progress };
  });
  session.page.context().off('request', listen);
  assert.equal(text, references[2].text);
  assert.equal(progress.cachedBytes, progress.totalBytes);
  assert.deepEqual(asked, []);
});

test('pieces are read in a worker of their own, and without one where it fails', async () => {
  // Only the engine's own worker can be patched from here.
  const counted = `
    const say = (place) => postMessage({ event: 'warning', detail: { reason: place, message: 'a piece was read' } });
    const read = Blob.prototype.arrayBuffer;
    Blob.prototype.arrayBuffer = function () {
      if (this.size > 1e6) say('alone');
      return read.call(this);
    };
    const Plain = Worker;
    globalThis.Worker = class extends Plain {
      constructor(...values) {
        super(...values);
        this.addEventListener('message', ({ data }) => {
          if (!(data.found?.bytes.byteLength > 1e6)) return;
          this.used = true;
          say('beside');
        });
      }
    };`;
  const cases = {
    works: counted,
    'cannot start': `${counted} globalThis.Worker = class { constructor() { throw new Error('refused'); } };`,
    dies: `${counted} globalThis.Worker = class extends Worker {
      postMessage(message) {
        if (!this.used) return super.postMessage(message);
        this.terminate();
        this.dispatchEvent(new ErrorEvent('error', { cancelable: true }));
      }
    };`,
  };
  for (const [name, code] of Object.entries(cases)) {
    const page = await session.browser.newPage();
    await patchWorkers(page, code);
    await page.goto(`${session.url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
    const { beside, alone, progress, text } = await page.evaluate(async () => {
      await (await MobileLLM.load('/models/demo/', { threads: 1 })).close();
      const places = [];
      let progress;
      const llm = await MobileLLM.load('/models/demo/', {
        threads: 1,
        onWarning: ({ reason }) => places.push(reason),
        onProgress: (p) => (progress = p),
      });
      const chat = await llm.session();
      const { text } = await chat.send('what can you do?').result;
      await llm.close();
      const count = (place) => places.filter((one) => one === place).length;
      return { beside: count('beside'), alone: count('alone'), progress, text };
    });
    await page.close();
    assert.equal(text, references[2].text, name);
    assert.equal(progress.cachedBytes, progress.totalBytes, name);
    assert.ok(
      name === 'cannot start' ? beside === 0 && alone > 0 : beside > 0 && (name === 'works') === (alone === 0),
      `${name}: ${beside} and ${alone}`,
    );
  }
});

test("the user's own files", async () => {
  const folder = join(root, 'www/models/demo');
  await session.page.setContent('<input type="file" multiple>');
  await session.page.locator('input').setInputFiles(readdirSync(folder).map((name) => join(folder, name)));
  const { text, device, dtype } = await inPage(async () => {
    const llm = await MobileLLM.load(document.querySelector('input').files, { dtype: 'q8' });
    const chat = await llm.session();
    const { text } = await chat.send('what can you do?').result;
    await llm.close();
    return { text, ...llm.info };
  });
  assert.equal(text, references[2].text);
  assert.deepEqual([device, dtype], ['cpu', 'q8']);
});

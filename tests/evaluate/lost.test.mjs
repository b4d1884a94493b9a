// The GPU device is lost, in whatever is under way: the answer is that of an undisturbed run. Or it has not the memory that is asked for.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { open, patchWorkers } from '../lib/browser.mjs';
import { references } from '../lib/reference.mjs';

let session;
before(async () => {
  session = await open({ webgpu: 'software' });
});
after(() => session?.end());

// A real GPU is done with eight tokens before anything can be done to it; but it has a gigabyte in one piece, SwiftShader has not.
const software = process.env.WEBGPU !== 'own';

/**
 * Lets the page destroy every device that the worker got (a message on the channel `lose`), and hears of it what the worker asks
 * of its devices (the channel `asked`: names of methods).
 */
const SABOTAGE = `
  const devices = [];
  const asked = new BroadcastChannel('asked');
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await request.apply(this, args);
    devices.push(device);
    return device;
  };
  const write = GPUQueue.prototype.writeBuffer;
  let writes = 0;
  GPUQueue.prototype.writeBuffer = function (...args) {
    if (globalThis.loseAtWrite === ++writes) devices.at(-1).destroy();
    return write.apply(this, args);
  };
  new BroadcastChannel('lose').onmessage = () => devices.forEach((device) => device.destroy());`;

/** Has the device asked for a gigabyte in place of the first buffer of that label: more than it has. */
const greedy = (label) => `
  const create = GPUDevice.prototype.createBuffer;
  let left = 1;
  GPUDevice.prototype.createBuffer = function (descriptor) {
    const huge = descriptor.label === ${JSON.stringify(label)} && left-- > 0;
    return create.call(this, huge ? { ...descriptor, size: 2 ** 30 } : descriptor);
  };`;

async function sabotaged(more = '') {
  const page = await session.browser.newPage();
  await patchWorkers(page, SABOTAGE + more);
  await page.goto(`${session.url}tests/lib/blank.html`);
  await page.waitForFunction('globalThis.ready');
  return page;
}

/** What the page's tests have in common: a model whose events are kept. */
const loadWith = () => {
  globalThis.loaded = async () => {
    const llm = await MobileLLM.load('/models/demo/', { device: 'webgpu', selfCheck: false });
    const events = [];
    for (const type of ['devicelost', 'fallback', 'restored']) llm.addEventListener(type, () => events.push(type));
    return { llm, events };
  };
};

test('in decode, once: restored on the GPU; twice within a minute: the CPU', async () => {
  const page = await sabotaged();
  await page.evaluate(loadWith);
  const { events, ids, devices } = await page.evaluate(async () => {
    const { llm, events } = await loaded();
    const chat = await llm.session();
    const devices = [];
    const run = chat.send('hi');
    let tokens = 0;
    for await (const { tokenIds } of run) {
      tokens += tokenIds.length;
      if (tokens === 2 || tokens === 5) {
        new BroadcastChannel('lose').postMessage(null);
        await Promise.race([new Promise((resolve) => llm.addEventListener('restored', resolve, { once: true })), run.result]);
        devices.push(llm.info.device);
      }
    }
    const ids = (await run.result).tokenIds;
    await llm.close();
    return { events, devices, ids };
  });
  assert.deepEqual(ids, references[1].ids);
  assert.deepEqual(devices, ['webgpu', 'cpu']);
  assert.deepEqual(events, ['devicelost', 'restored', 'devicelost', 'fallback', 'restored']);
  await page.close();
});

test('between two answers and in prefill', async () => {
  const page = await sabotaged();
  await page.evaluate(loadWith);
  const { events, ids } = await page.evaluate(async () => {
    const { llm, events } = await loaded();
    new BroadcastChannel('lose').postMessage(null);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const chat = await llm.session();
    const run = chat.send('hi', { maxTokens: 3 });
    const { tokenIds } = await run.result;
    // The CPU is next: it takes over while the prompt is computed.
    const again = (await llm.session()).send('hi', { maxTokens: 3 });
    setTimeout(() => new BroadcastChannel('lose').postMessage(null), 50);
    const ids = [tokenIds, (await again.result).tokenIds];
    await llm.close();
    return { events, ids };
  });
  assert.deepEqual(ids, [references[1].ids.slice(0, 3), references[1].ids.slice(0, 3)]);
  assert.deepEqual(events.slice(0, 2), ['devicelost', 'restored']);
  await page.close();
});

test('in load: loaded again on the GPU, and said so', async () => {
  const page = await sabotaged('globalThis.loseAtWrite = 20;');
  const { device, fallbacks, ids } = await page.evaluate(async () => {
    const llm = await MobileLLM.load('/models/demo/', { device: 'webgpu', selfCheck: false });
    const fallbacks = [];
    llm.addEventListener('fallback', ({ detail }) => fallbacks.push(detail.message));
    const ids = (await (await llm.session()).send('hi', { maxTokens: 3 }).result).tokenIds;
    const { device } = llm.info;
    await llm.close();
    return { device, fallbacks, ids };
  });
  assert.equal(device, 'webgpu');
  assert.deepEqual(ids, references[1].ids.slice(0, 3));
  assert.match(fallbacks[0] ?? '', /while the model was loaded: .*lost.*loaded again/);
  await page.close();
});

test('a crash of the GPU process, and a page that was frozen', async () => {
  const page = await session.browser.newPage();
  await page.goto(`${session.url}tests/lib/blank.html`);
  await page.waitForFunction('globalThis.ready');
  await page.evaluate(loadWith);
  const undisturbed = await page.evaluate(
    async (maxTokens) => {
      Object.assign(globalThis, await loaded());
      const send = async () => (await llm.session()).send('hi', { maxTokens, ignoreEos: true });
      const { tokenIds } = await (await send()).result;
      globalThis.tokens = 0;
      globalThis.run = await send();
      globalThis.reading = (async () => {
        for await (const { tokenIds } of run) globalThis.tokens += tokenIds.length;
      })();
      return tokenIds;
    },
    software ? 8 : 900,
  );
  await page.waitForFunction('globalThis.tokens >= 2');
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Page.setWebLifecycleState', { state: 'frozen' });
  await new Promise((resolve) => setTimeout(resolve, software ? 300 : 50));
  await cdp.send('Page.setWebLifecycleState', { state: 'active' });
  const whole = await session.browser.newBrowserCDPSession();
  // It answers with an error, or not at all: what it was asked through is gone.
  await Promise.race([whole.send('Browser.crashGpuProcess').catch(() => {}), new Promise((resolve) => setTimeout(resolve, 500))]);
  const { events, ids } = await page.evaluate(async () => {
    await reading;
    const ids = (await run.result).tokenIds;
    await llm.close();
    return { events, ids };
  });
  assert.deepEqual(undisturbed.slice(0, 8), references[1].ids.slice(0, 8));
  assert.deepEqual(ids, undisturbed);
  assert.deepEqual(events.slice(0, 1), ['devicelost']);
  await page.close();
});

test('no memory for weights: a typed error that names them', { skip: software ? false : 'a real GPU has that memory' }, async () => {
  const page = await sabotaged(greedy('weights'));
  const error = await page.evaluate(() => rejection(MobileLLM.load('/models/demo/', { device: 'webgpu', selfCheck: false })));
  assert.equal(error.code, 'gpu-out-of-memory');
  assert.match(error.message, /weights needs \d+ bytes/);
  await page.close();
});

test('no memory for a session: a typed error, and other sessions go on', {
  skip: software ? false : 'a real GPU has that memory',
}, async () => {
  const page = await sabotaged(greedy('keys'));
  await page.evaluate(loadWith);
  const { error, ids } = await page.evaluate(async () => {
    const { llm } = await loaded();
    const chat = await llm.session();
    const error = await rejection(chat.send('hi', { maxTokens: 3 }).result);
    // The same session begins anew: now there is memory.
    const again = (await chat.send('hi', { maxTokens: 3 }).result).tokenIds;
    const other = (await (await llm.session()).send('hi', { maxTokens: 3 }).result).tokenIds;
    await llm.close();
    return { error, ids: [again, other] };
  });
  assert.equal(error.code, 'gpu-out-of-memory');
  assert.match(error.message, /keys needs \d+ bytes/);
  assert.deepEqual(ids, [references[1].ids.slice(0, 3), references[1].ids.slice(0, 3)]);
  await page.close();
});

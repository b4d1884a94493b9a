// The GPU device is lost in the middle of an answer: the answer goes on.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { open } from '../lib/browser.mjs';
import { references } from '../lib/reference.mjs';

/** Lets the page destroy every device that the worker got. */
const SABOTAGE = `;{
  const devices = [];
  const request = GPUAdapter.prototype.requestDevice;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await request.apply(this, args);
    devices.push(device);
    return device;
  };
  new BroadcastChannel('lose').onmessage = () => devices.forEach((device) => device.destroy());
}`;

test('once: restored on the GPU; twice within a minute: the CPU; the text is that of an undisturbed run', async () => {
  const { page, url, end } = await open({ webgpu: 'software' });
  try {
    await page.route('**/worker.js', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: (await response.text()) + SABOTAGE });
    });
    await page.goto(`${url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
    const { events, ids, devices } = await page.evaluate(async () => {
      const llm = await MobileLLM.load('/models/demo/', { device: 'webgpu' });
      const events = [];
      for (const type of ['devicelost', 'fallback', 'restored']) llm.addEventListener(type, () => events.push(type));
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
      return { events, devices, ids: (await run.result).tokenIds };
    });
    assert.deepEqual(ids, references[1].ids);
    assert.deepEqual(devices, ['webgpu', 'cpu']);
    assert.deepEqual(events, ['devicelost', 'restored', 'devicelost', 'fallback', 'restored']);
  } finally {
    await end();
  }
});

// The GPU must compute what the CPU computes. Shaders are damaged on their way to the browser.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { open, patchWorkers } from '../lib/browser.mjs';
import { references } from '../lib/reference.mjs';

let session;
before(async () => {
  session = await open({ webgpu: 'software' });
});
after(() => session?.end());

/** A page whose workers run `patch` before anything else is asked of them. */
async function patched(patch) {
  const page = await session.browser.newPage();
  await patchWorkers(page, patch);
  await page.goto(`${session.url}tests/lib/blank.html`);
  await page.waitForFunction('globalThis.ready');
  return page;
}

/** Swaps two products of the kernels whose text contains `of`. */
const damage = (of) => `
  const real = GPUDevice.prototype.createShaderModule;
  GPUDevice.prototype.createShaderModule = function (descriptor) {
    const code = descriptor.code.includes(${JSON.stringify(of)}) ? descriptor.code.replace('product(up + k, a, b)', 'product(gate + k, a, b)') : descriptor.code;
    return real.call(this, { ...descriptor, code });
  };`;

const load = (page, options) =>
  page.evaluate(async (options) => {
    const events = [];
    const llm = await MobileLLM.load('/models/demo/', options).catch((error) => describe(error));
    if (!llm.info) return { error: llm };
    llm.addEventListener('fallback', ({ detail }) => events.push(detail.message));
    const { tokenIds } = await (await llm.session()).send('hi', { maxTokens: 2 }).result;
    const { info } = llm;
    await llm.close();
    return { info, events, tokenIds };
  }, options);

test('a kernel that is wrong with subgroups only: plain kernels take over, once and for all', async () => {
  const page = await patched(damage('enable subgroups'));
  const first = await load(page, { device: 'webgpu' });
  assert.equal(first.info.device, 'webgpu');
  assert.deepEqual(first.info.features, []);
  assert.match(first.info.reason, /plain kernels, after subgroups: decode: logits are off/);
  assert.equal(first.events.length, 1);
  assert.match(first.events[0], /failed its self-check: subgroups: decode/);
  assert.ok(first.info.timings.selfCheckMs > 0);
  assert.deepEqual(first.tokenIds, references[1].ids.slice(0, 2));
  const second = await load(page, { device: 'webgpu' });
  assert.deepEqual(second.info.features, []);
  assert.equal(second.info.timings.selfCheckMs, undefined, 'the verdict was kept');
  assert.match(second.info.reason, /before/);
  await page.close();
});

test('one that is wrong in every way: an error that says which check failed; under auto the CPU takes over', async () => {
  // Under auto a GPU that is a program on the CPU is not even tried: this one says that it is none.
  const honest = `Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { get: () => false });`;
  const page = await patched(honest + damage('product(up + k, a, b)'));
  const { error } = await load(page, { device: 'webgpu', cache: 'none' });
  assert.equal(error.code, 'self-check-failed');
  assert.match(error.message, /plain kernels: decode: logits are off/);
  const { info, events, tokenIds } = await load(page, { device: 'auto', cache: 'none' });
  assert.equal(info.device, 'cpu');
  assert.match(info.reason, /failed its self-check: .*decode/);
  assert.equal(events.length, 1);
  assert.match(events[0], /decode: .*the CPU took over/);
  assert.deepEqual(tokenIds, references[1].ids.slice(0, 2));
  await page.close();
});

test('8-bit weights on the GPU: the self-check passes and the answer is that of the CPU', async () => {
  const { info, tokenIds } = await load(session.page, { device: 'webgpu', dtype: 'q8', cache: 'none' });
  assert.equal(info.device, 'webgpu');
  assert.equal(info.dtype, 'q8');
  assert.match(info.reason, /passed its self-check/);
  const cpu = await load(session.page, { device: 'cpu', dtype: 'q8' });
  assert.deepEqual(tokenIds, cpu.tokenIds);
});

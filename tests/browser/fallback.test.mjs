// Without WebGPU, and with a network that is watched.
import assert from 'node:assert/strict';
import { createServer, request as httpRequest } from 'node:http';
import { test } from 'node:test';
import { launch, open, serveTests } from '../lib/browser.mjs';
import { references } from '../lib/reference.mjs';

test('without WebGPU the CPU takes over by itself and info.reason says why', async () => {
  const { page, end } = await open({ webgpu: 'none' });
  try {
    const { info, text, error } = await page.evaluate(async () => {
      if ('gpu' in navigator && (await navigator.gpu.requestAdapter())) throw new Error('this browser has WebGPU: the test is void');
      const llm = await MobileLLM.load('/models/demo/');
      const chat = await llm.session();
      const { text } = await chat.send('what can you do?').result;
      return { info: llm.info, text, error: await rejection(MobileLLM.load('/models/demo/', { device: 'webgpu' })) };
    });
    assert.equal(info.device, 'cpu');
    assert.match(info.reason, /WebGPU/);
    assert.equal(text, references[2].text);
    assert.equal(error.code, 'webgpu-unavailable');
  } finally {
    await end();
  }
});

test('nothing but the own origin is ever asked', async () => {
  const { server, url } = await serveTests();
  const asked = new Set();
  // Every request of every thread of the browser passes here.
  const proxy = createServer((incoming, outgoing) => {
    const { host, pathname, search, port } = new URL(incoming.url);
    asked.add(host);
    if (host !== new URL(url).host) return outgoing.writeHead(502).end();
    const upstream = httpRequest(
      { host: '127.0.0.1', port, path: pathname + search, method: incoming.method, headers: incoming.headers },
      (answer) => answer.pipe(outgoing.writeHead(answer.statusCode, answer.headers)),
    );
    incoming.pipe(upstream);
  });
  proxy.on('connect', ({ url: target }, socket) => {
    asked.add(target);
    socket.destroy();
  });
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve));
  const address = `http://127.0.0.1:${proxy.address().port}`;
  const browser = await launch({ webgpu: 'software', proxy: { server: address, bypass: '<-loopback>' } });
  try {
    const page = await browser.newPage();
    await page.goto(`${url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
    // What the browser itself asks of its maker when it starts is not the package's.
    const before = new Set(asked);
    const own = await page.evaluate(async () => {
      const llm = await MobileLLM.load('/models/demo/');
      const { text } = await llm.generate('set an', { maxTokens: 4 }).result;
      await llm.close();
      await MobileLLM.availability('/models/demo/');
      return text;
    });
    assert.ok(own.length > 0);
    const hosts = [...asked].filter((host) => host === new URL(url).host || !before.has(host));
    assert.deepEqual(hosts, [new URL(url).host]);
    // The watch works: a foreign address would have been seen.
    await page.evaluate(() => fetch('http://elsewhere.example/').catch(() => null));
    assert.ok(asked.has('elsewhere.example'));
  } finally {
    await browser.close();
    for (const each of [proxy, server]) {
      each.closeAllConnections();
      each.close();
    }
  }
});

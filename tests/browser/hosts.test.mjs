// Hosts as they are found in the field, and browsers that store nothing: through the public API.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, patchWorkers, serveTests } from '../lib/browser.mjs';
import { checkpoint, isShard } from '../lib/checkpoint.mjs';
import { Host } from '../lib/faults.mjs';

const host = new Host();
const files = checkpoint({ seed: 7, shards: 2 });
let browser, server, url;

/** A page of a context of its own: what one test stores is nothing to another. */
async function newPage({ worker, context } = {}) {
  const page = await (context ?? (await browser.newContext())).newPage();
  if (worker) await patchWorkers(page, worker);
  await page.goto(`${url}tests/lib/blank.html`);
  await page.waitForFunction('globalThis.ready');
  await page.evaluate(() => {
    /** Loads, says a little, closes. */
    globalThis.visit = async (source, options = {}) => {
      const warnings = [];
      const started = performance.now();
      try {
        const llm = await MobileLLM.load(source, {
          device: 'cpu',
          threads: 1,
          onWarning: ({ reason }) => warnings.push(reason),
          ...options,
        });
        const { tokenIds } = await llm.generate('set an alarm', { maxTokens: 4, ignoreEos: true }).result;
        const { storage, model } = llm.info;
        await llm.close();
        return { model, says: tokenIds.join(), storage, warnings, ms: performance.now() - started };
      } catch (error) {
        return { error: describe(error), warnings, ms: performance.now() - started };
      }
    };
  });
  return page;
}
const visit = (page, folder, options) =>
  page.evaluate(([source, options]) => visit(source, options), [folder.includes('://') ? folder : `${url}host/${folder}/`, options]);

let page, expected;
before(async () => {
  ({ server, url } = await serveTests({ intercept: host.answer }));
  browser = await launch({ webgpu: 'none' });
  page = await newPage();
  host.put('plain/', files);
  expected = (await visit(page, 'plain', { cache: 'none' })).says;
  assert.ok(expected);
});
after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});

async function loads(folder, options = { cache: 'none' }) {
  const { error, says, ...rest } = await visit(page, folder, options);
  assert.equal(error, undefined);
  assert.equal(says, expected);
  return rest;
}

test('an absent file is one however the host says so; one that must be there is named with the status', async () => {
  const without = new Map([...files].filter(([name]) => !isShard(name) && !name.includes('index')));
  host.put('no-weights/', without);
  for (const [status, body] of [
    [400, 'no such key'],
    [405, ''],
    [406, ''],
    [204, ''],
    [403, '<Error/>'],
    [409, ''],
  ]) {
    host.absent = { status, body };
    await loads('plain');
    const { error } = await visit(page, 'no-weights', { cache: 'none' });
    assert.equal(error.code, 'file-not-found');
    assert.match(error.message, new RegExp(`model\\.safetensors.*HTTP ${status}`));
  }
  host.absent = { status: 404, body: 'not found' };
});

test('a small file that was compressed on the way is whole', async () => {
  for (const [name, text] of [
    ['generation_config.json', '{}'],
    ['chat_template.jinja', 'hi'],
  ]) {
    host.put('gzip/', new Map([...files, [name, Buffer.from(text)]]));
    host.fault = (path) => (path === `gzip/${name}` ? { kind: 'gzip' } : null);
    const { ms } = await loads('gzip');
    assert.ok(ms < 8000, `${ms} ms: it was asked for again`);
    host.files.delete(`gzip/${name}`);
  }
  host.fault = () => null;
});

test('an address with a percent sign that begins no escape', async () => {
  for (const [folder, name] of [
    ['100%', '100%'],
    ['50%25%', '50%25%'],
    ['a%20b', 'a b'],
  ]) {
    const path = name === 'a b' ? 'a b/' : `${folder}/`;
    host.put(path, files);
    assert.equal((await loads(folder, {})).model, name);
    const source = `${url}host/${folder}/`;
    const [listed, left] = await page.evaluate(async (source) => {
      const listed = await MobileLLM.models.list();
      await MobileLLM.models.delete(source);
      return [listed.map((model) => model.source), (await MobileLLM.models.list()).length];
    }, source);
    assert.deepEqual([listed, left], [[source], 0]);
  }
});

test('weights under a wrong label load; a web page in their place is told as such', async () => {
  host.fault = (path) => (isShard(path) || path.endsWith('.json') ? { kind: 'type', to: 'text/html' } : null);
  await loads('plain');
  host.fault = (path) => (isShard(path) ? { kind: 'page' } : null);
  const { error } = await visit(page, 'plain', { cache: 'none' });
  host.fault = () => null;
  assert.equal(error.code, 'web-page');
  assert.match(error.message, /host\/plain\/model-.*web page, not a weight file/);
});

test('a proxy that gives 64 KiB at a time is slow, no more', async () => {
  const large = checkpoint({ seed: 8, shards: 2, megabytes: 10 });
  host.put('large/', large);
  const whole = await visit(page, 'large', { cache: 'none' });
  host.fault = () => ({ kind: 'short', at: 65_536 });
  const short = await visit(page, 'large', { cache: 'none' });
  host.fault = () => null;
  assert.equal(short.error, undefined);
  assert.equal(short.says, whole.says);
  // One wait before a retry is half a second and more; there are some hundred answers.
  assert.ok(short.ms < whole.ms + 15_000, `${short.ms} ms`);
});

test('two tabs and a host without ETags: every byte is downloaded once', async () => {
  const shards = [...files.keys()].filter(isShard);
  const bytes = shards.reduce((sum, name) => sum + files.get(name).length, 0);
  host.put('anonymous/', files);
  host.fault = () => ({ kind: 'anonymous' });
  host.pace = () => new Promise((done) => setTimeout(done, 50));
  const context = await browser.newContext();
  const tabs = [await newPage({ context }), await newPage({ context })];
  const answers = await Promise.all(tabs.map((tab) => visit(tab, 'anonymous')));
  host.fault = () => null;
  host.pace = async () => {};
  assert.deepEqual(
    answers.map(({ error, says }) => error ?? says),
    [expected, expected],
  );
  assert.deepEqual(
    answers.map(({ storage }) => storage.downloadedBytes).sort((a, b) => a - b),
    [0, bytes],
  );
  await context.close();
});

/** What models.list, availability and estimate say where nothing can be stored. */
const ask = (page) =>
  page.evaluate(async (source) => {
    const answer = (promise) =>
      promise.then(
        (value) => value,
        (error) => describe(error),
      );
    const estimate = await answer(MobileLLM.estimate(source));
    return {
      list: await answer(MobileLLM.models.list()),
      availability: await answer(MobileLLM.availability(source)),
      disk: estimate.downloadBytes ?? estimate,
    };
  }, `${url}host/plain/`);

test('an indexedDB whose getter throws: the model loads, is not kept, and one warning says so', async () => {
  const worker = `Object.defineProperty(self, 'indexedDB', { get() { throw new DOMException('The operation is insecure.', 'SecurityError'); } });`;
  const page = await newPage({ worker });
  const { error, says, warnings, storage } = await visit(page, 'plain');
  assert.deepEqual([error, says, warnings, storage?.stored], [undefined, expected, ['storage-failed'], false]);
  const { list, availability, disk } = await ask(page);
  assert.equal(list.code, 'storage');
  assert.equal(availability, 'downloadable');
  assert.ok(disk > 0);
  await page.context().close();
});

test('an IndexedDB that never answers is given up after a few seconds', async () => {
  const page = await newPage({ worker: `IDBFactory.prototype.open = () => new EventTarget();` });
  const { error, says, warnings, ms } = await visit(page, 'plain');
  assert.deepEqual([error, says, warnings], [undefined, expected, ['storage-failed']]);
  assert.ok(ms < 15_000, `${ms} ms`);
  await page.context().close();
});

test('a browser that stores no Blobs, or loses their bytes, stores ArrayBuffers', async () => {
  const put = (how) => `{ const put = IDBObjectStore.prototype.put;
    IDBObjectStore.prototype.put = function (value, key) { if (value?.bytes instanceof Blob) { ${how} } return put.call(this, value, key); }; }`;
  for (const how of [
    `throw new DOMException('BlobURLs are not yet supported', 'DataCloneError');`,
    `value = { ...value, bytes: new Blob() };`,
  ]) {
    const page = await newPage({ worker: put(how) });
    const first = await visit(page, 'plain');
    assert.deepEqual([first.error, first.says, first.warnings, first.storage?.stored], [undefined, expected, [], true], how);
    const again = await visit(page, 'plain');
    assert.deepEqual([again.error, again.says, again.storage?.downloadedBytes], [undefined, expected, 0], how);
    await page.context().close();
  }
});

test('storage that takes nothing at all leaves no model behind', async () => {
  const page = await newPage({
    worker: `IDBObjectStore.prototype.put = function (value) { if (value?.bytes) throw new DOMException('no', 'UnknownError'); return this.get('x'); };`,
  });
  const { error, says, warnings } = await visit(page, 'plain');
  assert.deepEqual([error, says, warnings], [undefined, expected, ['storage-failed']]);
  assert.deepEqual(await page.evaluate(() => MobileLLM.models.list()), []);
  await page.context().close();
});

test('no connection: an error in our words', async () => {
  const { error, ms } = await visit(page, 'http://localhost:1/model/', { cache: 'none' });
  assert.equal(error.code, 'network');
  assert.match(error.message, /^http:\/\/localhost:1\/model\/.*no connection/);
  assert.doesNotMatch(error.message, /Failed to fetch/);
  assert.ok(ms < 20_000, `${ms} ms`);
});

/** A page whose answers, or those of its workers, have a policy. */
async function restricted(policy, { workers = false } = {}) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.route(workers ? '**/worker.js' : '**/blank.html', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, headers: { ...response.headers(), 'Content-Security-Policy': policy } });
  });
  await page.goto(`${url}tests/lib/blank.html`);
  await page.waitForFunction('globalThis.ready');
  const error = await page.evaluate(
    (source) => rejection(MobileLLM.load(source, { device: 'cpu', threads: 1, cache: 'none' })),
    `${url}host/plain/`,
  );
  await context.close();
  return error;
}

test('a Content-Security-Policy in the way is named with what it needs', async () => {
  const worker = await restricted("script-src 'self' 'unsafe-inline' 'unsafe-eval'; worker-src 'none'");
  assert.equal(worker.code, 'csp-blocked', worker.message);
  assert.match(worker.message, /worker-src 'self'/);
  const wasm = await restricted("script-src 'self'", { workers: true });
  assert.equal(wasm.code, 'csp-blocked', wasm.message);
  assert.match(wasm.message, /script-src 'wasm-unsafe-eval'/);
  const connect = await restricted(`script-src 'self' 'wasm-unsafe-eval'; connect-src ${url}pkg/`, { workers: true });
  assert.equal(connect.code, 'csp-blocked', connect.message);
  assert.match(connect.message, /host\/plain\/.*connect-src 'self'/);
});

test('a worker that is not where an option says: the address and what is there', async () => {
  for (const [workerUrl, what] of [
    ['/nowhere/worker.js', /nowhere\/worker\.js.*HTTP 404/],
    ['/tests/lib/blank.html', /blank\.html.*text\/html.*not JavaScript/],
  ]) {
    const { error } = await visit(page, 'plain', { workerUrl });
    assert.equal(error.code, 'engine-unavailable');
    assert.match(error.message, what);
  }
});

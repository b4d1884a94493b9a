// The page's panel of models: the size before anything is downloaded, pause and resume, what is stored, another tab, delete.
import assert from 'node:assert/strict';
import { mkdtempSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { launch, serveTests } from '../lib/browser.mjs';
import { checkpoint, isShard, sha256 } from '../lib/checkpoint.mjs';
import { faults, Host } from '../lib/faults.mjs';

const host = new Host();
let browser, server, url, page, seen;

before(async () => {
  ({ server, url } = await serveTests({ intercept: (request, response) => host.answer(request, response) || faults(request, response) }));
  host.put('small/', checkpoint({ seed: 1, shards: 12, megabytes: 3, manifest: true }));
  browser = await launch({ webgpu: 'none' });
  const context = await browser.newContext({ viewport: { width: 1100, height: 900 } });
  host.put('gated/', checkpoint({ seed: 2, shards: 3 }));
  seen = await hub(context, 'hf_right');
  page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on('dialog', (dialog) => dialog.accept());
  await page.goto(url);
  await page.waitForSelector('#model-button[data-state=ready]');
});
after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});

const stored = () => page.locator('#stored').innerText();
const shards = () => host.sent('small/', isShard);

test('size and free space are shown, and no weight is fetched, before the download is asked for', async () => {
  await page.click('#model-button');
  await page.click('label[for=kind-url]');
  await page.fill('#model-url', `${url}host/small`);
  await page.click('#check-model');
  await page.waitForSelector('#load-model:visible');
  assert.match(await page.innerText('#estimate'), /To download\s+[23]\.\d MB\s+On disk\s+[23]\.\d MB, .* free\s+Memory/);
  assert.match(await page.innerText('#load-model'), /^Download [23]\.\d MB and load$/);
  assert.equal(shards(), 0);
});

test('a paused download goes on where it was, and the model is listed', async () => {
  let begun = 0;
  let release;
  const gate = new Promise((done) => (release = done));
  // Six shards pass, the next wait.
  host.pace = async (path) => {
    if (isShard(path) && ++begun > 6) await gate;
  };
  await page.click('#load-model');
  const box = page.locator('#model-progress');
  await page.waitForFunction(() => /\d.* of [23]\.\d MB/.test(document.querySelector('#model-progress')?.innerText ?? ''));
  for (let waits = 0; waits < 200 && begun < 7; waits++) await page.waitForTimeout(20);
  await box.getByRole('button', { name: 'Pause' }).click();
  assert.match(await box.innerText(), /^Paused/);
  release();
  host.pace = async () => {};
  await page.waitForFunction(() => /incomplete/.test(document.querySelector('#stored').innerText));
  assert.match(await stored(), /host\/small\/\s+.* of 3\.\d MB, incomplete/);
  host.log = [];
  const whole = [...host.files]
    .filter(([path]) => path.startsWith('small/') && isShard(path))
    .reduce((sum, [, bytes]) => sum + bytes.length, 0);
  await box.getByRole('button', { name: 'Resume' }).click();
  await page.waitForSelector('#model-info:has-text("small")');
  assert.ok(shards() > 0 && shards() < whole, `${shards()} of ${whole} bytes`);
  await page.waitForFunction(() => !/incomplete/.test(document.querySelector('#stored').innerText));
  assert.match(await page.innerText('#space'), /used of .* this site may keep\. (Kept until you delete it|The browser may delete it)/);
});

test('a stored model is loaded again from the list without the network, and deleted once another runs', async () => {
  const row = (name) => page.locator('#stored li', { hasText: name });
  assert.equal(await row('small').getByRole('button', { name: /^Load/ }).isDisabled(), true);
  await row('small')
    .getByRole('button', { name: /^Delete/ })
    .click();
  await page.getByText('is in use').waitFor();
  await row('Demo assistant').getByRole('button', { name: /^Load/ }).click();
  await page.waitForSelector('#model-info:has-text("Demo assistant")');
  host.log = [];
  await row('small').getByRole('button', { name: /^Load/ }).click();
  await page.waitForSelector('#model-info:has-text("small")');
  assert.deepEqual(host.log, []);
  await row('Demo assistant').getByRole('button', { name: /^Load/ }).click();
  await page.waitForSelector('#model-info:has-text("Demo assistant")');
  await page.waitForFunction(() => document.querySelector('#model-button').dataset.state === 'ready');
  // The old model is let go of a moment after the new one took its place.
  const deleted = () => {
    const small = [...document.querySelectorAll('#stored li')].find((row) => row.innerText.includes('small'));
    small?.querySelector('[aria-label^=Delete]').click();
    return !small;
  };
  await page.waitForFunction(deleted, undefined, { polling: 300 });
});

test('what cannot be loaded says why and what to do', async () => {
  await page.click('label[for=kind-url]');
  await page.fill('#model-url', `${url}faults/missing/`);
  await page.click('#check-model');
  await page.waitForSelector('#estimate .error-box');
  assert.match(await page.innerText('#estimate'), /not found[\s\S]*Check the model's address/);
});

/** Answers as the hub does for repository org/gated, which needs the token and whose files are the host's; gives the requests that came. */
async function hub(context, token) {
  const seen = [];
  const [commit, files] = ['c0ffee', [...host.files].filter(([path]) => path.startsWith('gated/'))];
  const tree = files.map(([path, bytes]) => ({
    type: 'file',
    path: path.slice('gated/'.length),
    size: bytes.length,
    oid: sha256(bytes).slice(0, 40),
    ...(isShard(path) && { lfs: { oid: sha256(bytes), size: bytes.length } }),
  }));
  const api = { '/api/models/org/gated/revision/main': { sha: commit }, [`/api/models/org/gated/tree/${commit}`]: tree };
  await context.route('https://huggingface.co/**', async (route) => {
    const { pathname } = new URL(route.request().url());
    const { authorization } = await route.request().allHeaders();
    seen.push({ pathname, authorization });
    const headers = { 'access-control-allow-origin': '*', 'access-control-expose-headers': '*' };
    if (authorization !== `Bearer ${token}`)
      return route.fulfill({ status: 401, body: 'Access to model org/gated is restricted', headers });
    if (api[pathname]) return route.fulfill({ json: api[pathname], headers });
    const response = await route.fetch({ url: `${url}host/gated/${pathname.replace(`/org/gated/resolve/${commit}/`, '')}` });
    await route.fulfill({ response, headers: { ...response.headers(), ...headers } });
  });
  return seen;
}

test('a gated model of the hub: refused without a token, loaded with it', async () => {
  await page.click('label[for=kind-hub]');
  await page.fill('#model-hub', 'org/gated');
  await page.click('#check-model');
  await page.waitForSelector('#estimate .error-box');
  assert.match(await page.innerText('#estimate'), /gated[\s\S]*token/);
  await page.fill('#model-token', 'hf_right');
  await page.click('#check-model');
  await page.waitForSelector('#load-model:visible');
  await page.click('#load-model');
  await page.waitForSelector('#model-info:has-text("org/gated")');
  await page.waitForFunction(() => /org\/gated\s+[\d.]+ MB · commit c0ffee/.test(document.querySelector('#stored').innerText));
  assert.ok(seen.some(({ pathname, authorization }) => isShard(pathname) && authorization === 'Bearer hf_right'));
});

test("a folder of the user's own, chosen and dropped", async () => {
  const place = mkdtempSync(join(tmpdir(), 'mobilellm-'));
  try {
    for (const [seed, name] of ['chosen', 'dropped'].entries()) {
      mkdirSync(join(place, name));
      for (const [file, bytes] of checkpoint({ seed: 3 + seed, shards: 2 })) writeFileSync(join(place, name, file), bytes);
    }
    await page.click('label[for=kind-files]');
    await page.setInputFiles('#file-input', join(place, 'chosen'));
    await page.waitForSelector('#load-model:visible');
    assert.match(await page.innerText('#chosen-files'), /^chosen: 7 files$/);
    assert.match(await page.innerText('#estimate'), /To download\s+nothing/);
    await page.click('#load-model');
    await page.waitForSelector('#model-info:has-text("chosen")');
    const box = await page.locator('#drop').boundingBox();
    const cdp = await page.context().newCDPSession(page);
    const data = { items: [], files: [join(place, 'dropped')], dragOperationsMask: 1 };
    for (const type of ['dragEnter', 'dragOver', 'drop'])
      await cdp.send('Input.dispatchDragEvent', { type, x: box.x + 20, y: box.y + 10, data });
    await page.waitForFunction(() => /^dropped: 7 files$/.test(document.querySelector('#chosen-files').innerText));
    await page.waitForSelector('#load-model:visible');
    await page.click('#load-model');
    await page.waitForSelector('#model-info:has-text("dropped")');
  } finally {
    rmSync(place, { recursive: true });
  }
});

// The page's panel of models: the size before anything is downloaded, pause and resume, what is stored, another tab, delete.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, serveTests } from '../lib/browser.mjs';
import { checkpoint, isShard } from '../lib/checkpoint.mjs';
import { faults, Host } from '../lib/faults.mjs';

const host = new Host();
let browser, server, url, page;

before(async () => {
  ({ server, url } = await serveTests({ intercept: (request, response) => host.answer(request, response) || faults(request, response) }));
  host.put('small/', checkpoint({ seed: 1, shards: 12, megabytes: 3, manifest: true }));
  browser = await launch({ webgpu: 'none' });
  page = await (await browser.newContext({ viewport: { width: 1100, height: 900 } })).newPage();
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
  const whole = [...host.files].filter(([path]) => path.startsWith('small/') && isShard(path)).reduce((sum, [, bytes]) => sum + bytes.length, 0);
  await box.getByRole('button', { name: 'Resume' }).click();
  await page.waitForSelector('#model-info:has-text("small")');
  assert.ok(shards() > 0 && shards() < whole, `${shards()} of ${whole} bytes`);
  await page.waitForFunction(() => !/incomplete/.test(document.querySelector('#stored').innerText));
  assert.match(await page.innerText('#space'), /used of .* this site may keep\. (Kept until you delete it|The browser may delete it)/);
});

test('a stored model is loaded again from the list without the network, and deleted once another runs', async () => {
  const row = (name) => page.locator('#stored li', { hasText: name });
  assert.equal(await row('small').getByRole('button', { name: /^Load/ }).isDisabled(), true);
  await row('small').getByRole('button', { name: /^Delete/ }).click();
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
  for (let tries = 0; tries < 10 && /small/.test(await stored()); tries++) {
    await row('small').getByRole('button', { name: /^Delete/ }).click();
    await page.waitForTimeout(300);
  }
  assert.doesNotMatch(await stored(), /small/);
});

test('what cannot be loaded says why and what to do', async () => {
  await page.click('label[for=kind-url]');
  await page.fill('#model-url', `${url}faults/missing/`);
  await page.click('#check-model');
  await page.waitForSelector('#estimate .error-box');
  assert.match(await page.innerText('#estimate'), /not found[\s\S]*Check the model's address/);
});

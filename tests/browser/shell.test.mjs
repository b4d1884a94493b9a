// The service worker on a site of two files: offline, isolated, updated without breaking open tabs, never half-updated.
import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { writeShell } from '../../scripts/shell.mjs';
import { launch } from '../lib/browser.mjs';

let folder, browser, context, server, url;
const www = () => join(folder, 'www');
const pkg = () => join(folder, 'pkg');

/** Publishes a version whose page says `text`. */
async function publish(text) {
  await writeFile(join(www(), 'index.html'), `<!doctype html><title>t</title><link rel="icon" href="data:,"><p>${text}</p>`);
  return writeShell(www(), pkg());
}
async function open() {
  const page = await context.newPage();
  await page.goto(url);
  return page;
}
const says = (page) => page.innerText('p');
/** Looks for a new version and waits until it is installed, or has failed to. */
const update = (page) =>
  page.evaluate(async () => {
    const registration = await navigator.serviceWorker.ready;
    await registration.update();
    const worker = registration.installing;
    if (worker?.state === 'installing') await new Promise((done) => worker.addEventListener('statechange', done, { once: true }));
    return Boolean(registration.waiting);
  });

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'shell-'));
  await mkdir(www());
  await mkdir(pkg());
  await cp(join(root, 'www/sw.js'), join(www(), 'sw.js'));
  await cp(join(root, 'pkg/sw-helper.js'), join(pkg(), 'sw-helper.js'));
  await writeFile(join(www(), 'data.txt'), 'kept');
  await mkdir(join(www(), 'models'));
  await writeFile(join(www(), 'models/weights.bin'), 'weights');
  await publish('one');
  // A static host that sends no headers of its own.
  ({ server, url } = await serve({ '/': www(), '/pkg/': pkg() }, { headers: {} }));
  browser = await launch({ webgpu: 'none' });
  context = await browser.newContext();
});

after(async () => {
  await browser.close();
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true });
});

let page;

test('the second visit is isolated and needs no network', async () => {
  page = await open();
  assert.equal(await page.evaluate(() => crossOriginIsolated), false);
  await page.evaluate(async () => {
    await navigator.serviceWorker.register('sw.js', { type: 'module' });
    await navigator.serviceWorker.ready;
  });
  await page.reload();
  assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  await context.setOffline(true);
  await page.goto(`${url}?from=home-screen`);
  assert.equal(await says(page), 'one');
  assert.equal(await page.evaluate(async () => (await fetch('data.txt')).text()), 'kept');
  await context.setOffline(false);
});

test('weights and the worker itself are not in its cache', async () => {
  const files = Object.keys((await publish('one')).files);
  assert.deepEqual(files, ['data.txt', 'index.html', 'pkg/sw-helper.js']);
  assert.equal(await page.evaluate(async () => (await (await caches.open('mobilellm-shell')).keys()).length), 3);
});

test('a new version takes over at the next navigation of the only tab', async () => {
  await publish('two');
  assert.equal(await update(page), true);
  assert.equal(await says(page), 'one');
  await page.reload();
  await page.waitForFunction(() => document.querySelector('p')?.textContent === 'two');
  assert.equal(
    await page.evaluate(async () => (await (await caches.open('mobilellm-shell')).keys()).length),
    3,
    'the old page is gone from the cache',
  );
});

test('with two tabs open the old version stays until one asks for the new', async () => {
  const other = await open();
  await publish('three');
  assert.equal(await update(page), true);
  await other.reload();
  assert.equal(await says(other), 'two');
  await page.evaluate(async () => {
    const taken = new Promise((done) => navigator.serviceWorker.addEventListener('controllerchange', done, { once: true }));
    const late = new Promise((_, reject) => setTimeout(reject, 30_000, new Error('the new version did not take over')));
    (await navigator.serviceWorker.getRegistration()).waiting.postMessage('update');
    await Promise.race([taken, late]);
  });
  await page.reload();
  assert.equal(await says(page), 'three');
  await other.close();
});

test('a half-finished deployment is refused', async () => {
  await publish('four');
  await writeFile(join(www(), 'index.html'), '<p>something else</p>');
  assert.equal(await update(page), false);
  await page.reload();
  assert.equal(await says(page), 'three');
});

// An app of three lines that imports the packed package runs under Vite without configuration, built and in development: the
// exports map, the worker and the wasm are found.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { after, before, test } from 'node:test';
import { build, createServer } from 'vite';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { launch } from '../lib/browser.mjs';

const APP = `import { MobileLLM } from 'mobilellm-web';
const llm = await MobileLLM.load('/models/demo/', { device: 'cpu' });
document.title = (await llm.generate('set an', { maxTokens: 3 }).result).finishReason;
`;

let folder, browser;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mobilellm-app-'));
  const installed = join(folder, 'node_modules/mobilellm-web');
  mkdirSync(installed, { recursive: true });
  const pack = spawnSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], { cwd: root, encoding: 'utf8' });
  assert.equal(pack.status, 0, pack.stderr);
  const [{ filename }] = Object.values(JSON.parse(pack.stdout));
  assert.equal(spawnSync('tar', ['xzf', join(folder, filename), '-C', installed, '--strip-components=1']).status, 0);
  writeFileSync(join(folder, 'package.json'), '{ "type": "module", "dependencies": { "mobilellm-web": "*" } }');
  writeFileSync(join(folder, 'index.html'), '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/app.js"></script>');
  writeFileSync(join(folder, 'app.js'), APP);
  browser = await launch({ webgpu: 'none' });
});

after(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** What the app makes of the page's title. */
async function outcome(url) {
  const page = await browser.newPage();
  const failures = [];
  page.on('pageerror', (error) => failures.push(error.message));
  await page.goto(url);
  await page.waitForFunction(() => document.title !== '', null, { timeout: 60_000 }).catch(() => {});
  assert.equal(await page.title(), 'length', failures.join('\n'));
  await page.close();
}

test('vite build', async () => {
  await build({ root: folder, configFile: false, logLevel: 'warn', build: { target: 'es2022' } });
  const { server, url } = await serve({ '/': join(folder, 'dist'), '/models/': join(root, 'www/models') });
  try {
    await outcome(url);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test('vite dev', async () => {
  mkdirSync(join(folder, 'public'));
  symlinkSync(join(root, 'www/models'), join(folder, 'public/models'));
  const server = await createServer({ root: folder, configFile: false, logLevel: 'warn', server: { fs: { strict: false } } });
  try {
    await server.listen();
    await outcome(server.resolvedUrls.local[0]);
  } finally {
    await server.close();
  }
});

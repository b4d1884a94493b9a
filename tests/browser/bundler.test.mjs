// An app of three lines, built by Vite from the packed package, runs: the exports map, the worker and the wasm are found.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { build } from 'vite';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { launch } from '../lib/browser.mjs';

const APP = `import { MobileLLM } from 'mobilellm-web';
const llm = await MobileLLM.load('/models/demo/', { device: 'cpu' });
document.title = (await llm.generate('set an', { maxTokens: 3 }).result).finishReason;
`;

test('vite build', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mobilellm-app-'));
  let server;
  let browser;
  try {
    const installed = join(folder, 'node_modules/mobilellm-web');
    mkdirSync(installed, { recursive: true });
    const pack = spawnSync('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], { cwd: root, encoding: 'utf8' });
    assert.equal(pack.status, 0, pack.stderr);
    const [{ filename }] = Object.values(JSON.parse(pack.stdout));
    assert.equal(spawnSync('tar', ['xzf', join(folder, filename), '-C', installed, '--strip-components=1']).status, 0);
    writeFileSync(join(folder, 'index.html'), '<!doctype html><script type="module" src="/app.js"></script>');
    writeFileSync(join(folder, 'app.js'), APP);
    // No configuration: what a new user has.
    await build({ root: folder, configFile: false, logLevel: 'warn', build: { target: 'es2022' } });
    let url;
    ({ server, url } = await serve({ '/': join(folder, 'dist'), '/models/': join(root, 'www/models') }));
    browser = await launch({ webgpu: 'none' });
    const page = await browser.newPage();
    const failures = [];
    page.on('pageerror', (error) => failures.push(error.message));
    await page.goto(url);
    await page.waitForFunction(() => document.title !== '', null, { timeout: 60_000 }).catch(() => {});
    assert.equal(await page.title(), 'length', failures.join('\n'));
  } finally {
    await browser?.close();
    server?.closeAllConnections();
    server?.close();
    rmSync(folder, { recursive: true, force: true });
  }
});

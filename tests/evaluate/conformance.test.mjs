// Every verb of the WebGPU backend in Chromium against the plain loops, in each variant that its adapter has: minutes in software WebGPU.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { root, run } from '../../scripts/lib.mjs';
import { launch } from '../lib/browser.mjs';
import { serve } from '../../scripts/serve.mjs';

let server, browser, page;
before(async () => {
  // With what only tests call.
  run(process.execPath, [join(root, 'scripts/build.mjs'), '--bench']);
  let url;
  ({ server, url } = await serve({
    '/tests/': join(root, 'tests'),
    '/pkg/': join(root, 'pkg'),
    '/wasm/': join(root, 'target/bindgen/bench'),
  }));
  browser = await launch({ webgpu: 'software' });
  page = await browser.newPage();
  await page.goto(`${url}tests/lib/blank.html`);
});
after(async () => {
  await browser?.close();
  server?.closeAllConnections();
  server?.close();
});

for (const subgroups of [true, false]) {
  for (const dtype of ['f16', 'q8', 'q4']) {
    test(`${subgroups ? 'subgroups' : 'plain'}, ${dtype}`, async () => {
      const [features, { cases, failures }] = await page.evaluate(
        async (options) => {
          const wasm = await import('/wasm/mobilellm_web.js');
          await (globalThis.started ??= wasm.default({ module_or_path: '/wasm/mobilellm_web_bg.wasm' }));
          return wasm.gpuConformance(options);
        },
        { subgroups, f16: false, dtype, tolerance: 1e-3 },
      );
      assert.deepEqual(features, subgroups ? ['subgroups'] : []);
      assert.deepEqual(failures, []);
      assert.ok(cases >= 80, `${cases} cases`);
    });
  }
}

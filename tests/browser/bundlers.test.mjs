// The package as it is published, in apps made by some of the bundlers of the matrix: built, and in development. `npm run evaluate`
// tries all of them.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { APPS } from '../bundlers/apps.mjs';
import { install, prepare, tryBuild, tryDev } from '../bundlers/lab.mjs';
import { launch } from '../lib/browser.mjs';

let browser, tarball;

before(async () => {
  tarball = prepare();
  browser = await launch({ webgpu: 'none' });
});

after(() => browser?.close());

// One that knows where the package's files are in both, one that does in neither, and one that builds its own kind of module.
for (const name of ['Vite 8', 'esbuild', 'webpack 5']) {
  describe(name, () => {
    const app = APPS[name];
    let folder;
    before(() => {
      ({ folder } = install(name, app, tarball));
    });
    test('build', async () => assert.deepEqual(await tryBuild(browser, folder, app), []));
    test('development', async () => assert.deepEqual(await tryDev(browser, folder, app), []));
  });
}

// Chromium, and the server that it loads the built package and the page from.
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { chromium } from 'playwright-core';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { faults } from './faults.mjs';

/** CHROMIUM_PATH, or where systems and Playwright keep a Chromium. */
export function chromiumPath() {
  const named = process.env.CHROMIUM_PATH;
  if (named) {
    if (existsSync(named)) return named;
    throw new Error(`CHROMIUM_PATH is ${named}, which does not exist`);
  }
  const names = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome'];
  const usual = [
    ...(process.env.PATH ?? '').split(delimiter).flatMap((folder) => names.map((name) => join(folder, name))),
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
    chromium.executablePath(),
  ];
  const found = usual.find((path) => path && existsSync(path));
  if (!found) {
    throw new Error(
      'These tests need Chromium: install it (apt-get install chromium, or npx playwright-core install chromium) or set CHROMIUM_PATH',
    );
  }
  return found;
}

/** WebGPU by SwiftShader, on any machine; by the machine's GPU (in tests: WEBGPU=own); or none at all. */
const GPU_FLAGS = {
  software: ['--disable-gpu', '--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader'],
  own: [
    '--enable-unsafe-webgpu',
    ...(process.platform === 'linux'
      ? [
          '--enable-features=Vulkan,WebGPUDeveloperFeatures',
          '--use-angle=vulkan',
          '--use-vulkan=native',
          '--disable-vulkan-surface',
          '--ignore-gpu-blocklist',
        ]
      : []),
  ],
  none: ['--disable-gpu', '--disable-features=WebGPU,WebGPUService', '--disable-blink-features=WebGPU'],
};

const launchOptions = ({ webgpu: wanted, args = [], ...options }) => {
  const webgpu = wanted === 'software' && process.env.WEBGPU === 'own' ? 'own' : wanted;
  return {
    executablePath: chromiumPath(),
    headless: true,
    args: [
      '--no-sandbox',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...GPU_FLAGS[webgpu],
      ...args,
    ],
    ...options,
  };
};

/**
 * A Chromium; `webgpu`: 'software', 'own' or 'none'. Of those that need no further options `npm test` has started one for all files:
 * a page of `newPage` has a context of its own there too, and `close` ends only what was opened here.
 */
export function launch(options) {
  const shared = Object.keys(options).length === 1 && process.env[`BROWSER_${options.webgpu.toUpperCase()}`];
  return shared ? chromium.connect(shared) : chromium.launch(launchOptions(options));
}

/** One that several processes can use. */
export const launchServer = (options) => chromium.launchServer(launchOptions(options));

/** The same with what it stores in a folder on disk, not in memory: gives the one context that there is. */
export const launchWith = (profile, options) => chromium.launchPersistentContext(profile, launchOptions(options));

/** Everything that is served to the tests: the page, the package, these files, and folders that misbehave. */
export function serveTests(options = {}) {
  return serve({ '/': join(root, 'www'), '/pkg/': join(root, 'pkg'), '/tests/': join(root, 'tests') }, { intercept: faults, ...options });
}

/** Has the workers of a page run `code` before anything is asked of them. */
export const patchWorkers = (page, code) =>
  page.route('**/worker.js', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, body: `${await response.text()};{${code}}` });
  });

/** A browser, a server, and an empty page in which the package can be imported; `end` ends all of it. */
export async function open(options) {
  const { server, url } = await serveTests();
  const browser = await launch(options);
  const page = await browser.newPage();
  page.on('console', (message) => {
    if (message.type() === 'error') console.error(`  [page] ${message.text()}`);
  });
  await page.goto(`${url}tests/lib/blank.html`);
  await page.waitForFunction('globalThis.ready');
  const end = async () => {
    await browser.close();
    server.closeAllConnections();
    server.close();
  };
  return { browser, page, url, end };
}

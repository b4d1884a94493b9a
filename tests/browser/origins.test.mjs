// Pages that are not served as a page usually is: the package on another origin, an extension, a file, a frame without an origin,
// workers of other kinds; and files of the package that are not where they should be.
import assert from 'node:assert/strict';
import { appendFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { build } from 'esbuild';
import { root } from '../../scripts/lib.mjs';
import { ISOLATION, serve } from '../../scripts/serve.mjs';
import { launch, launchWith } from '../lib/browser.mjs';
import { checkpoint } from '../lib/checkpoint.mjs';

const CORS = { 'Access-Control-Allow-Origin': '*', 'Cross-Origin-Resource-Policy': 'cross-origin' };
/** What a page does, as text: its outcome, or the error's. `load`: more options. */
const ask = (source, load = '') => `(async () => {
  const llm = await MobileLLM.load(${JSON.stringify(source)}, { device: 'cpu', threads: 2, ${load} });
  const { threads, features } = llm.info;
  const { tokenIds } = await llm.generate('set an alarm', { maxTokens: 4, ignoreEos: true }).result;
  await llm.close();
  return { tokens: tokenIds.length, threads, features };
})().catch(({ name, code, message, remedy }) => ({ name, code, message, remedy }))`;
const module = (from, code) => `<!doctype html><link rel="icon" href="data:,"><script type="module">
  import { MobileLLM } from ${JSON.stringify(from)};
  globalThis.MobileLLM = MobileLLM;
  globalThis.outcome = ${code};
</script>`;
const GOOD = { tokens: 4, threads: 2, features: ['relaxed-simd'] };
/** Where the page is not isolated. */
const ALONE = { ...GOOD, threads: 1 };

let folder, here, elsewhere, browser;

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'mobilellm-origins-'));
  for (const [name, bytes] of checkpoint({ seed: 1, shards: 2 })) write(`models/tiny/${name}`, bytes);
  here = await serve({ '/': folder, '/pkg/': join(root, 'pkg') });
  elsewhere = await serve({ '/': folder, '/pkg/': join(root, 'pkg') }, { headers: CORS });
  browser = await launch({ webgpu: 'none' });
});

after(async () => {
  await browser?.close();
  for (const { server } of [here, elsewhere]) {
    server.closeAllConnections();
    server.close();
  }
  rmSync(folder, { recursive: true, force: true });
});

function write(path, content) {
  mkdirSync(join(folder, path, '..'), { recursive: true });
  writeFileSync(join(folder, path), content);
}

/** The page's outcome, and what it wrote to the console as an error. */
async function open(address, { context = browser, prepare = async () => {}, frame = (page) => page.mainFrame() } = {}) {
  const page = await context.newPage();
  const errors = [];
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  page.on('pageerror', (error) => errors.push(error.message));
  try {
    await prepare(page);
    await page.goto(address);
    const shown = await frame(page);
    await shown.waitForFunction('globalThis.outcome', null, { timeout: 30_000 }).catch((error) => {
      throw new Error(`${error.message}\n${errors.join('\n')}`);
    });
    return { outcome: await shown.evaluate('outcome'), errors };
  } finally {
    await page.close();
  }
}

const holds = (got, wanted = GOOD) => assert.deepEqual(got, { outcome: wanted, errors: [] });
/** Our own error, which says what to do. */
const unavailable = ({ outcome }, message) => {
  assert.equal(outcome.code, 'engine-unavailable', JSON.stringify(outcome));
  assert.match(outcome.message, message);
  assert.match(outcome.remedy, /workerUrl/);
};

test('by an import map, from another origin', async () => {
  const map = JSON.stringify({ imports: { 'mobilellm-web': `${elsewhere.url}pkg/index.js` } });
  write('map.html', module('mobilellm-web', ask('/models/tiny/')).replace('<script', `<script type="importmap">${map}</script><script`));
  holds(await open(`${here.url}map.html`));
});

test('a page of an extension (Manifest V3), with the model in the extension; its service worker is told that there are no workers', async () => {
  const extension = join(folder, 'extension');
  cpSync(join(folder, 'models'), join(extension, 'models'), { recursive: true });
  cpSync(join(root, 'pkg'), join(extension, 'pkg'), { recursive: true });
  write(
    'extension/manifest.json',
    JSON.stringify({
      manifest_version: 3,
      name: 'App',
      version: '1',
      background: { service_worker: 'background.js', type: 'module' },
      content_security_policy: { extension_pages: "script-src 'self' 'wasm-unsafe-eval'; object-src 'self'" },
      cross_origin_embedder_policy: { value: 'require-corp' },
      cross_origin_opener_policy: { value: 'same-origin' },
    }),
  );
  write('extension/page.html', '<!doctype html><script type="module" src="./page.js"></script>');
  const script = `import { MobileLLM } from './pkg/index.js';\nglobalThis.outcome = ${ask('/models/tiny/')};\n`;
  write('extension/page.js', script);
  write('extension/background.js', script.replace('"/models/tiny/"', "new URL('./models/tiny/', import.meta.url)"));
  const context = await launchWith(join(folder, 'profile'), {
    webgpu: 'none',
    args: [`--disable-extensions-except=${extension}`, `--load-extension=${extension}`],
    ignoreDefaultArgs: ['--disable-extensions'],
  });
  try {
    const background = context.serviceWorkers()[0] ?? (await context.waitForEvent('serviceworker', { timeout: 20_000 }));
    holds(await open(new URL('/page.html', background.url()).href, { context }));
    unavailable({ outcome: await background.evaluate('outcome') }, /no workers here/);
  } finally {
    await context.close();
  }
});

describe('in a classic script, which has no address of its own', () => {
  let source;
  before(async () => {
    source = `${elsewhere.url}models/tiny/`;
    write('app.js', `import { MobileLLM } from ${JSON.stringify(join(root, 'pkg/index.js'))};\nglobalThis.outcome = ${ask(source)};\n`);
    await build({ entryPoints: [join(folder, 'app.js')], bundle: true, outfile: join(folder, 'classic.js'), logLevel: 'error' });
    write('classic.html', '<!doctype html><link rel="icon" href="data:,"><script src="./classic.js"></script>');
  });

  test('a page that is a file', async () => {
    holds(await open(`file://${folder}/classic.html`), ALONE);
  });

  test('a frame without an origin', async () => {
    write('frame.html', '<!doctype html><link rel="icon" href="data:,"><iframe sandbox="allow-scripts" src="classic.html"></iframe>');
    const frame = (page) => page.waitForSelector('iframe').then((element) => element.contentFrame());
    const { outcome } = await open(`${elsewhere.url}frame.html`, { frame });
    assert.deepEqual(outcome, ALONE);
  });
});

describe('in a worker of the page', () => {
  const script = (from, source) => `import { MobileLLM } from ${JSON.stringify(from)};\nconst outcome = ${ask(source)};\n`;

  test('a dedicated one has workers of its own', async () => {
    write('worker.js', `${script('/pkg/index.js', '/models/tiny/')}postMessage(await outcome);`);
    write(
      'worker.html',
      `<!doctype html><link rel="icon" href="data:,"><script>
      globalThis.outcome = new Promise((resolve) => { new Worker('/worker.js', { type: 'module' }).onmessage = ({ data }) => resolve(data); });
    </script>`,
    );
    holds(await open(`${here.url}worker.html`));
  });

  test('a shared one answers, or is told that there are no workers', async () => {
    write(
      'shared.js',
      `${script('/pkg/index.js', '/models/tiny/')}onconnect = async ({ ports: [port] }) => port.postMessage(await outcome);`,
    );
    write(
      'shared.html',
      `<!doctype html><link rel="icon" href="data:,"><script>
      globalThis.outcome = new Promise((resolve) => { new SharedWorker('/shared.js', { type: 'module' }).port.onmessage = ({ data }) => resolve(data); });
    </script>`,
    );
    const got = await open(`${here.url}shared.html`);
    if (got.outcome.code) unavailable(got, /no workers here/);
    else assert.equal(got.outcome.tokens, 4);
  });
});

describe("the package's files", () => {
  const page = (load, from = '/pkg/index.js') => {
    write('page.html', module(from, ask('/models/tiny/', load)));
    return `${here.url}page.html`;
  };

  test('in a folder that the options name, on any origin', async () => {
    holds(await open(page(`workerUrl: '/pkg/wasm/'`)));
    holds(await open(page(`workerUrl: '${elsewhere.url}pkg/wasm/', wasmUrl: new URL('/pkg/wasm/', location.href)`)));
  });

  test('named one by one', async () => {
    holds(await open(page(`workerUrl: 'pkg/wasm/simd128/worker.js'`)), { ...GOOD, features: ['simd128'] });
    holds(await open(page(`workerUrl: 'pkg/wasm/simd128/worker.js', wasmUrl: '/pkg/wasm/simd128/mobilellm_web_bg.wasm'`)), {
      ...GOOD,
      features: ['simd128'],
    });
  });

  test('named wrongly: the error says which is not there', async () => {
    unavailable(await open(page(`workerUrl: '/nowhere/'`)), /\/nowhere\/relaxed\/worker\.js/);
    unavailable(await open(page(`wasmUrl: '/nowhere/'`)), /\/nowhere\/relaxed\/mobilellm_web_bg\.wasm.*404/);
  });

  test('a worker that cannot be had comes from the copy in the bundle', async () => {
    const { outcome } = await open(page(''), {
      prepare: (page) => page.route('**/pkg/wasm/*/worker.js', (route) => route.fulfill({ status: 404 })),
    });
    assert.deepEqual(outcome, GOOD);
  });

  test('no worker at all: an error, and no wait without an end', async () => {
    const prepare = (page) => page.route(/\/pkg\/(wasm|embedded)\/\w+\/worker\.js/, (route) => route.fulfill({ status: 404 }));
    unavailable(await open(page(''), { prepare }), /worker\.js/);
  });

  test('a thread that cannot start is done without, and the page hears of no error', async () => {
    const boom = ";{const go = onmessage; onmessage = (e) => { if (e.data.follow) throw new Error('boom'); go(e); };}";
    cpSync(join(root, 'pkg/wasm'), join(folder, 'boom'), { recursive: true });
    appendFileSync(join(folder, 'boom/relaxed/worker.js'), boom);
    holds(await open(page(`workerUrl: '/boom/'`)), ALONE);
  });

  test('a CSP that allows workers of the origin alone is enough', async () => {
    const { server, url } = await serve(
      { '/': folder, '/pkg/': join(root, 'pkg') },
      {
        headers: {
          ...ISOLATION,
          'Content-Security-Policy': "default-src 'self'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; img-src data:",
        },
      },
    );
    page('');
    try {
      holds(await open(`${url}page.html`));
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});

test('a model that nobody holds any more takes its workers with it, as after a hot reload', async () => {
  const own = await launch({ webgpu: 'none', args: ['--js-flags=--expose-gc'] });
  try {
    const page = await own.newPage();
    write('reload.html', module('/pkg/index.js', '1'));
    await page.goto(`${here.url}reload.html`);
    await page.waitForFunction('globalThis.MobileLLM');
    for (let reload = 0; reload < 3; reload++) {
      await page.evaluate(async (reload) => {
        const llm = await MobileLLM.load('/models/tiny/', { device: 'cpu', threads: 2 });
        const session = await llm.session().catch(() => null);
        await llm.generate('a', { maxTokens: 1 }).result;
        llm.addEventListener('devicelost', () => llm.info);
        globalThis.current = { reload, llm, session };
      }, reload);
    }
    const alive = () => page.workers().length;
    assert.ok(alive() >= 6, `${alive()} workers of three models`);
    for (let waits = 0; alive() > 2 && waits < 50; waits++) {
      await page.evaluate('gc()');
      await page.waitForTimeout(100);
    }
    // An engine and its second thread.
    assert.equal(alive(), 2);
    assert.equal(
      await page.evaluate(`current.llm.generate('a', { maxTokens: 2, ignoreEos: true }).result.then(({ tokenIds }) => tokenIds.length)`),
      2,
    );
  } finally {
    await own.close();
  }
});

// Installs an app of the matrix with the packed package, builds it or starts its development server, and opens it in Chromium.
import { spawn, spawnSync } from 'node:child_process';
import { createServer, request as ask } from 'node:http';
import { connect } from 'node:net';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import sirv from 'sirv';
import { filesUnder, root, target } from '../../scripts/lib.mjs';
import { ISOLATION } from '../../scripts/serve.mjs';
import { checkpoint } from '../lib/checkpoint.mjs';

/** The apps and what they install stay there: the next run takes seconds. */
const lab = join(target, 'bundlers');
const models = join(lab, 'models');
/** In node_modules: what bundlers keep of a package, and the package of an earlier run. */
const STALE = ['.vite', '.cache', '.astro', 'mobilellm-web', '.package-lock.json'];

function command(program, args, cwd) {
  const { status, stdout, stderr, error } = spawnSync(program, args, { cwd, encoding: 'utf8', env: environment(cwd), timeout: 600_000 });
  if (status !== 0) throw new Error(`${program} ${args.join(' ')} failed: ${error?.message ?? ''}\n${(stdout + stderr).slice(-3000)}`);
  return stdout;
}

const environment = (folder) => ({
  ...process.env,
  PATH: [join(folder, 'node_modules/.bin'), process.env.PATH].join(delimiter),
  CI: '1',
  NO_COLOR: '1',
  NEXT_TELEMETRY_DISABLED: '1',
  ASTRO_TELEMETRY_DISABLED: '1',
  NUXT_TELEMETRY_DISABLED: '1',
  NODE_ENV: undefined,
  FORCE_COLOR: undefined,
});

/** Packs the package as it is published, and makes the small model that the apps load. @returns {string} the tarball */
export function prepare() {
  mkdirSync(lab, { recursive: true });
  const [{ filename }] = Object.values(JSON.parse(command('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', lab], root)));
  mkdirSync(join(models, 'tiny'), { recursive: true });
  for (const [name, bytes] of checkpoint({ seed: 1, shards: 2 })) writeFileSync(join(models, 'tiny', name), bytes);
  return join(lab, filename);
}

/** Makes the app's folder anew around what is installed there. @returns {{ folder: string, versions: Record<string, string> }} */
export function install(name, { packages, files }, tarball) {
  const folder = join(lab, name.replace(/[^\w.]+/g, '-').toLowerCase());
  mkdirSync(folder, { recursive: true });
  const stale = [...readdirSync(folder).filter((entry) => entry !== 'node_modules'), ...STALE.map((entry) => join('node_modules', entry))];
  for (const path of stale) rmSync(join(folder, path), { recursive: true, force: true });
  writeFileSync(
    join(folder, 'package.json'),
    JSON.stringify({
      name: 'app',
      private: true,
      type: 'module',
      dependencies: { ...packages, 'mobilellm-web': `file:${tarball}` },
    }),
  );
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  command('npm', ['install', '--no-package-lock', '--prefer-offline', '--no-audit', '--no-fund'], folder);
  const version = (dependency) => JSON.parse(readFileSync(join(folder, 'node_modules', dependency, 'package.json'), 'utf8')).version;
  return { folder, versions: Object.fromEntries(Object.keys(packages).map((dependency) => [dependency, version(dependency)])) };
}

const listen = (server) =>
  new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve(server.address().port));
  });

async function freePort() {
  const server = createServer();
  const port = await listen(server);
  await new Promise((resolve) => {
    server.close(resolve);
  });
  return port;
}

/** The models beside a folder or another server, isolated. */
async function front({ folder, port }) {
  const headers = {
    setHeaders: (response) => Object.entries(ISOLATION).forEach(([name, value]) => response.setHeader(name, value)),
    dev: true,
  };
  const weights = sirv(models, headers);
  const built = folder && sirv(folder, headers);
  const forwarded = (request) => ({
    host: 'localhost',
    port,
    path: request.url,
    method: request.method,
    headers: { ...request.headers, host: `localhost:${port}` },
  });
  const server = createServer((request, response) => {
    const missing = () => response.writeHead(404, ISOLATION).end('not found');
    if (request.url.startsWith('/models/')) {
      request.url = request.url.slice('/models'.length);
      return weights(request, response, missing);
    }
    // Chromium asks for it where a page names none.
    if (request.url === '/favicon.ico') return response.writeHead(204, ISOLATION).end();
    if (built) return built(request, response, missing);
    const upstream = ask(forwarded(request), (answer) => {
      response.writeHead(answer.statusCode, { ...answer.headers, ...ISOLATION });
      answer.pipe(response);
    });
    upstream.on('error', () => response.destroy());
    request.pipe(upstream);
  });
  // Of hot reload.
  server.on('upgrade', (request, socket, head) => {
    const upstream = connect(port, 'localhost', () => {
      const lines = Object.entries(request.headers).map(([name, value]) => `${name}: ${value}`);
      upstream.write(`${request.method} ${request.url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
      upstream.write(head);
      upstream.pipe(socket).pipe(upstream);
    });
    upstream.on('error', () => socket.destroy());
    socket.on('error', () => upstream.destroy());
  });
  const url = `http://localhost:${await listen(server)}/`;
  return {
    url,
    end: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** A server of the app's own, in a process group of its own. */
async function start(folder, [program, ...args]) {
  const port = await freePort();
  const server = spawn(
    program,
    args.map((arg) => arg.replace('PORT', port)),
    {
      // Some end with their input.
      cwd: folder,
      env: { ...environment(folder), PORT: String(port), HOST: '127.0.0.1' },
      detached: true,
      stdio: ['pipe', 'pipe', 'pipe'],
    },
  );
  let said = '';
  server.stdout.on('data', (text) => {
    said += text;
  });
  server.stderr.on('data', (text) => {
    said += text;
  });
  const end = () => {
    try {
      process.kill(-server.pid, 'SIGKILL');
    } catch {
      // It ended by itself.
    }
  };
  for (let waits = 0; waits < 400; waits++) {
    if (server.exitCode !== null) break;
    const answers = await fetch(`http://localhost:${port}/`).then(
      (answer) => answer.body?.cancel().then(() => true) ?? true,
      () => false,
    );
    if (answers) return { port, end, said: () => said };
    await new Promise((resolve) => {
      setTimeout(resolve, 300);
    });
  }
  end();
  throw new Error(`${program} ${args.join(' ')} does not serve:\n${said.slice(-3000)}`);
}

/** Lets a development server find what it has to prepare, on which it loads its page again. */
async function settle(page, url) {
  await page.goto(url);
  await page.waitForLoadState('networkidle', { timeout: 60_000 });
  await page.close();
}

/** Opens the page twice, so that the second load reads what the first one stored. @returns what does not hold */
async function look(browser, url, { warm = false } = {}) {
  const context = await browser.newContext();
  const problems = [];
  let outcome;
  try {
    if (warm) await settle(await context.newPage(), url);
    for (const visit of ['first', 'second']) {
      const page = await context.newPage();
      page.on('console', (message) => {
        if (message.type() === 'error') problems.push(`${visit} visit, console: ${message.text()} ${message.location().url}`);
      });
      page.on('pageerror', (error) => problems.push(`${visit} visit, error: ${error.message}`));
      await page.goto(url);
      await page.waitForFunction('globalThis.outcome', null, { timeout: 60_000 });
      outcome = await page.evaluate('outcome.catch((error) => ({ failed: `${error.code}: ${error.message}` }))');
      if (outcome.failed) {
        problems.push(`${visit} visit: ${outcome.failed}`);
        break;
      }
      problems.push(...verdict(outcome, ['relaxed-simd']).map((problem) => `${visit} visit: ${problem}`));
      await page.close();
    }
  } catch (error) {
    problems.push(error.message.split('\n')[0]);
  } finally {
    await context.close();
  }
  return problems;
}

/** What is wrong with an app's answer: of four tokens, by two threads. */
const verdict = ({ tokenIds, threads, features }, wanted = []) => [
  ...(tokenIds.length === 4 ? [] : [`${tokenIds.length} tokens, not 4`]),
  ...(threads === 2 ? [] : [`${threads} threads, not 2`]),
  ...wanted.filter((feature) => !features.includes(feature)).map((feature) => `${features}, not ${feature}`),
];

/** Paths of this machine in what was built for a browser. */
const leaks = (folder) =>
  filesUnder(folder)
    .filter((path) => /\.(m?js|html)$/.test(path) && readFileSync(path, 'utf8').includes(`file://${lab}`))
    .map((path) => `${path.slice(folder.length + 1)} has a path of the machine that built it`);

/** @returns {Promise<string[]>} what does not hold of the built app */
export async function tryBuild(browser, folder, { build, out, start: started, public: shown = out }) {
  const [program, ...args] = build;
  command(program, args, folder);
  const own = started && (await start(folder, started));
  const served = await front(started ? { port: own.port } : { folder: join(folder, out) });
  try {
    return [...(await look(browser, served.url)), ...(shown ? leaks(join(folder, shown)) : [])];
  } finally {
    served.end();
    own?.end();
  }
}

/** @returns {Promise<string[]>} what does not hold under the development server */
export async function tryDev(browser, folder, { dev, warm }) {
  const own = await start(folder, dev);
  const served = await front({ port: own.port });
  try {
    return await look(browser, served.url, { warm });
  } finally {
    served.end();
    own.end();
  }
}

/** @returns {string[]} what does not hold of a program that prints its outcome as the last line, or is a runner of tests */
export function tryRun(folder, [program, ...args]) {
  try {
    const last = command(program, args, folder).trim().split('\n').at(-1);
    return last.startsWith('{') ? verdict(JSON.parse(last)) : [];
  } catch (error) {
    return [error.message];
  }
}

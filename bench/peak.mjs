// Peak memory of a renderer that loads a model and runs prompts, with no debugger attached: a debugger's network log keeps up to
// 200 MB of what a page fetches in the renderer's own memory.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { serve } from '../scripts/serve.mjs';
import { root } from '../scripts/lib.mjs';
import { chromiumPath } from '../tests/lib/browser.mjs';
import { renderers, status } from './memory.mjs';

const page = (options) => `<!doctype html><link rel="icon" href="data:,"><script type="module">
const { MobileLLM } = await import('/pkg/index.js');
const say = (what) => fetch('/said/' + what, { method: 'POST' });
try {
  await new Promise((done) => setTimeout(done, 1000));
  await say('blank');
  const llm = await MobileLLM.load('/model/', ${JSON.stringify(options)});
  await say('loaded');
  for (const tokens of [128, 512]) await llm.generate('b' + ' a'.repeat(tokens - 1), { maxTokens: 8, ignoreEos: true }).result;
  await say('done');
} catch (error) {
  await say('failed: ' + error);
}
</script>`;

/**
 * Resident memory of the renderer in MB: before the load, after it, and the peak of load, prefill of 128 and 512 tokens and some
 * steps (VmHWM). `options`: of MobileLLM.load. Linux only.
 */
export async function peakMemory(folder, options) {
  const profile = mkdtempSync(join(tmpdir(), 'mobilellm-peak-'));
  const found = {};
  let end;
  const ended = new Promise((resolve) => (end = resolve));
  const { server, url } = await serve(
    { '/pkg/': join(root, 'pkg'), '/model/': folder },
    {
      intercept(request, response) {
        const path = decodeURIComponent(request.url);
        if (path === '/peak') {
          response
            .writeHead(200, {
              'Content-Type': 'text/html',
              'Cross-Origin-Opener-Policy': 'same-origin',
              'Cross-Origin-Embedder-Policy': 'require-corp',
            })
            .end(page(options));
          return true;
        }
        if (!path.startsWith('/said/')) return false;
        const what = path.slice('/said/'.length);
        found[what] = Math.max(...renderers().map((pid) => status(pid, what === 'done' ? 'VmHWM' : 'VmRSS') ?? 0)) / 2 ** 20;
        response.writeHead(204).end();
        if (what === 'done' || what.startsWith('failed')) end(what);
        return true;
      },
    },
  );
  const browser = spawn(
    chromiumPath(),
    [
      '--headless',
      '--no-sandbox',
      '--no-first-run',
      '--disable-gpu',
      '--disable-background-networking',
      '--remote-debugging-port=0',
      `--user-data-dir=${profile}`,
      `${url}peak`,
    ],
    { stdio: 'ignore', detached: true },
  );
  const timer = setTimeout(() => end('failed: nothing heard for two minutes'), 120_000);
  try {
    const outcome = await ended;
    if (outcome !== 'done') throw new Error(outcome);
    return { blankMB: found.blank, loadedMB: found.loaded, peakMB: found.done };
  } finally {
    clearTimeout(timer);
    // The whole group: where the command is a script, its browser would live on and write.
    const exited = once(browser, 'exit');
    process.kill(-browser.pid);
    await exited;
    server.closeAllConnections();
    server.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 200 });
  }
}

// Memory of a page and its workers while something runs, sampled through the DevTools protocol and /proc.
import { existsSync, readdirSync, readFileSync } from 'node:fs';

const MB = 1e6;

/** Watches a page; `stop()` gives peaks in MB: `js` (heaps, buffers and wasm memory of the page and its workers) and `rss` (the renderer's anonymous memory above what it had at the start; null where there is no /proc). */
export async function watchMemory(page, { every = 30 } = {}) {
  const devtools = await page.context().newCDPSession(page);
  const sessions = new Set();
  await devtools.send('Target.setAutoAttach', { autoAttach: true, waitForDebuggerOnStart: false, flatten: false });
  devtools.on('Target.attachedToTarget', ({ sessionId }) => sessions.add(sessionId));
  devtools.on('Target.detachedFromTarget', ({ sessionId }) => sessions.delete(sessionId));
  // Without flat sessions a worker's answers come in messages of their own.
  const waiting = new Map();
  let id = 0;
  devtools.on('Target.receivedMessageFromTarget', ({ message }) => {
    const answer = JSON.parse(message);
    waiting.get(answer.id)?.(answer.result);
    waiting.delete(answer.id);
  });
  const inWorker = (sessionId) =>
    new Promise((resolve) => {
      const mine = ++id;
      const give = (usage) => (clearTimeout(timer), resolve(usage ?? null));
      const timer = setTimeout(() => (waiting.delete(mine), resolve(null)), 500);
      waiting.set(mine, give);
      devtools
        .send('Target.sendMessageToTarget', { sessionId, message: JSON.stringify({ id: mine, method: 'Runtime.getHeapUsage' }) })
        .catch(() => give(null));
    });
  const total = (usage) => (usage ? usage.usedSize + (usage.embedderHeapUsedSize ?? 0) + (usage.backingStorageSize ?? 0) : 0);
  const pids = renderers().map((pid) => [pid, anon(pid)]);
  const anonymous = () => pids.map(([pid, start]) => anon(pid) - start).reduce((a, b) => Math.max(a, b), -1);
  let [js, rss, running] = [0, -1, true];
  const fast = setInterval(() => (rss = Math.max(rss, anonymous())), every);
  const loop = (async () => {
    while (running) {
      const all = await Promise.all([devtools.send('Runtime.getHeapUsage').catch(() => null), ...[...sessions].map(inWorker)]);
      js = Math.max(
        js,
        all.map(total).reduce((a, b) => a + b, 0),
      );
      await new Promise((done) => setTimeout(done, every));
    }
  })();
  return async () => {
    running = false;
    clearInterval(fast);
    await loop;
    await devtools.detach();
    return { js: js / MB, rss: rss < 0 ? null : rss / MB };
  };
}

const anon = (pid) => status(pid, 'RssAnon') ?? 0;

/** A size that Linux tells of a process, in bytes; null where it has ended, or there is no /proc. */
export function status(pid, field) {
  try {
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) * 1024;
  } catch {
    return null;
  }
}

/** Process ids of Chromium's renderers among this process's descendants; none where there is no /proc. */
export function renderers() {
  if (!existsSync('/proc')) return [];
  const parents = new Map();
  const commands = new Map();
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      parents.set(pid, /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))[1]);
      commands.set(pid, readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
    } catch {
      // ended meanwhile
    }
  }
  const mine = (pid) => pid === String(process.pid) || (parents.has(pid) && mine(parents.get(pid)));
  return [...commands.keys()].filter((pid) => commands.get(pid).includes('--type=renderer') && mine(pid));
}

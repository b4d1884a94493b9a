// CPU threads on a machine with other work on it: decode of the demo model with one thread and with the package's own choice, by turns,
// beside 0, 1 and 2 busy programs; in Node and in Chromium. `changes` counts how often the number of working threads changed.
//   npm run bench -- --busy [node|chromium] [0|1|2|..] [--rounds 5]
import { spawn } from 'node:child_process';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { output, root, show } from '../scripts/lib.mjs';

const words = process.argv.slice(2);
const at = words.indexOf('--rounds');
const rounds = at < 0 ? 5 : Number(words.splice(at, 2)[1]);
const unknown = words.filter((word) => !/^(node|chromium|\d+)$/.test(word));
if (unknown.length > 0 || !(rounds > 0)) throw new Error(`unknown: ${unknown.join(' ') || '--rounds'}`);
const some = (pattern, all) => (words.some((word) => pattern.test(word)) ? words.filter((word) => pattern.test(word)) : all);
const places = some(/^[a-z]+$/, ['node', 'chromium']);
const loads = some(/^\d+$/, ['0', '1', '2']).map(Number);

/** Runs where the package is: medians of tokens a second of both, and what the package says of its choice. */
async function compare(MobileLLM, source, rounds) {
  const models = [
    await MobileLLM.load(source, { device: 'cpu', threads: 1, cache: 'none' }),
    await MobileLLM.load(source, { device: 'cpu', cache: 'none' }),
  ];
  let changes = 0;
  models[1].addEventListener('threads', () => changes++);
  const speeds = [[], []];
  for (let round = 0; round <= rounds; round++) {
    for (const [i, llm] of models.entries()) {
      const { timings } = await llm.generate(`${round}: once upon a time`, { maxTokens: 128, ignoreEos: true }).result;
      // The first warms up.
      if (round > 0) speeds[i].push(timings.decodeTokensPerSecond);
    }
  }
  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  const { threads, reason } = models[1].info;
  await Promise.all(models.map((llm) => llm.close()));
  const [one, chosen] = speeds.map(median);
  return { one, chosen, ratio: chosen / one, worst: speeds[1][0], threads, changes, reason };
}

async function inNode() {
  const { MobileLLM } = await import('../pkg/index.js');
  return compare(MobileLLM, join(root, 'www/models/demo'), rounds);
}

async function inChromium() {
  const { open } = await import('../tests/lib/browser.mjs');
  const session = await open({ webgpu: 'none' });
  try {
    return await session.page.evaluate(`(${compare})(MobileLLM, '/models/demo/', ${rounds})`);
  } finally {
    await session.end();
  }
}

const rows = [];
for (const busy of loads) {
  const others = Array.from({ length: busy }, () => spawn(process.execPath, ['-e', 'for (;;) Math.random()'], { stdio: 'ignore' }));
  try {
    for (const place of places) rows.push({ place, busy, ...(await (place === 'node' ? inNode() : inChromium())) });
  } finally {
    others.forEach((other) => other.kill());
  }
}
console.log(`${cpus()[0]?.model} x ${cpus().length}, ${output('git', ['describe', '--always', '--dirty'])}`);
show(rows);
process.exit(0);

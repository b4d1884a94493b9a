// The demo model on freestyle-tests.jsonl, through the public API: at least as many single requests and dialogues right as its card
// says of float32. On the CPU (in Node) all of them, in f16 and in 8 bits; in software WebGPU, about a token a second, a few of each.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';
import { open } from '../lib/browser.mjs';
import { freestyle, isDialogue, play, tools } from '../lib/freestyle.mjs';

const OPTIONS = { maxTokens: 160 };
const CARD = { singles: 148, dialogues: 39 };
/** What the model misses in float32 too is no sign of anything on WebGPU. */
const MISSED = ['single-16', 'single-40', 'single-47', 'single-104'];

/** Plays the cases; how many of each kind were right. */
async function score(cases, start) {
  const right = { singles: 0, dialogues: 0 };
  for (const one of cases) {
    const misses = await play(one, start);
    for (const miss of misses) console.log(`  ${miss}`);
    if (misses.length === 0) right[isDialogue(one) ? 'dialogues' : 'singles'] += 1;
  }
  return right;
}

for (const dtype of ['f16', 'q8']) {
  test(`CPU, ${dtype}: 152 single requests and 40 dialogues`, async () => {
    const llm = await MobileLLM.load(join(root, 'www/models/demo'), { device: 'cpu', dtype, threads: 1 });
    const right = await score(freestyle, async () => {
      const chat = await llm.session({ tools });
      return (input) => chat.send(input, OPTIONS).result;
    });
    await llm.close();
    console.log(
      `${dtype}: ${right.singles} of 152 single requests (card: ${CARD.singles}), ${right.dialogues} of 40 dialogues (card: ${CARD.dialogues})`,
    );
    assert.equal(freestyle.length, 192);
    assert.ok(right.singles >= CARD.singles && right.dialogues >= CARD.dialogues);
  });
}

test('WebGPU: every twelfth single request and every tenth dialogue', async () => {
  const some = (every, wanted) =>
    freestyle.filter((one) => isDialogue(one) === wanted && !MISSED.includes(one.id)).filter((_, i) => i % every === 0);
  const cases = [...some(12, false), ...some(10, true)];
  const { page, end } = await open({ webgpu: 'software' });
  try {
    assert.equal(
      await page.evaluate(async () => (globalThis.llm = await MobileLLM.load('/models/demo/', { device: 'webgpu' })).info.device),
      'webgpu',
    );
    const right = await score(cases, async () => {
      await page.evaluate(async (tools) => (globalThis.chat = await llm.session({ tools })) && null, tools);
      return (input) => page.evaluate(([input, options]) => chat.send(input, options).result, [input, OPTIONS]);
    });
    assert.deepEqual(right, { singles: 13, dialogues: 4 });
  } finally {
    await end();
  }
});

// CPU threads and 8-bit weights, in Node: the same answers whatever the number of threads.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';

const demo = join(root, 'www/models/demo');
// Longer than a pass, so that batches of rows are exchanged too.
const prompt = `Set an alarm at 7:30AM. ${'Remind me to water the plants. '.repeat(30)}`;

async function answer(options) {
  const llm = await MobileLLM.load(demo, { device: 'cpu', ...options });
  // While it answers, one thread may go on alone.
  const { threads } = llm.info;
  try {
    const run = () => llm.generate(prompt, { maxTokens: 40, temperature: 0, ignoreEos: true }).result;
    const chat = await llm.session();
    const { tokenIds: chatIds } = await chat.send('Help me set an alarm at 7:30AM', { maxTokens: 60 }).result;
    const copy = await chat.clone();
    const { tokenIds: copyIds } = await copy.send('And a timer for ten minutes', { maxTokens: 60 }).result;
    return { threads, dtype: llm.info.dtype, ids: (await run()).tokenIds, chatIds, copyIds };
  } finally {
    await llm.close();
  }
}

for (const dtype of ['f16', 'q8']) {
  describe(`CPU threads, ${dtype}`, async () => {
    let alone;
    test('one thread', async () => {
      alone = await answer({ dtype, threads: 1 });
      assert.deepEqual([alone.threads, alone.dtype, alone.ids.length], [1, dtype, 40]);
    });
    for (const threads of [2, 3, 5]) {
      test(`${threads} threads give the same ids`, async () => {
        assert.deepEqual(await answer({ dtype, threads }), { ...alone, threads });
      });
    }
  });
}

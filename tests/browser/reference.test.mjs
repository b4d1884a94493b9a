// The demo model says in Chromium what PyTorch says, on both tiers, through the public API.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { open } from '../lib/browser.mjs';
import { dialogues, references } from '../lib/reference.mjs';

/** Runs conversations in the page, each in its own session. */
const answers = (page, conversations, tools) =>
  page.evaluate(
    async ({ conversations, tools }) => {
      const results = [];
      for (const { system, before, input } of conversations) {
        const chat = await llm.session({ system, messages: before, tools });
        const run = chat.send(input, { maxTokens: 200 });
        let streamed = '';
        const ids = [];
        for await (const chunk of run) {
          streamed += chunk.text;
          ids.push(...chunk.tokenIds);
        }
        results.push({ ...(await run.result), streamed, streamedIds: ids });
        chat.close();
      }
      return results;
    },
    { conversations, tools },
  );

// Software WebGPU computes about one token a second: there all references and forty dialogues are for `npm run evaluate`.
const evaluate = Boolean(process.env.EVALUATE);

for (const device of ['cpu', 'webgpu']) {
  describe(device, () => {
    const asked = device === 'cpu' || evaluate ? references : references.filter((_, i) => i % 5 === 0);
    let session;
    before(async () => {
      session = await open({ webgpu: 'software' });
      const info = await session.page.evaluate(async (device) => {
        globalThis.llm = await MobileLLM.load('/models/demo/', { device });
        return llm.info;
      }, device);
      assert.equal(info.device, device);
    });
    after(() => session?.end());

    test(`${asked.length} greedy continuations of reference.json`, async () => {
      const results = await answers(session.page, asked);
      for (const [i, { ids, text, promptTokens }] of asked.entries()) {
        const got = results[i];
        assert.deepEqual(got.tokenIds, ids, `prompt ${i}`);
        assert.deepEqual(got.streamedIds, ids, `prompt ${i}, streamed`);
        assert.equal(got.text.trim(), text.trim(), `prompt ${i}`);
        assert.equal(got.streamed, got.text, `prompt ${i}, streamed`);
        assert.equal(got.usage.promptTokens, promptTokens, `prompt ${i}`);
        assert.equal(got.finishReason, 'stop');
      }
    });

    // The taking out is the worker's, whatever the tier.
    if (device === 'cpu')
      test('with tools, calls are taken out of the text', async () => {
        const tools = await session.page.evaluate(async () => (await fetch('/models/demo/tools.json')).json());
        const results = await answers(session.page, references, tools);
        for (const [i, { ids, text, toolCalls }] of references.entries()) {
          assert.deepEqual(results[i].tokenIds, ids, `prompt ${i}`);
          assert.deepEqual(results[i].toolCalls, toolCalls, `prompt ${i}`);
          assert.equal(results[i].text.trim(), toolCalls.length > 0 ? '' : text, `prompt ${i}`);
          assert.equal(results[i].streamed, results[i].text, `prompt ${i}, streamed`);
        }
      });

    if (device === 'webgpu') {
      const count = evaluate ? 40 : 1;
      test(`the first ${count} of the dialogues of test-api-calls.jsonl`, async () => {
        const expected = dialogues(count);
        const results = await answers(session.page, expected);
        assert.deepEqual(
          results.map((got) => got.tokenIds),
          expected.map(({ ids }) => ids),
        );
        for (const [i, got] of results.entries()) assert.equal(got.usage.promptTokens, expected[i].promptTokens);
      });
    }
  });
}

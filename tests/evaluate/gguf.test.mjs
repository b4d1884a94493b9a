// A real GGUF of another maker end to end: in Node from a path and from a File, in Chromium by URL and from a File, with its own
// tokenizer and chat template, held to what PyTorch says.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { root } from '../../scripts/lib.mjs';
import { serve } from '../../scripts/serve.mjs';
import { MobileLLM } from '../../pkg/index.js';
import { launch } from '../lib/browser.mjs';
import { compare, realModel, reference } from '../lib/real.mjs';

const file = await realModel();
/** Prompts of the short run, which the machine of a pull request has time for. */
const SHORT = ['chat-capital', 'chat-french'];
const chosen = reference.prompts.filter(({ name }) => process.env.EVALUATE || SHORT.includes(name));
const named = (name) => reference.prompts.find((prompt) => prompt.name === name);
/** Logits are computed in another order than PyTorch's: closer calls than this may fall the other way. */
const TOLERANCE = 0.01;
const CAPITAL = 'The capital of France is Paris.';

async function answer(llm, prompt) {
  const maxTokens = prompt.greedy.length;
  if (!prompt.messages) return (await llm.generate(prompt.prompt, { maxTokens, ignoreEos: true }).result).tokenIds;
  const chat = await llm.session({ messages: prompt.messages.slice(0, -1) });
  const { tokenIds } = await chat.send(prompt.messages.at(-1), { maxTokens }).result;
  chat.close();
  return tokenIds;
}

describe('Node', () => {
  let llm;
  before(async () => {
    llm = await MobileLLM.load(file, { dtype: 'f16' });
  });
  after(() => llm?.close());

  test('is what its header says', () => {
    const { model, storedBlocks, hiddenSize, vocabSize, chat, license } = llm.info;
    assert.deepEqual(
      { model: basename(model), storedBlocks, hiddenSize, vocabSize, chat },
      { model: basename(file), storedBlocks: 30, hiddenSize: 576, vocabSize: 49152, chat: true },
    );
    assert.equal(license, 'apache-2.0');
  });

  test('200 texts have the ids of the original tokenizer', async () => {
    assert.equal(reference.tokenizer.length, 200);
    for (const { text, ids, ids_as_text: asText } of reference.tokenizer) {
      assert.deepEqual(await llm.tokenize(text), asText ?? ids, JSON.stringify(text));
    }
  });

  for (const prompt of chosen) {
    test(`${prompt.name}: the ids that PyTorch chooses`, async () => {
      const ids = await answer(llm, prompt);
      const { same, count, close } = compare(ids, prompt, TOLERANCE);
      assert.ok(close, `differs at ${same} of ${count}: ${ids.slice(same, same + 5)}, not ${prompt.greedy.slice(same, same + 5)}`);
      assert.ok(count >= Math.min(prompt.greedy.length, prompt.ends_at ?? Infinity), `${count} tokens`);
    });
  }

  test('a File of it is a source too', async () => {
    const other = await MobileLLM.load(new File([readFileSync(file)], 'my model.gguf'), { contextLength: 128 });
    const { model, dtype } = other.info;
    // Q4_1, with an embedding of Q8_0: both are held as they are.
    assert.deepEqual({ model, dtype }, { model: 'my model.gguf', dtype: 'q4' });
    const prompt = named('chat-capital');
    assert.equal((await (await other.session()).send(prompt.messages.at(-1), { maxTokens: 12 }).result).text, CAPITAL);
    await other.close();
  });
});

describe('Chromium', () => {
  let browser, server, page;
  before(async () => {
    let url;
    ({ server, url } = await serve({
      '/': join(root, 'www'),
      '/pkg/': join(root, 'pkg'),
      '/tests/': join(root, 'tests'),
      '/real/': dirname(file),
    }));
    browser = await launch({ webgpu: 'none' });
    page = await browser.newPage();
    await page.goto(`${url}tests/lib/blank.html`);
    await page.waitForFunction('globalThis.ready');
  });
  after(async () => {
    await browser?.close();
    server?.closeAllConnections();
    server?.close();
  });

  const prompt = named('chat-capital');

  test('by URL: estimated, loaded, stored, and loaded again without the network', async () => {
    const got = await page.evaluate(
      async ([source, question]) => {
        const estimate = await MobileLLM.estimate(source);
        const llm = await MobileLLM.load(source);
        const { text } = await (await llm.session()).send(question, { maxTokens: 12 }).result;
        const { storage: first, dtype } = llm.info;
        await llm.close();
        const again = await MobileLLM.load(source, { contextLength: 64 });
        const second = again.info.storage;
        await again.close();
        return { estimate, text, dtype, first, second, list: await MobileLLM.models.list() };
      },
      [`/real/${basename(file)}`, prompt.messages.at(-1).content],
    );
    assert.deepEqual([got.text, got.dtype], [CAPITAL, 'q4']);
    assert.equal(got.first.downloadedBytes, 98_362_432);
    assert.equal(got.estimate.downloadBytes, 98_362_432);
    assert.deepEqual([got.second.downloadedBytes, got.second.cachedBytes], [0, 98_362_432]);
    assert.equal(got.list.length, 1);
    assert.ok(got.list[0].complete && got.list[0].source.endsWith(`/real/${basename(file)}`));
  });

  test('from a File', async () => {
    const got = await page.evaluate(
      async ([source, question]) => {
        const bytes = await (await fetch(source)).blob();
        const llm = await MobileLLM.load(new File([bytes], 'picked.gguf'));
        const { text } = await (await llm.session()).send(question, { maxTokens: 12 }).result;
        await llm.close();
        return text;
      },
      [`/real/${basename(file)}`, prompt.messages.at(-1).content],
    );
    assert.equal(got, CAPITAL);
  });
});

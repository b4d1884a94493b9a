// Checkpoints as they are found in the field (tests/reference/make_field.py), as far as sessions and options of the package come in;
// tests/field.rs has what the engine does alone.
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';

const fixtures = join(root, 'tests/fixtures/field');
const cases = JSON.parse(readFileSync(join(fixtures, 'cases.json'), 'utf8'));
const named = (name) => cases.find((one) => one.name === name);

describe('checkpoints in the field', () => {
  let folder;
  before(() => (folder = mkdtempSync(join(tmpdir(), 'mobilellm-field-'))));
  after(() => rmSync(folder, { recursive: true, force: true }));

  /** The model of a case, with fields of two files and whole files laid over the base's. */
  const load = ({ config = {}, settings = {}, files = {}, weights = 'base/model.safetensors' } = {}) => {
    const to = mkdtempSync(join(folder, 'model-'));
    cpSync(join(fixtures, 'base'), to, { recursive: true });
    cpSync(join(fixtures, weights), join(to, 'model.safetensors'));
    for (const [name, fields] of [
      ['config.json', config],
      ['tokenizer_config.json', settings],
    ]) {
      const path = join(to, name);
      writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...fields }));
    }
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(to, name)), { recursive: true });
      writeFileSync(join(to, name), text);
    }
    return MobileLLM.load(to, { threads: 1 });
  };

  test('a session opens before there is a question, with whatever template, and its first turn is what transformers renders', async () => {
    const chats = cases.filter((one) => one.messages);
    assert.ok(chats.length >= 10, `${chats.length}`);
    for (const one of chats) {
      const { name, messages, tools, right } = one;
      const llm = await load(one);
      const chat = await llm.session({ messages: messages.slice(0, -1), ...(tools ? { tools } : {}) });
      const { usage, tokenIds } = await chat.send(messages.at(-1).content, { maxTokens: right.greedy.length, ignoreEos: true }).result;
      assert.equal(usage.promptTokens, right.promptTokens, name);
      assert.deepEqual(tokenIds, right.greedy, name);
      await llm.close();
    }
  });

  test('what a template refuses is an error of the turn that it refuses', async () => {
    const llm = await load(named('roles must alternate'));
    const chat = await llm.session();
    const refused = chat.send([
      { role: 'user', content: 'a' },
      { role: 'user', content: 'b' },
    ]);
    await assert.rejects(refused.result, (error) => error.code === 'chat-template' && /take turns/.test(error.message));
    assert.deepEqual(chat.messages, []);
    assert.ok((await chat.send('a', { maxTokens: 2 }).result).tokenIds.length > 0);
    await llm.close();
  });

  test('a template that does not parse stands in the way of chats only', async () => {
    const one = named('a template that is cut off');
    const llm = await load(one);
    const { tokenIds } = await llm.generate(one.prompt, { maxTokens: 8, ignoreEos: true }).result;
    assert.deepEqual(tokenIds, one.right.greedy);
    await assert.rejects(llm.session(), (error) => error.code === 'chat-template' && error.message.includes('tokenizer_config.json:4'));
    const chat = await llm.session({ chatTemplate: '{{ messages | length }}' });
    assert.equal((await chat.send('x', { maxTokens: 1 }).result).usage.promptTokens, 1);
    await llm.close();
  });

  test('special tokens in a prompt are text, with one warning, or tokens where that is asked for', async () => {
    const one = named('special tokens in a prompt');
    const text = named('special tokens as text');
    const llm = await load();
    const warnings = [];
    llm.addEventListener('warning', ({ detail }) => warnings.push(detail.reason));
    const options = { maxTokens: 8, ignoreEos: true };
    assert.deepEqual(await llm.tokenize(one.prompt, { specialTokens: 'parse' }), one.right.promptIds);
    assert.deepEqual(await llm.tokenize(one.prompt), text.right.promptIds);
    const parsed = await llm.generate(one.prompt, { ...options, specialTokens: 'parse' }).result;
    assert.deepEqual(parsed.tokenIds, one.right.greedy);
    assert.deepEqual(warnings, []);
    for (let i = 0; i < 2; i++) {
      const { tokenIds } = await llm.generate(one.prompt, options).result;
      assert.deepEqual(tokenIds.slice(0, text.right.greedy.length), text.right.greedy);
    }
    assert.deepEqual(warnings, ['special-tokens']);
    const [asText, asToken] = await Promise.all([llm.score('a', ['<|end|>']), llm.score('a', ['<|end|>'], { specialTokens: 'parse' })]);
    assert.ok(asText[0].tokens.length > 1);
    assert.deepEqual(
      asToken[0].tokens.map(({ tokenId }) => tokenId),
      [3],
    );
    await llm.close();
  });

  test('a stop string may be a special token', async () => {
    const one = named('a stop string that is a special token');
    const llm = await load(one);
    const { text, finishReason } = await llm.generate(one.prompt, { stop: one.stop, maxTokens: 8 }).result;
    assert.deepEqual([text, finishReason], [one.text, 'stop']);
    const never = llm.generate(one.prompt, { stop: `${one.stop}\n` });
    await assert.rejects(never.result, (error) => error.code === 'invalid-option' && /stopTokenIds/.test(error.message));
    await llm.close();
  });

  test('a conversation that is too long says by how much, and which turn is the longest', async () => {
    const llm = await load();
    const chat = await llm.session({ system: 'Be brief.' });
    const says = /\d+ too many.*longest turn is message 2 of 2 \(user, \d+ tokens\)/;
    await assert.rejects(chat.send('hello '.repeat(300)).result, (error) => error.code === 'context-overflow' && says.test(error.message));
    await llm.close();
  });
});

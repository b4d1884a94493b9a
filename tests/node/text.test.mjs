// The modules for chat templates and unusual tokenizers: fetched when one is needed, and not before.
import assert from 'node:assert/strict';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';
import { checkpoint } from '../lib/checkpoint.mjs';

const demo = join(root, 'www/models/demo');
const name = 'templates_bg.wasm';

describe('modules for text', () => {
  let folder;
  before(() => (folder = mkdtempSync(join(tmpdir(), 'mobilellm-text-'))));
  after(() => rmSync(folder, { recursive: true, force: true }));

  /** A small model whose files are changed by name. */
  const model = (label, change) => {
    const files = checkpoint({ seed: 1, shards: 2 });
    const to = join(folder, label);
    mkdirSync(to);
    for (const [name, bytes] of files) writeFileSync(join(to, name), bytes);
    for (const [name, edit] of Object.entries(change)) {
      const json = JSON.parse(String(files.get(name)));
      edit(json);
      writeFileSync(join(to, name), JSON.stringify(json));
    }
    return to;
  };
  test('a completion does without it; a chat says what is missing, and goes on once it is there', async () => {
    const wasm = join(folder, 'wasm');
    cpSync(join(root, 'pkg/wasm'), wasm, { recursive: true, filter: (path) => !path.endsWith(name) });
    const llm = await MobileLLM.load(demo, { wasmUrl: `${pathToFileURL(wasm)}/` });
    const { text } = await llm.generate('set an', { maxTokens: 3 }).result;
    assert.ok(text.length > 0);
    await assert.rejects(llm.session({ system: 'x' }), (error) => error.code === 'engine-unavailable' && error.message.includes(name));
    copyFileSync(join(root, 'pkg/wasm', name), join(wasm, name));
    const chat = await llm.session();
    assert.ok((await chat.send('what can you do?', { maxTokens: 5 }).result).tokenIds.length > 0);
    await llm.close();
  });

  test('a tokenizer that the engine does not know by heart', async () => {
    const plain = await MobileLLM.load(demo);
    const composing = await MobileLLM.load(
      model('nfc', {
        'tokenizer.json': (json) =>
          (json.normalizer = { type: 'Sequence', normalizers: [{ type: 'NFC' }, json.normalizer].filter(Boolean) }),
      }),
    );
    const text = 'une \u00e9tude na\u00efve, <s> 123';
    assert.deepEqual(await composing.tokenize(text.normalize('NFD')), await plain.tokenize(text));
    assert.ok((await composing.generate('set an', { maxTokens: 2 }).result).tokenIds.length > 0);
    await Promise.all([plain.close(), composing.close()]);
  });

  test('what is wrong in it is told when the model is loaded', async () => {
    const broken = model('broken', {
      'tokenizer.json': (json) => (json.pre_tokenizer = { type: 'Split', pattern: { Regex: '(' }, behavior: 'Isolated', invert: false }),
    });
    await assert.rejects(MobileLLM.load(broken), (error) => error.code === 'invalid-tokenizer' && /tokenizer\.json/.test(error.message));
  });

  test('a broken template is told by the chat', async () => {
    const llm = await MobileLLM.load(model('template', { 'tokenizer_config.json': (json) => (json.chat_template = '{% if %}') }));
    await assert.rejects(llm.session({ system: 'x' }), (error) => error.code === 'chat-template' && /template/.test(error.message));
    assert.ok((await llm.generate('set an', { maxTokens: 2 }).result).tokenIds.length > 0);
    await llm.close();
  });
});

// The same import in Node: CPU tier, a path as source.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { after, before, describe, test } from 'node:test';
import { MobileLLM, MobileLLMError } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';
import { references } from '../lib/reference.mjs';

const demo = join(root, 'www/models/demo');

describe('Node', () => {
  let llm;
  before(async () => {
    llm = await MobileLLM.load(demo);
  });
  after(() => llm?.close());

  test('runs on the CPU and says why', () => {
    assert.equal(llm.info.device, 'cpu');
    assert.equal(llm.info.model, 'demo');
    assert.match(llm.info.reason, /WebGPU/);
  });

  test('all greedy continuations of reference.json', async () => {
    for (const { system, before, input, ids, text } of references) {
      const chat = await llm.session({ ...(system === undefined ? {} : { system }), messages: before });
      const result = await chat.send(input, { maxTokens: 200 }).result;
      assert.deepEqual(result.tokenIds, ids);
      assert.equal(result.text.trim(), text.trim());
      chat.close();
    }
  });

  test('leaving the loop stops the run; the next call goes on', async () => {
    const run = llm.generate('set an alarm', { ignoreEos: true });
    for await (const chunk of run) if (chunk.tokenIds.length > 0) break;
    const { finishReason, tokenIds } = await run.result;
    assert.equal(finishReason, 'abort');
    assert.ok(tokenIds.length <= 3, `${tokenIds.length}`);
    assert.equal((await llm.generate('set an', { maxTokens: 2 }).result).tokenIds.length, 2);
  });

  test('a file: URL is a source too', async () => {
    const other = await MobileLLM.load(pathToFileURL(demo), { contextLength: 64 });
    assert.equal(other.info.contextLength, 64);
    await other.close();
  });

  test('errors are typed', async () => {
    const isError = (code, message) => (error) =>
      error instanceof MobileLLMError && error.code === code && message.test(error.message) && error.remedy.length > 10;
    await assert.rejects(MobileLLM.load(join(root, 'nowhere')), isError('file-not-found', /nowhere/));
    await assert.rejects(MobileLLM.load(demo, { device: 'webgpu' }), isError('webgpu-unavailable', /WebGPU/));
    await assert.rejects(MobileLLM.load(demo, { dtpye: 'f16' }), isError('invalid-option', /dtpye.*dtype/));
    await assert.rejects(MobileLLM.load(''), isError('invalid-option', /source/));
  });

  test('a model that nobody closed does not keep the process alive', () => {
    const script = `
      import { MobileLLM } from ${JSON.stringify(pathToFileURL(join(root, 'pkg/index.js')).href)};
      const llm = await MobileLLM.load(${JSON.stringify(demo)});
      console.log((await llm.generate('set an', { maxTokens: 2 }).result).finishReason);`;
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      timeout: 60_000,
    });
    assert.equal(stdout.trim(), 'length', stderr);
    assert.equal(status, 0);
  });
});

// Small GGUF files (tests/reference/make_gguf.py) through the package: by path, as File, as Blob, split, over HTTP.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { after, before, test } from 'node:test';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';
import { serveTests } from '../lib/browser.mjs';

const folder = join(root, 'tests/fixtures/gguf');
const expected = JSON.parse(readFileSync(join(folder, 'expected.json'), 'utf8'));
const bytes = (name) => readFileSync(join(folder, name));
const parts = [1, 2, 3].map((n) => `split-0000${n}-of-00003.gguf`);

async function says(source, name) {
  const llm = await MobileLLM.load(source, { dtype: 'f16', cache: 'none' });
  for (const { prompt, message, greedy } of expected[name]) {
    const options = { maxTokens: greedy.length };
    const run = prompt ? llm.generate(prompt, options) : (await llm.session()).send(message, options);
    assert.deepEqual((await run.result).tokenIds, greedy, prompt ?? message);
  }
  const { info } = llm;
  await llm.close();
  return info;
}

let server, url;
before(async () => {
  ({ server, url } = await serveTests());
});
after(() => {
  server.closeAllConnections();
  server.close();
});

test('a path, a file: URL, an address', async () => {
  const name = 'narrow-q4_k_m.gguf';
  const info = await says(join(folder, name), 'narrow-q4_k_m');
  assert.ok(info.model === name && info.chat && info.license === 'mit', JSON.stringify(info));
  await says(pathToFileURL(join(folder, name)), 'narrow-q4_k_m');
  const over = await says(`${url}tests/fixtures/gguf/${name}?token=1`, 'narrow-q4_k_m');
  assert.equal(over.model, name);
});

test('a File of any name, a Blob, a list of one', async () => {
  const file = new File([bytes('narrow-q4_k_m.gguf')], 'weights');
  assert.equal((await says(file, 'narrow-q4_k_m')).model, 'model.gguf');
  await says(new Blob([bytes('narrow-q4_k_m.gguf')]), 'narrow-q4_k_m');
  await says([new File([bytes('narrow-q4_k_m.gguf')], 'narrow.gguf')], 'narrow-q4_k_m');
});

test('a split file: by the path of any part, by URL, as Files', async () => {
  await says(join(folder, parts[1]), 'split-00001-of-00003');
  await says(`${url}tests/fixtures/gguf/${parts[0]}`, 'split-00001-of-00003');
  await says(
    parts.map((name) => new File([bytes(name)], name)),
    'split-00001-of-00003',
  );
});

test('what a source is not', async () => {
  const code = (source, options) =>
    MobileLLM.load(source, options).then(
      () => 'loaded',
      (error) => `${error.code}: ${error.message}`,
    );
  assert.match(await code(new Blob(['no model'])), /^invalid-option: .*no GGUF/);
  assert.match(await code(new Blob([bytes('narrow-q4_k_m.gguf').subarray(0, 60_000)])), /^invalid-checkpoint: .*cut off/);
  assert.match(await code(join(folder, 'nothing.gguf')), /^file-not-found: .*nothing\.gguf/);
  assert.match(
    await code([parts[0], 'narrow-q4_k_m.gguf'].map((name) => new File([bytes(name)], name))),
    /^invalid-option: .*which of these/,
  );
  assert.match(await code(parts.slice(0, 2).map((name) => new File([bytes(name)], name))), /split-00003-of-00003\.gguf|which of these/);
});

test('an estimate counts the file', async () => {
  const { downloadBytes, cpuBytes } = await MobileLLM.estimate(`${url}tests/fixtures/gguf/narrow-q4_k_m.gguf`, { dtype: 'f16' });
  // In Node nothing is stored, but all of it is fetched.
  assert.equal(downloadBytes, 0);
  assert.ok(cpuBytes > 2 * 86_000, `${cpuBytes}`);
});

// What is published: complete, nothing else, and typed for whoever imports it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { root } from '../../scripts/lib.mjs';

function npm(...args) {
  const { status, stdout, stderr } = spawnSync('npm', args, { cwd: root, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return stdout;
}

test('npm pack holds the package and nothing else', () => {
  const [{ files }] = Object.values(JSON.parse(npm('pack', '--dry-run', '--json', '--ignore-scripts')));
  const paths = files.map(({ path }) => path);
  for (const path of [
    'package.json',
    'README.md',
    'LICENSE-MIT',
    'LICENSE-APACHE',
    'CHANGELOG.md',
    'pkg/index.js',
    'pkg/index.d.ts',
    'pkg/wasm/simd128/worker.js',
    'pkg/wasm/relaxed/worker.js',
    'pkg/wasm/simd128/mobilellm_web_bg.wasm',
    'pkg/wasm/relaxed/mobilellm_web_bg.wasm',
    'pkg/wasm/witness.js',
    'pkg/index.cjs',
    'pkg/index.d.cts',
    'pkg/embedded/simd128/worker.js',
    'pkg/embedded/simd128/mobilellm_web_bg.wasm.js',
    'pkg/wasm/templates_bg.wasm',
    'pkg/wasm/splitter_bg.wasm',
    'pkg/embedded/templates_bg.wasm.js',
    'pkg/embedded/splitter_bg.wasm.js',
  ]) {
    assert.ok(paths.includes(path), `${path} is missing`);
  }
  const strange = paths.filter(
    (path) => !/^(package\.json|(README|CHANGELOG)\.md|LICENSE[\w.-]*|pkg\/.+\.(c?js|c?js\.map|d\.c?ts|wasm|md))$/.test(path),
  );
  assert.deepEqual(strange, []);
});

/** What an app says, apart from how it imports the package; top-level `await` needs a module. */
const APP = `
  export async function app() {
    const llm = await MobileLLM.load('/models/demo/', { device: 'auto', onProgress: (p) => p.loadedBytes.toFixed() });
    llm.addEventListener('fallback', (event) => event.detail.message.length);
    const chat = await llm.session({ tools: [{ name: 'f' }] });
    for await (const chunk of chat.send('hi')) chunk.text.length;
    const result: GenerateResult = await chat.send([{ role: 'tool', content: '1' }]).result;
    const code: 'closed' | string = new MobileLLMError('closed', '', '').code;
    // @ts-expect-error: an unknown option
    llm.generate('x', { max_tokens: 3 });
    // @ts-expect-error: an ill-typed option
    llm.generate('x', { temperature: '1' });
    return { code, result };
  }
`;
const IMPORT =
  "import { MobileLLM, MobileLLMError, type GenerateResult } from 'mobilellm-web';\nimport { installShell } from 'mobilellm-web/sw-helper';\nvoid installShell;\n";

test('the types stand on their own, and hold what they promise, however they are resolved', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mobilellm-types-'));
  try {
    mkdirSync(join(folder, 'node_modules'));
    symlinkSync(root, join(folder, 'node_modules/mobilellm-web'));
    writeFileSync(join(folder, 'package.json'), '{}');
    writeFileSync(join(folder, 'app.mts'), IMPORT + APP);
    writeFileSync(join(folder, 'app.cts'), IMPORT + APP);
    for (const [module, resolution, ...files] of [
      ['esnext', 'bundler', 'app.mts'],
      ['node16', 'node16', 'app.mts', 'app.cts'],
      ['nodenext', 'nodenext', 'app.mts', 'app.cts'],
    ]) {
      // Without Node's types, and with the declarations themselves checked.
      const { status, stdout } = spawnSync(
        process.execPath,
        [
          join(root, 'node_modules/typescript/bin/tsc'),
          '--noEmit',
          '--strict',
          '--target',
          'es2022',
          '--module',
          module,
          '--moduleResolution',
          resolution,
          '--lib',
          'es2022,dom,dom.iterable,dom.asynciterable',
          '--types',
          '',
          ...files,
        ],
        { cwd: folder, encoding: 'utf8' },
      );
      assert.equal(status, 0, `${resolution}: ${stdout}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('require() gives what import gives', () => {
  const { MobileLLM, MobileLLMError } = createRequire(import.meta.url)(join(root, 'pkg/index.cjs'));
  assert.equal(typeof MobileLLM.load, 'function');
  assert.equal(new MobileLLMError('closed', 'a', 'b').code, 'closed');
});

test('tools that know how packages are resolved find nothing wrong with the tarball', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'mobilellm-pack-'));
  try {
    const [{ filename }] = Object.values(JSON.parse(npm('pack', '--json', '--ignore-scripts', '--pack-destination', folder)));
    const tarball = readFileSync(join(folder, filename));
    const { messages } = await publint({
      pack: { tarball: tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.byteLength) },
    });
    assert.deepEqual(
      messages.map((message) => formatMessage(message, JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')))),
      [],
    );
    const { status, stdout } = spawnSync(
      process.execPath,
      [join(root, 'node_modules/@arethetypeswrong/cli/dist/index.js'), join(folder, filename)],
      { encoding: 'utf8' },
    );
    assert.equal(status, 0, stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

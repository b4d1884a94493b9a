// What is published: complete, nothing else, and typed for whoever imports it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from '../../scripts/lib.mjs';

test('npm pack holds the package and nothing else', () => {
  const { status, stdout, stderr } = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  const [{ files }] = Object.values(JSON.parse(stdout));
  const paths = files.map(({ path }) => path);
  for (const path of [
    'package.json', 'README.md', 'pkg/index.js', 'pkg/index.d.ts', 'pkg/wasm/simd128/worker.js', 'pkg/wasm/relaxed/worker.js',
    'pkg/wasm/simd128/mobilellm_web_bg.wasm', 'pkg/wasm/relaxed/mobilellm_web_bg.wasm',
  ]) {
    assert.ok(paths.includes(path), `${path} is missing`);
  }
  const strange = paths.filter((path) => !/^(package\.json|README\.md|LICENSE[\w.-]*|pkg\/.+\.(js|js\.map|d\.ts|wasm|md))$/.test(path));
  assert.deepEqual(strange, []);
});

test('the types stand on their own, and hold what they promise', () => {
  const folder = mkdtempSync(join(tmpdir(), 'mobilellm-types-'));
  try {
    writeFileSync(join(folder, 'app.ts'), `
      import { MobileLLM, MobileLLMError, type GenerateResult } from ${JSON.stringify(join(root, 'pkg/index.js'))};
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
      export { code, result };
    `);
    // Without Node's types, and with the declarations themselves checked.
    const { status, stdout } = spawnSync(
      process.execPath,
      [
        join(root, 'node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--target', 'es2022', '--module', 'esnext',
        '--moduleResolution', 'bundler', '--lib', 'es2022,dom,dom.iterable,dom.asynciterable', '--types', '', join(folder, 'app.ts'),
      ],
      { cwd: folder, encoding: 'utf8' },
    );
    assert.equal(status, 0, stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

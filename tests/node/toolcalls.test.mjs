// Tool calls in an answer, in both notations and cut anywhere.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { build } from 'esbuild';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';

const { outputFiles } = await build({ entryPoints: [join(root, 'js/toolcalls.ts')], bundle: true, format: 'esm', write: false });
const { plainLength, splitToolCalls } = await import(`data:text/javascript,${encodeURIComponent(outputFiles[0].text)}`);

const call = (name, args = {}) => ({ name, arguments: args });
const cases = [
  ['Hello there.', 'Hello there.', []],
  ['<|call|>{"name":"a","arguments":{"x":1}}', '', [call('a', { x: 1 })]],
  ['<|call|> {"name":"a","arguments":{}}<|call|> {"name":"b","arguments":{"y":"<b>"}}', '', [call('a'), call('b', { y: '<b>' })]],
  [
    'Sure. <tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n<tool_call>{"name":"b"}</tool_call>',
    'Sure. ',
    [call('a'), call('b')],
  ],
  ['<tool_call>{"name":"a","arguments":{}}</tool_call> Done.', ' Done.', [call('a')]],
  // What is no call stays readable.
  ['<|call|>{"name":"a","argum', '{"name":"a","argum', []],
  ['<|call|>{"name":5}', '{"name":5}', []],
  ['<|call|>["a"]', '["a"]', []],
  ['a < b and <tool', 'a < b and <tool', []],
];

for (const [raw, text, toolCalls] of cases) {
  test(JSON.stringify(raw), () => {
    assert.deepEqual(splitToolCalls(raw), { text, toolCalls });
    // What is shown early is never taken back.
    let shown = 0;
    for (let length = 0; length <= raw.length; length++) {
      const now = plainLength(raw.slice(0, length));
      assert.ok(now >= shown, `${now} < ${shown}`);
      assert.ok(text.startsWith(raw.slice(0, now)), raw.slice(0, now));
      shown = now;
    }
  });
}

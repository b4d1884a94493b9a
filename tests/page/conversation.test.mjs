import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firstSeen, hasBrokenCall, toMessages } from '../../www/conversation.js';

test('turns as the library takes them', () => {
  const call = { name: 'set_timer', arguments: { seconds: 60 }, ok: true, result: { ok: true, duration: '1 minute' }, changes: [] };
  assert.deepEqual(
    toMessages([
      { user: 'hi', steps: [{ text: 'Hello!', calls: [] }], runs: [] },
      {
        user: 'timer',
        steps: [
          { text: '', calls: [call] },
          { text: 'Done.', calls: [] },
        ],
        runs: [],
      },
      { user: 'stopped', steps: [{ text: '', calls: [{ name: 'flip_coin', arguments: {} }] }], runs: [] },
      { user: 'nothing', steps: [], runs: [] },
    ]),
    [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'Hello!' },
      { role: 'user', content: 'timer' },
      { role: 'assistant', content: '', toolCalls: [{ name: 'set_timer', arguments: { seconds: 60 } }] },
      { role: 'tool', content: '{"ok":true,"duration":"1 minute"}' },
      { role: 'assistant', content: 'Done.' },
      { role: 'user', content: 'stopped' },
      { role: 'assistant', content: '', toolCalls: [{ name: 'flip_coin', arguments: {} }] },
      { role: 'tool', content: '{"ok":false,"error":"stopped"}' },
      { role: 'user', content: 'nothing' },
    ],
  );
});

test('a message that failed was never said, but one that was answered in part was', () => {
  const error = { message: 'too long', remedy: '', code: 'context-overflow' };
  assert.deepEqual(
    toMessages([
      { user: 'far too long', steps: [], runs: [], error },
      { user: 'hi', steps: [{ text: 'Hel', calls: [] }], runs: [], error },
    ]),
    [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'Hel' },
    ],
  );
});

test('turns are left out whole, oldest first, only once the next would not fit', () => {
  const tokens = new Array(20).fill(100);
  assert.equal(firstSeen(tokens, 0, 2048, 48), 0, 'it fits to the last token');
  assert.equal(firstSeen(tokens, 0, 2048, 49), 5, 'a quarter is free again');
  assert.equal(firstSeen(tokens, 5, 2048, 300), 5);
  assert.equal(firstSeen(tokens, 5, 2048, 1000), 10, 'room for a long one');
  assert.equal(firstSeen(tokens, 5, 2048, 2049), 5, 'nothing is left out for one that is too long by itself');
  assert.equal(firstSeen(tokens, 0, 2048, 2048), 20);
  assert.equal(firstSeen([3000, 10], 0, 2048, 100), 1);
});

test('a call that was cut or is no JSON is noticed', () => {
  assert.equal(hasBrokenCall({ rawText: 'Hi!<|end|>', toolCalls: [] }), false);
  assert.equal(hasBrokenCall({ rawText: '<|call|> {"name":"a"}<|call|> {"name":"b"}<|end|>', toolCalls: [{}, {}] }), false);
  assert.equal(hasBrokenCall({ rawText: '<|call|> {"name":"a"}<|call|> {"na', toolCalls: [{}] }), true);
  assert.equal(hasBrokenCall({ rawText: '<tool_call>{', toolCalls: [] }), true);
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toMessages } from '../../www/conversation.js';

test('turns as the library takes them', () => {
  const call = { name: 'set_timer', arguments: { seconds: 60 }, ok: true, result: { ok: true, duration: '1 minute' }, changes: [] };
  assert.deepEqual(toMessages([
    { user: 'hi', steps: [{ text: 'Hello!', calls: [] }], runs: [] },
    { user: 'timer', steps: [{ text: '', calls: [call] }, { text: 'Done.', calls: [] }], runs: [] },
    { user: 'stopped', steps: [{ text: '', calls: [{ name: 'flip_coin', arguments: {} }] }], runs: [] },
    { user: 'nothing', steps: [], runs: [] },
  ]), [
    { role: 'user', content: 'hi' }, { role: 'assistant', content: 'Hello!' },
    { role: 'user', content: 'timer' },
    { role: 'assistant', content: '', toolCalls: [{ name: 'set_timer', arguments: { seconds: 60 } }] },
    { role: 'tool', content: '{"ok":true,"duration":"1 minute"}' },
    { role: 'assistant', content: 'Done.' },
    { role: 'user', content: 'stopped' },
    { role: 'assistant', content: '', toolCalls: [{ name: 'flip_coin', arguments: {} }] },
    { role: 'tool', content: '{"ok":false,"error":"stopped"}' },
    { role: 'user', content: 'nothing' },
  ]);
});

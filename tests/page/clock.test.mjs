import assert from 'node:assert/strict';
import { test } from 'node:test';
import { dueAt, schedule } from '../../www/clock.js';

const NOW = new Date(2026, 10, 25, 14, 30);
const made = NOW.getTime() - 3_600_000;

test('what is due and when to look next', () => {
  const things = [
    { id: 'late', kind: 'timer', endsAt: NOW.getTime() - 5000, made },
    { id: 'soon', kind: 'timer', endsAt: NOW.getTime() + 5000, made },
    { id: 'alarm', kind: 'alarm', date: '2026-11-25', time: '14:30', made },
    { id: 'daily', kind: 'alarm', time: '14:00', repeat: [0, 1, 2, 3, 4, 5, 6], made },
    { id: 'rang', kind: 'reminder', text: 'x', date: '2026-11-25', time: '14:00', rangAt: NOW.getTime(), made },
    { id: 'open', kind: 'reminder', text: 'no time', made },
  ];
  const { due, next } = schedule(things, NOW);
  assert.deepEqual(
    due.map((t) => t.id),
    ['daily', 'late', 'alarm'],
  );
  assert.deepEqual(next, new Date(NOW.getTime() + 5000));
});

test('a repeating alarm that rang is next due on its next day', () => {
  const alarm = {
    id: 'a',
    kind: 'alarm',
    time: '14:00',
    repeat: [1, 2, 3, 4, 5],
    made,
    rangAt: new Date(2026, 10, 27, 14, 0, 1).getTime(),
  };
  assert.deepEqual(dueAt(alarm), new Date(2026, 10, 30, 14));
});

test('nothing to ring', () => assert.deepEqual(schedule([{ id: 'n', kind: 'note', text: 'x', made }], NOW), { due: [], next: null }));

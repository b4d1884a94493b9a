import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clock, dayPhrase, isoDay, nextDue, resolveDay, spoken, toWhen, whenPhrase, within } from '../../www/tools/days.js';

const WEDNESDAY = new Date(2026, 10, 25, 14, 30);

for (const [day, start, last] of [
  ['today', '2026-11-25'],
  ['tomorrow', '2026-11-26'],
  ['day after tomorrow', '2026-11-27'],
  ['friday', '2026-11-27'],
  ['wednesday', '2026-12-02'],
  ['tuesday', '2026-12-01'],
  ['Sunday', '2026-11-29'],
  ['next friday', '2026-12-04'],
  ['next monday', '2026-11-30'],
  ['next wednesday', '2026-12-02'],
  ['next sunday', '2026-12-06'],
  ['weekend', '2026-11-28', '2026-11-29'],
  ['this week', '2026-11-25', '2026-11-29'],
  ['next week', '2026-11-30', '2026-12-06'],
  ['this month', '2026-11-25', '2026-11-30'],
  ['next month', '2026-12-01', '2026-12-31'],
  ['12-05', '2026-12-05'],
  ['11-25', '2026-11-25'],
  ['11-24', '2027-11-24'],
  ['02-29', '2028-02-29'],
  ['28', '2026-11-28'],
  ['25', '2026-11-25'],
  ['24', '2026-12-24'],
  ['31', '2026-12-31'],
])
  test(`on a Wednesday, ${day} is ${start}`, () => {
    const range = resolveDay(day, WEDNESDAY);
    assert.equal(isoDay(range.start), start);
    assert.equal(isoDay(new Date(range.end.getTime() - 1)), last ?? start);
  });

test('weekend on a Sunday is that Sunday', () => {
  const { start, end } = resolveDay('weekend', new Date(2026, 10, 29, 9));
  assert.deepEqual([isoDay(start), isoDay(end)], ['2026-11-29', '2026-11-30']);
});

test('repeating days', () => {
  assert.deepEqual(toWhen('weekdays', '07:00', WEDNESDAY), { time: '07:00', repeat: [1, 2, 3, 4, 5] });
  assert.deepEqual(toWhen('every saturday', undefined, WEDNESDAY), { repeat: [6] });
  assert.equal(isoDay(resolveDay('weekends', WEDNESDAY).start), '2026-11-28');
});

test('an unknown day is an error', () => {
  for (const day of ['someday', '13-01', '02-30', '00', '32']) assert.throws(() => resolveDay(day, WEDNESDAY), /unknown day/, day);
});

test('nextDue: once, repeating, and never', () => {
  assert.deepEqual(nextDue({ date: '2026-11-26', time: '07:30' }, WEDNESDAY), new Date(2026, 10, 26, 7, 30));
  assert.deepEqual(nextDue({ time: '07:00', repeat: [1, 2, 3, 4, 5] }, WEDNESDAY), new Date(2026, 10, 26, 7));
  assert.deepEqual(nextDue({ time: '15:00', repeat: [3] }, WEDNESDAY), new Date(2026, 10, 25, 15));
  assert.deepEqual(nextDue({ time: '14:30', repeat: [3] }, WEDNESDAY), new Date(2026, 11, 2, 14, 30), 'due is strictly after');
  assert.equal(nextDue({ date: '2026-11-26' }, WEDNESDAY), null);
  assert.equal(nextDue({ time: '07:00' }, WEDNESDAY), null);
});

test('within a range', () => {
  const week = resolveDay('next week', WEDNESDAY);
  assert.equal(within({ date: '2026-12-06' }, week), true);
  assert.equal(within({ date: '2026-12-07' }, week), false);
  assert.equal(within({ repeat: [0] }, week), true);
  assert.equal(within({ repeat: [0] }, resolveDay('friday', WEDNESDAY)), false);
  assert.equal(within({}, week), false);
});

test('phrases', () => {
  const phrases = [
    ['today', 'today'],
    ['tomorrow', 'tomorrow'],
    ['friday', 'on Friday'],
    ['wednesday', 'on December 2'],
    ['01-03', 'on January 3, 2027'],
    ['every day', 'every day'],
    ['weekdays', 'on weekdays'],
    ['weekends', 'on weekends'],
    ['every monday', 'every Monday'],
  ];
  for (const [day, phrase] of phrases) assert.equal(dayPhrase(toWhen(day, undefined, WEDNESDAY), WEDNESDAY), phrase);
  assert.equal(whenPhrase(toWhen('tomorrow', '17:00', WEDNESDAY), WEDNESDAY), 'tomorrow at 5:00 PM');
  assert.equal(whenPhrase({}, WEDNESDAY), '');
});

test('times and durations as the model was trained on', () => {
  assert.deepEqual(['00:00', '07:30', '12:00', '23:05'].map(clock), ['12:00 AM', '7:30 AM', '12:00 PM', '11:05 PM']);
  assert.deepEqual([90, 5100, 1, 3600, 0].map(spoken), ['1 minute 30 seconds', '1 hour 25 minutes', '1 second', '1 hour', '0 seconds']);
});

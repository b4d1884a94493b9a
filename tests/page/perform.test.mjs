// The calls of one answer: in order, an edit as one change, failures told.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { before, beforeEach, test } from 'node:test';
import { callChecker, trainedErrors } from '../../www/tools/calls.js';
import { describe } from '../../www/tools/describe.js';
import { handlers } from '../../www/tools/handlers.js';
import { changesOf, failureText, perform, performAll } from '../../www/tools/perform.js';
import { Things } from '../../www/tools/things.js';

const NOW = new Date(2026, 10, 25, 14, 30);
let tools, check, explains, things, run;

before(async () => {
  tools = JSON.parse(await readFile(new URL('../../www/models/demo/tools.json', import.meta.url), 'utf8'));
  check = callChecker(tools);
  explains = trainedErrors(tools);
});

beforeEach(() => {
  const setting = { get: () => undefined, set() {} };
  things = new Things({ all: async () => [], put: async () => {}, delete: async () => {} }, { theme: setting, volume: setting });
  const doers = handlers({ things, now: () => NOW, findZone: () => undefined, random: () => 0 });
  run = (call) => perform(call, check, doers, things);
});

/** Calls as name, arguments, name, arguments ... */
const answer = (...parts) => {
  const calls = [];
  for (let i = 0; i < parts.length; i += 2) calls.push({ name: parts[i], arguments: parts[i + 1] });
  return performAll(calls, run, things);
};
const entries = (kind) => things.all(kind).map((t) => describe(t, NOW));
const sizes = (done) => changesOf(done).map((calls) => calls.length);
const undo = (calls) => things.undo(calls.flatMap((c) => c.changes));

test('an edit is one change, undone as one', () => {
  const edits = [
    [
      'alarm',
      ['set_alarm', { time: '06:30', day: 'tomorrow' }],
      ['cancel_alarm', { time: '06:30' }, 'set_alarm', { time: '07:00', day: 'tomorrow' }],
      ['6:30 AM tomorrow'],
      ['7:00 AM tomorrow'],
    ],
    [
      'alarm',
      ['set_alarm', { time: '06:30', day: 'tomorrow', label: 'gym' }],
      ['cancel_alarm', { time: '06:30' }, 'set_alarm', { time: '06:30', day: 'friday' }],
      ['6:30 AM tomorrow (gym)'],
      ['6:30 AM on Friday'],
    ],
    ['timer', ['set_timer', { seconds: 480 }], ['cancel_timer', {}, 'set_timer', { seconds: 1080 }], ['8 minutes'], ['18 minutes']],
    [
      'reminder',
      ['create_reminder', { text: 'the ladder' }],
      ['cancel_reminder', { text: 'the ladder' }, 'create_reminder', { text: 'the ladder', day: 'sunday' }],
      ['the ladder'],
      ['the ladder (on Sunday)'],
    ],
    [
      'event',
      ['create_event', { title: 'lunch', day: 'friday', time: '12:00' }],
      ['cancel_event', { title: 'lunch' }, 'create_event', { title: 'brunch', day: 'friday', time: '12:00' }],
      ['lunch (on Friday at 12:00 PM)'],
      ['brunch (on Friday at 12:00 PM)'],
    ],
  ];
  for (const [kind, first, edit, old, now] of edits) {
    answer(...first);
    assert.deepEqual(entries(kind), old);
    const done = answer(...edit);
    assert.deepEqual(
      done.map((c) => c.result.ok),
      [true, true],
    );
    assert.deepEqual(sizes(done), [2], kind);
    assert.deepEqual(entries(kind), now);
    assert.ok(undo(changesOf(done)[0]) > 0);
    assert.deepEqual(entries(kind), old);
    things.remove(things.all(kind)[0].id);
  }
});

test('an item put in place of another is one change of the list', () => {
  answer('add_to_list', { list: 'shopping', item: 'soap' });
  const done = answer('remove_from_list', { list: 'shopping', item: 'soap' }, 'add_to_list', { list: 'shopping', item: 'soup' });
  assert.deepEqual(sizes(done), [2]);
  assert.deepEqual(things.all('list')[0].items, ['soup']);
  assert.equal(undo(changesOf(done)[0]), 1, 'one list');
  assert.deepEqual(things.all('list')[0].items, ['soap']);
});

test('an edit touched since is not undone by half', () => {
  answer('set_alarm', { time: '06:30', day: 'tomorrow' });
  const done = answer('cancel_alarm', { time: '06:30' }, 'set_alarm', { time: '07:00', day: 'tomorrow' });
  things.remove(things.all('alarm')[0].id);
  assert.equal(undo(done), 0);
  assert.deepEqual(entries('alarm'), []);
});

test('two requests stay two changes', () => {
  answer(
    'create_event',
    { title: 'dentist', day: 'friday', time: '09:00' },
    'set_timer',
    { seconds: 60, label: 'eggs' },
    'set_alarm',
    { time: '07:00' },
    'set_alarm',
    { time: '08:00' },
  );
  assert.deepEqual(
    sizes(answer('cancel_event', { title: 'dentist' }, 'create_event', { title: 'lunch with Ola', day: 'friday', time: '13:00' })),
    [1, 1],
  );
  assert.deepEqual(sizes(answer('cancel_timer', { label: 'eggs' }, 'set_timer', { seconds: 300, label: 'beans' })), [1, 1]);
  assert.deepEqual(
    sizes(answer('remove_from_list', { list: 'a', item: 'x' }, 'add_to_list', { list: 'a', item: 'y' })),
    [1, 1],
    'nothing was removed',
  );
  assert.deepEqual(sizes(answer('cancel_alarm', { time: 'all' }, 'set_alarm', { time: '09:00' })), [1, 1], 'more than one was cancelled');
  assert.deepEqual(sizes(answer('cancel_alarm', { time: '09:00' }, 'create_reminder', { text: 'x' })), [1, 1]);
});

test('where the new entry cannot be made, the old one is kept, and the page says so', () => {
  for (const [time, why] of [
    ['14:00', 'that time has passed'],
    ['25:00', 'invalid arguments (“time” cannot be "25:00": 24-hour clock, HH:MM)'],
  ]) {
    things.all('alarm').forEach((a) => things.remove(a.id));
    answer('set_alarm', { time: '16:00', day: 'today' });
    const done = answer('cancel_alarm', { time: '16:00' }, 'set_alarm', { time, day: 'today' });
    assert.deepEqual(entries('alarm'), ['4:00 PM today']);
    assert.deepEqual(
      done.map((c) => [c.ok, c.result.ok, c.changes.length]),
      [
        [false, false, 0],
        [false, false, 0],
      ],
    );
    assert.equal(failureText(done, explains), `Sorry, that did not work: ${why}. The old one was kept.`);
  }
});

test('calls are done in their order, one failing among them is named', () => {
  const done = answer('add_to_list', { list: 'a', item: 'x' }, 'set_volume', { level: 300 }, 'remove_from_list', { list: 'a', item: 'x' });
  assert.deepEqual(
    done.map((c) => c.ok),
    [true, false, true],
  );
  assert.deepEqual(things.all('list')[0].items, []);
  assert.equal(
    failureText(done, explains),
    'Sorry, “set volume” did not work: invalid arguments (“level” cannot be 300: 0 to 100). The rest is done.',
  );
});

test('what the model can explain is left to it', () => {
  assert.equal(failureText(answer('cancel_alarm', { time: '07:00' }, 'set_alarm', { time: '08:00' }), explains), '');
  assert.equal(failureText(answer('set_timer', { seconds: 5 }), explains), '');
  assert.equal(failureText(answer('calculate', { expression: '5/0' }), explains), 'Sorry, that did not work: division by zero.');
});

test('a call without usable arguments does nothing', () => {
  answer('set_timer', { seconds: 60 });
  for (const args of [null, [], 'x', 5]) assert.equal(answer('cancel_timer', {}, 'set_timer', args)[1].ok, false);
  assert.deepEqual(entries('timer'), ['1 minute']);
});

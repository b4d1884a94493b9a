import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { before, beforeEach, test } from 'node:test';
import { callChecker, trainedErrors } from '../../www/tools/calls.js';
import { handlers, randomBelow } from '../../www/tools/handlers.js';
import { perform } from '../../www/tools/perform.js';
import { Things } from '../../www/tools/things.js';

const NOW = new Date(2026, 10, 25, 14, 30);
let tools, check, things, disk, doers, world;

before(async () => {
  tools = JSON.parse(await readFile(new URL('../../www/models/demo/tools.json', import.meta.url), 'utf8'));
  check = callChecker(tools);
});

beforeEach(() => {
  disk = new Map();
  world = { theme: 'dark', volume: 70 };
  const setting = (name) => ({ get: () => world[name], set: (value) => (world[name] = value) });
  things = new Things(
    { all: async () => [...disk.values()], put: async (t) => disk.set(t.id, t), delete: async (id) => disk.delete(id) },
    { theme: setting('theme'), volume: setting('volume') },
  );
  doers = handlers({ things, now: () => NOW, findZone: (p) => ({ tokyo: 'Asia/Tokyo' })[p.toLowerCase()], random: () => 0 });
});

const run = (name, args = {}) => perform({ name, arguments: args }, check, doers, things).result;
const OK = { ok: true };
const fails = (error) => ({ ok: false, error });

test('every function of the demo model is really done, in the trained result shape', () => {
  const calls = {
    set_alarm: { time: '07:30' },
    list_alarms: {},
    cancel_alarm: { time: '07:30' },
    set_timer: { seconds: 90 },
    cancel_timer: {},
    create_reminder: { text: 'x' },
    list_reminders: {},
    cancel_reminder: { text: 'x' },
    add_to_list: { list: 'a', item: 'b' },
    show_list: { list: 'a' },
    remove_from_list: { list: 'a', item: 'b' },
    create_event: { title: 't', day: 'friday' },
    list_events: {},
    cancel_event: { title: 't' },
    calculate: { expression: '1+1' },
    convert_units: { value: 1, from: 'km', to: 'm' },
    get_time: {},
    get_date: {},
    set_theme: { theme: 'dark' },
    set_volume: { level: 3 },
    take_note: { text: 'n' },
    show_notes: {},
    start_stopwatch: {},
    stop_stopwatch: {},
    flip_coin: {},
    roll_dice: {},
  };
  for (const tool of tools) {
    const { name } = tool.function;
    const result = run(name, calls[name]);
    assert.deepEqual(Object.keys(result), Object.keys(JSON.parse(tool['x-result'][0])), name);
  }
  assert.equal(tools.length, 26);
});

test('every failure of x-result is had from its function, to the letter', () => {
  const calls = {
    cancel_alarm: [{ time: '07:00' }, { time: '09:00' }],
    cancel_timer: [{}],
    cancel_reminder: [{ text: 'x' }],
    show_list: [{ list: 'x' }],
    remove_from_list: [{ list: 'x', item: 'y' }],
    cancel_event: [{ title: 'x' }],
    calculate: [{ expression: '1/0' }],
    get_time: [{ place: 'atlantis' }],
  };
  const got = Object.entries(calls).flatMap(([name, all]) =>
    all.map((args) => {
      const line = `${name}: ${JSON.stringify(run(name, args))}`;
      if (name === 'cancel_alarm') run('set_alarm', { time: '07:30' });
      return line;
    }),
  );
  const trained = tools.flatMap((t) => t['x-result'].filter((r) => r.includes('"error"')).map((r) => `${t.function.name}: ${r}`));
  assert.deepEqual(got.sort(), trained.sort());
});

test('invalid calls are refused before anything is done', () => {
  for (const [name, args] of [
    ['set_alarm', {}],
    ['set_alarm', { time: '7:30' }],
    ['set_alarm', { time: '07:30', place: 'x' }],
    ['set_timer', { seconds: 1.5 }],
    ['set_volume', { level: 101 }],
    ['set_theme', { theme: 'blue' }],
    ['format_disk', {}],
    ['toString', {}],
    ['set_timer', null],
  ]) {
    const outcome = perform({ name, arguments: args }, check, doers, things);
    assert.deepEqual(outcome.result, fails('invalid arguments'), name);
    assert.ok(outcome.note, 'says why');
  }
  assert.equal(things.all('alarm').length + things.all('timer').length, 0);
});

test('alarms', () => {
  assert.deepEqual(run('cancel_alarm', { time: 'all' }), fails('no alarms'));
  run('set_alarm', { time: '07:30' });
  run('set_alarm', { time: '15:00', label: 'tea' });
  run('set_alarm', { time: '06:00', day: 'weekdays' });
  assert.deepEqual(run('list_alarms'), { alarms: ['3:00 PM (tea)', '6:00 AM on weekdays', '7:30 AM tomorrow'] });
  assert.deepEqual(run('set_alarm', { time: '10:00', day: 'today' }), fails('that time has passed'));
  assert.deepEqual(run('cancel_alarm', { time: '09:00' }), fails('not found'));
  assert.deepEqual(run('cancel_alarm', { time: '15:00' }), OK);
  assert.deepEqual(run('cancel_alarm', { time: 'all' }), OK);
  assert.deepEqual(run('list_alarms'), { alarms: [] });
});

test('timers', () => {
  assert.deepEqual(run('cancel_timer'), fails('no timer'));
  assert.deepEqual(run('set_timer', { seconds: 5100, label: 'Roast' }), { ok: true, duration: '1 hour 25 minutes' });
  assert.equal(things.all('timer')[0].endsAt, NOW.getTime() + 5_100_000);
  assert.deepEqual(run('cancel_timer', { label: 'eggs' }), fails('no timer'));
  assert.deepEqual(run('cancel_timer', { label: 'roast' }), OK);
});

test('reminders', () => {
  run('create_reminder', { text: 'water the plants' });
  run('create_reminder', { text: 'call Tom', day: 'tomorrow', time: '17:00' });
  run('create_reminder', { text: 'stretch', time: '14:00' });
  assert.deepEqual(run('list_reminders'), {
    reminders: ['water the plants', 'call Tom (tomorrow at 5:00 PM)', 'stretch (tomorrow at 2:00 PM)'],
  });
  assert.deepEqual(run('cancel_reminder', { text: 'plants' }), OK);
  assert.deepEqual(run('cancel_reminder', { text: 't' }), fails('not found'), 'two would fit');
});

test('events', () => {
  run('create_event', { title: 'dentist', day: 'friday', time: '10:00' });
  run('create_event', { title: 'holiday', day: 'friday' });
  run('create_event', { title: 'choir', day: 'every friday', time: '19:00' });
  assert.deepEqual(run('list_events', { day: 'friday' }), { events: ['holiday', '10:00 AM dentist', '7:00 PM choir'] });
  assert.deepEqual(run('list_events', { day: 'saturday' }), { events: [] });
  assert.deepEqual(run('list_events'), { events: ['holiday (on Friday)', '10:00 AM dentist (on Friday)', '7:00 PM choir (every Friday)'] });
  assert.deepEqual(run('cancel_event', { title: 'Dentist' }), OK);
});

test('lists and notes', () => {
  assert.deepEqual(run('show_list', { list: 'shopping' }), fails('no such list'));
  run('add_to_list', { list: 'shopping', item: 'milk' });
  run('add_to_list', { list: 'Shopping', item: 'eggs' });
  assert.deepEqual(run('show_list', { list: ' SHOPPING' }), { items: ['milk', 'eggs'] });
  assert.deepEqual(run('remove_from_list', { list: 'shopping', item: 'MILK' }), OK);
  assert.deepEqual(run('remove_from_list', { list: 'shopping', item: 'milk' }), fails('not found'));
  run('take_note', { text: 'the door code is 4471' });
  assert.deepEqual(run('show_notes'), { notes: ['the door code is 4471'] });
});

test('the rest', () => {
  assert.deepEqual(run('calculate', { expression: '1/0' }), fails('division by zero'));
  assert.deepEqual(run('convert_units', { value: 1, from: 'km', to: 'kg' }), fails('cannot convert km to kg'));
  assert.deepEqual(run('get_time'), { time: '2:30 PM' });
  assert.deepEqual(run('get_time', { place: 'atlantis' }), fails('unknown place'));
  assert.deepEqual(run('get_date', { day: '12-25' }), { date: 'Friday, December 25, 2026' });
  assert.deepEqual(run('stop_stopwatch'), fails('not running'));
  run('set_theme', { theme: 'light' });
  run('set_volume', { level: 0 });
  assert.deepEqual([world.theme, world.volume], ['light', 0]);
});

test('undo takes back exactly what a call did, unless it was touched since', () => {
  run('add_to_list', { list: 'shopping', item: 'milk' });
  const second = perform({ name: 'add_to_list', arguments: { list: 'shopping', item: 'eggs' } }, check, doers, things);
  assert.equal(things.undo(second.changes), 1);
  assert.deepEqual(run('show_list', { list: 'shopping' }), { items: ['milk'] });
  const cancelled = (run('set_timer', { seconds: 60 }), perform({ name: 'cancel_timer', arguments: {} }, check, doers, things));
  things.undo(cancelled.changes);
  assert.equal(things.all('timer').length, 1);
  const third = perform({ name: 'add_to_list', arguments: { list: 'shopping', item: 'tea' } }, check, doers, things);
  run('add_to_list', { list: 'shopping', item: 'jam' });
  assert.equal(things.undo(third.changes), 0);
});

test('theme and volume are undone too, unless they were changed since', () => {
  const act = (name, args) => perform({ name, arguments: args }, check, doers, things);
  const [theme, volume] = [act('set_theme', { theme: 'light' }), act('set_volume', { level: 0 })];
  assert.equal(things.undo(theme.changes) + things.undo(volume.changes), 2);
  assert.deepEqual([world.theme, world.volume], ['dark', 70]);
  assert.deepEqual(act('set_theme', { theme: 'dark' }).changes, [], 'as it was');
  const light = act('set_theme', { theme: 'light' });
  things.adjust('theme', 'dark');
  assert.equal(things.undo(light.changes), 0);
});

test('every function that changes something can be undone', () => {
  const state = () => JSON.stringify([[...disk.values()].sort((a, b) => a.id.localeCompare(b.id)), world]);
  for (const kind of [
    ['set_alarm', { time: '09:00' }],
    ['set_timer', { seconds: 9 }],
    ['create_reminder', { text: 'r' }],
    ['create_event', { title: 'e', day: 'friday' }],
    ['add_to_list', { list: 'l', item: 'i' }],
    ['start_stopwatch', {}],
  ])
    run(...kind);
  const calls = {
    set_alarm: { time: '07:30' },
    cancel_alarm: { time: 'all' },
    set_timer: { seconds: 90 },
    cancel_timer: {},
    create_reminder: { text: 'x' },
    cancel_reminder: { text: 'r' },
    add_to_list: { list: 'l', item: 'b' },
    remove_from_list: { list: 'l', item: 'i' },
    create_event: { title: 't', day: 'friday' },
    cancel_event: { title: 'e' },
    set_theme: { theme: 'light' },
    set_volume: { level: 3 },
    take_note: { text: 'n' },
    start_stopwatch: {},
    stop_stopwatch: {},
  };
  for (const tool of tools) {
    const { name } = tool.function;
    const before = state();
    const outcome = perform(
      {
        name,
        arguments:
          calls[name] ??
          { get_time: {}, show_list: { list: 'l' }, calculate: { expression: '1' }, convert_units: { value: 1, from: 'km', to: 'm' } }[
            name
          ] ??
          {},
      },
      check,
      doers,
      things,
    );
    assert.equal(outcome.ok, true, name);
    assert.equal(state() !== before, name in calls, name);
    things.undo(outcome.changes);
    assert.equal(state(), before, name);
  }
});

test('of two entries with one time or name, the one made last is meant', () => {
  run('set_alarm', { time: '07:00', day: 'tomorrow' });
  run('set_alarm', { time: '07:00', day: 'friday' });
  run('cancel_alarm', { time: '07:00' });
  assert.deepEqual(run('list_alarms'), { alarms: ['7:00 AM tomorrow'] });
});

test('what is wrong with a call is told in words', () => {
  for (const [name, args, words] of [
    ['set_alarm', {}, '“time” is missing'],
    ['set_alarm', { time: '25:00' }, '“time” cannot be "25:00": 24-hour clock, HH:MM'],
    ['set_alarm', { time: '07:30', place: 'x' }, 'there is no “place”'],
    ['set_volume', { level: 300 }, '“level” cannot be 300: 0 to 100'],
    ['set_theme', { theme: 'blue' }, '“theme” cannot be "blue": dark or light'],
    ['format_disk', {}, 'there is no function format_disk'],
  ])
    assert.equal(check({ name, arguments: args }), words);
  assert.match(check({ name: 'set_timer', arguments: null }), /null/);
});

test('what is stored comes back', async () => {
  run('set_timer', { seconds: 60, label: 'tea' });
  const again = new Things({ all: async () => [...disk.values()], put: async () => {}, delete: async () => {} });
  await again.load();
  assert.deepEqual(again.all('timer'), things.all('timer'));
});

test('dice are uniform', () => {
  const counts = new Array(6).fill(0);
  for (let i = 0; i < 60_000; i += 1) counts[randomBelow(6)] += 1;
  const chi = counts.reduce((sum, n) => sum + (n - 10_000) ** 2 / 10_000, 0);
  assert.ok(chi < 30, `chi-square ${chi} with 5 degrees of freedom`);
});

test('failures that the model can explain, and others', () => {
  const explains = trainedErrors(tools);
  for (const [name, error, known] of [
    ['show_list', 'no such list', true],
    ['cancel_alarm', 'no alarms', true],
    ['get_time', 'unknown place', true],
    ['set_alarm', 'that time has passed', false],
    ['calculate', 'division by zero', false],
    ['stop_stopwatch', 'not running', false],
    ['take_note', 'invalid arguments', false],
  ])
    assert.equal(explains(name, error), known, `${name}: ${error}`);
});

// The single requests and dialogues of freestyle-tests.jsonl: run freely, with the model's own answers and the page's own tools as
// the history, and scored as the demo model's card says.
import { isDeepStrictEqual } from 'node:util';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';
import { toolMessages } from '../../www/conversation.js';
import { callChecker } from '../../www/tools/calls.js';
import { handlers } from '../../www/tools/handlers.js';
import { perform } from '../../www/tools/perform.js';
import { Things } from '../../www/tools/things.js';
import { zoneIndex } from '../../www/tools/zones.js';

const read = (path) => readFileSync(join(root, path), 'utf8');
export const tools = JSON.parse(read('www/models/demo/tools.json'));
const check = callChecker(tools);
const findZone = zoneIndex(JSON.parse(read('www/vendor/zones.json')));
/** A Tuesday, early enough that no time of the requests has passed. */
const NOW = new Date(2026, 10, 24, 4, 30);

/** { id, half, state?, turns: [{ user, expected }] }; expected: the calls, or 'ask', 'refuse', 'chat'. */
export const freestyle = read('tests/fixtures/demo/freestyle-tests.jsonl')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line));
export const isDialogue = ({ id }) => id.startsWith('dialogue-');

/** The page's functions over a store in memory, with what a dialogue finds there. */
function backEnd({ alarms = [], events = [], lists = {} } = {}) {
  const value = { get: () => undefined, set() {} };
  const things = new Things({ all: async () => [], put: async () => {}, delete: async () => {} }, { theme: value, volume: value });
  const doers = handlers({ things, now: () => NOW, findZone, random: () => 0 });
  const run = (name, args) => perform({ name, arguments: args }, check, doers, things);
  const given = (values) => Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));
  for (const [time, day, label] of alarms) run('set_alarm', given({ time, day, label }));
  for (const [title, day, time] of events) run('create_event', given({ title, day, time }));
  for (const [list, items] of Object.entries(lists)) for (const item of items) run('add_to_list', { list, item });
  return run;
}

/** A call that is right: name and arguments, in any order of the arguments. */
const bare = (calls) => calls.map((call) => ({ name: call.name, arguments: call.arguments }));

function fits({ text, toolCalls }, expected) {
  if (Array.isArray(expected)) return isDeepStrictEqual(bare(toolCalls), expected);
  if (toolCalls.length > 0) return false;
  if (expected === 'ask') return text.trim().endsWith('?');
  return expected === 'chat' || /can't|cannot|don't know/.test(text);
}

/**
 * Runs one case. `start()` begins a conversation: a function from what is said next (as `Session.send` takes it) to its result.
 * Gives for each turn whether it was right, and what was wrong with the others.
 */
export async function play({ id, state, turns }, start) {
  const send = await start();
  const run = backEnd(state);
  const misses = [];
  for (const { user, expected } of turns) {
    let answer = await send(user);
    if (!fits(answer, expected)) misses.push(`${id}: ${user}: ${JSON.stringify(bare(answer.toolCalls))} ${answer.text}`);
    // The answer to the results is history for the next turn, so nothing is missed by leaving it out after the last.
    for (let steps = 0; turns.length > 1 && answer.toolCalls.length > 0 && steps < 3; steps += 1) {
      const done = answer.toolCalls.map((call) => ({ ...call, ...run(call.name, call.arguments) }));
      answer = await send(toolMessages(done));
    }
  }
  return misses;
}

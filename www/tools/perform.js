// @ts-check
/**
 * The calls of one answer, done in their order. A call that does not fit its schema is not done; what was changed can be undone.
 * @typedef {import('./calls.js').Call} Call
 * @typedef {import('./things.js').Things} Things
 * @typedef {{ ok: boolean, result: any, note?: string, changes: import('./things.js').Change[] }} Outcome
 * @typedef {Call & Outcome & { replaces?: boolean }} Done  replaces: together with the call before it this is one change of an entry
 */

/** What cancels an entry, and what makes another of its kind. @type {Record<string, string>} */
const REPLACED_BY = {
  cancel_alarm: 'set_alarm',
  cancel_timer: 'set_timer',
  cancel_reminder: 'create_reminder',
  cancel_event: 'create_event',
  remove_from_list: 'add_to_list',
};
/** The field that says what an entry is for. @type {Record<string, string>} */
const NAME = { alarm: 'label', timer: 'label', reminder: 'text', event: 'title' };
/** The error of a cancellation that was taken back. */
const KEPT = 'kept';

const failed = (/** @type {string} */ error, /** @type {string} */ note = '') => ({
  ok: false,
  result: { ok: false, error },
  changes: [],
  ...(note && { note }),
});

/**
 * Checks one call, does it, and says what became of it.
 * @param {Call} call @param {(call: Call) => string | null} check @param {Record<string, (args: any) => import('./handlers.js').Outcome>} doers @param {Things} things
 * @returns {Outcome}
 */
export function perform(call, check, doers, things) {
  const wrong = check(call);
  if (wrong) return failed('invalid arguments', wrong);
  if (!Object.hasOwn(doers, call.name)) return failed('not available');
  try {
    const { value, changes } = things.record(() => doers[call.name](call.arguments));
    return { ok: true, ...value, changes };
  } catch (cause) {
    return failed(cause instanceof Error ? cause.message : String(cause));
  }
}

/**
 * Does the calls of one answer in their order. A cancellation with a new entry in its place is one change: if the new entry cannot be
 * made, the old one is kept.
 * @param {Call[]} calls @param {(call: Call) => Outcome} run @param {Things} things @returns {Done[]}
 */
export function performAll(calls, run, things) {
  /** @type {Done[]} */ const done = [];
  for (const call of calls) {
    const before = done.at(-1);
    const replaces = before !== undefined && isReplaced(before, call);
    const outcome = run(call);
    if (replaces && !outcome.ok) {
      things.undo(before.changes);
      Object.assign(before, failed(KEPT, 'what should take its place did not work'));
    }
    done.push({ ...call, ...outcome, ...(replaces && outcome.ok && { replaces }) });
  }
  return done;
}

/** Is this call the other half of an edit? It is if the entry keeps what it is for, or when it is, or cannot be read at all. @param {Done} before @param {Call} call */
function isReplaced(before, call) {
  if (!before.ok || REPLACED_BY[before.name] !== call.name) return false;
  const { arguments: args } = call;
  if (!args || typeof args !== 'object' || Array.isArray(args)) return true;
  if (call.name === 'add_to_list') return alike(before.arguments.list, args.list);
  if (before.changes.length !== 1) return false;
  const old = before.changes[0].before;
  return alike(old[NAME[old.kind]], args[NAME[old.kind]]) || (old.kind === 'timer' ? old.seconds === args.seconds : old.time === args.time);
}
const alike = (/** @type {unknown} */ a, /** @type {unknown} */ b) => String(a ?? '').toLowerCase() === String(b ?? '').toLowerCase();

/** The calls as a reader takes them: an edit is one change. @template {{ replaces?: boolean }} T @param {T[]} calls @returns {T[][]} */
export function changesOf(calls) {
  /** @type {T[][]} */ const groups = [];
  for (const call of calls) {
    if (call.replaces && groups.length) groups.at(-1)?.push(call);
    else groups.push([call]);
  }
  return groups;
}

/**
 * The page's own words about an answer with calls that failed in a way the model was not trained to explain; '' if it can go on itself.
 * @param {import('../cards.js').CallState[]} calls @param {(name: string, error: string) => boolean} explains
 */
export function failureText(calls, explains) {
  const wrong = calls.filter((c) => c.ok === false && c.result.error !== KEPT);
  if (wrong.every((c) => explains(c.name, c.result.error))) return '';
  const why = (/** @type {import('../cards.js').CallState} */ c) => `${c.result.error}${c.note ? ` (${c.note.replace(/\.$/, '')})` : ''}.`;
  const kept = calls.some((c) => c.result?.error === KEPT);
  const told = wrong.map((c) =>
    calls.length === 1 || kept ? `Sorry, that did not work: ${why(c)}` : `Sorry, “${c.name.replaceAll('_', ' ')}” did not work: ${why(c)}`,
  );
  return [...told, kept && 'The old one was kept.', calls.some((c) => c.ok) && 'The rest is done.'].filter(Boolean).join(' ');
}

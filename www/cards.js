// @ts-check
import { h, icon, iconButton } from './dom.js';
import { countdown } from './format.js';
import { describe } from './tools/describe.js';

/**
 * A tool call as it is shown and stored.
 * @typedef {{ name: string, arguments: any, ok?: boolean, result?: any, note?: string, changes?: import('./tools/things.js').Change[], replaces?: boolean, undone?: boolean }} CallState
 *   replaces: together with the call before it this is one change of an entry
 */

const ICONS = [
  [/alarm/, 'alarm'],
  [/timer|stopwatch/, 'timer'],
  [/reminder/, 'bell'],
  [/event|date/, 'calendar'],
  [/list$/, 'list'],
  [/note/, 'note'],
  [/calculate|convert/, 'calculator'],
  [/time/, 'clock'],
  [/theme/, 'moon'],
  [/volume/, 'volume'],
  [/coin|dice/, 'dice'],
];
const iconFor = (/** @type {string} */ name) =>
  String(ICONS.find(([pattern]) => /** @type {RegExp} */ (pattern).test(name))?.[1] ?? 'tool');
export const titleOf = (/** @type {string} */ name) => name.replaceAll('_', ' ').replace(/^./, (c) => c.toUpperCase());

/** Repaints once a second what shows running time. @type {Set<() => boolean>} */
const ticking = new Set();
setInterval(() => {
  for (const paint of ticking) if (!paint()) ticking.delete(paint);
}, 1000);
/** @param {Node} node @param {() => void} paint */
export function everySecond(node, paint) {
  paint();
  let shown = false;
  ticking.add(() => {
    // Not yet in the document the first time is fine, gone from it afterwards is the end.
    if (node.isConnected) shown = true;
    else if (shown) return false;
    paint();
    return true;
  });
}

/** @param {import('./tools/things.js').Thing} t @returns {HTMLElement} */
export function runningTime(t) {
  const el = h('span', { class: 'running', role: 'timer' });
  everySecond(
    el,
    () =>
      (el.textContent = countdown(t.kind === 'stopwatch' ? Math.floor((Date.now() - t.startedAt) / 1000) : (t.endsAt - Date.now()) / 1000)),
  );
  return el;
}

/** @param {CallState[]} calls one call, or the two of an edit @returns {string} */
export function groupTitle(calls) {
  const call = /** @type {CallState} */ (calls.at(-1));
  if (calls.length === 1) return titleOf(call.name);
  const kind = call.changes?.at(-1)?.after?.kind;
  return `${kind === 'list' ? `${titleOf(call.arguments.list)} list` : titleOf(kind ?? 'entry')} changed`;
}

/** What an edit did: the old entry and the new one. @param {CallState} cancel @param {CallState} make @returns {[string, string]} */
function oldAndNew(cancel, make) {
  if (make.name === 'add_to_list') return [cancel.arguments.item, make.arguments.item];
  return [describe(cancel.changes?.at(-1)?.before, new Date()), describe(make.changes?.at(-1)?.after, new Date())];
}

/** @param {CallState[]} calls one call, or the two of an edit @param {import('./tools/things.js').Things} things @param {{ undo(): void }} actions @returns {HTMLElement} */
export function card(calls, things, { undo }) {
  const call = /** @type {CallState} */ (calls.at(-1));
  const edit = calls.length > 1;
  const title = groupTitle(calls);
  const pending = call.result === undefined;
  const status = pending ? 'Running' : call.undone ? 'Undone' : call.ok ? 'Done' : 'Failed';
  const el = h('section', { class: `card ${status.toLowerCase()}`, 'aria-label': `${title}: ${status}` });
  const [live, control] = [h('div', { class: 'card-live' }), h('span', { class: 'control' })];

  el.append(
    h('header', {}, icon(iconFor(call.name)), h('h3', {}, title), control, h('span', { class: 'status' }, status)),
    ...(edit ? [changeLine(...oldAndNew(calls[0], call))] : callBody(call)),
    live,
    h(
      'details',
      {},
      h('summary', {}, edit ? 'Calls and results' : 'Call and result'),
      h(
        'pre',
        { tabIndex: 0 },
        calls
          .map((c) => `${JSON.stringify({ name: c.name, arguments: c.arguments })}\n${pending ? '…' : JSON.stringify(c.result)}`)
          .join('\n'),
      ),
    ),
  );

  const changes = calls.flatMap((c) => c.changes ?? []);
  if (call.ok && changes.length && !call.undone) {
    const last = /** @type {import('./tools/things.js').Change} */ (changes.at(-1));
    const paint = () => {
      const untouched = things.untouched(changes);
      const running = untouched && ['timer', 'stopwatch'].includes(last.after?.kind);
      live.replaceChildren(running ? runningTime(last.after) : '');
      control.replaceChildren(untouched ? iconButton('undo', 'Undo', undo, running && !edit && !last.before ? 'Cancel' : 'Undo') : '');
    };
    paint();
    const onChange = () => (el.isConnected ? paint() : things.removeEventListener('change', onChange));
    things.addEventListener('change', onChange);
  }
  return el;
}

/** @param {string} before @param {string} after */
const changeLine = (before, after) =>
  h(
    'p',
    { class: 'change' },
    h('span', { class: 'sr-only' }, 'from '),
    h('del', {}, before),
    h('span', { 'aria-hidden': 'true' }, '→'),
    h('span', { class: 'sr-only' }, ' to '),
    h('ins', {}, after),
  );

/** Arguments, result, and what went wrong. @param {CallState} call */
function callBody(call) {
  const args = Object.entries(call.arguments ?? {});
  const answer = call.ok ? Object.entries(call.result).filter(([k]) => k !== 'ok') : [];
  return [
    args.length ? h('dl', { class: 'args' }, ...args.map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, String(v))))) : '',
    ...answer.map(([k, v]) =>
      Array.isArray(v)
        ? v.length
          ? h('ul', { class: 'items' }, ...v.map((i) => h('li', {}, String(i))))
          : h('p', { class: 'hint' }, 'Nothing there.')
        : h('p', { class: k === 'duration' ? 'hint' : 'value' }, String(v)),
    ),
    call.ok === false
      ? h('p', { class: 'field-error' }, `${call.result.error}${call.note ? `: ${call.note}` : ''}`)
      : call.note
        ? h('p', { class: 'hint' }, call.note)
        : '',
  ];
}

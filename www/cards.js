// @ts-check
import { h, icon, iconButton } from './dom.js';
import { countdown } from './format.js';

/**
 * A tool call as it is shown and stored.
 * @typedef {{ name: string, arguments: any, ok?: boolean, result?: any, note?: string, changes?: import('./tools/things.js').Change[], undone?: boolean }} CallState
 */

const ICONS = [[/alarm/, 'alarm'], [/timer|stopwatch/, 'timer'], [/reminder/, 'bell'], [/event|date/, 'calendar'], [/list$/, 'list'], [/note/, 'note'], [/calculate|convert/, 'calculator'],
  [/time/, 'clock'], [/theme/, 'moon'], [/volume/, 'volume'], [/coin|dice/, 'dice']];
const iconFor = (/** @type {string} */ name) => String(ICONS.find(([pattern]) => /** @type {RegExp} */ (pattern).test(name))?.[1] ?? 'tool');
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
  everySecond(el, () => (el.textContent = countdown(t.kind === 'stopwatch' ? Math.floor((Date.now() - t.startedAt) / 1000) : (t.endsAt - Date.now()) / 1000)));
  return el;
}

/** @param {CallState} call @param {import('./tools/things.js').Things} things @param {{ undo(): void }} actions @returns {HTMLElement} */
export function card(call, things, { undo }) {
  const pending = call.result === undefined;
  const status = pending ? 'Running' : call.undone ? 'Undone' : call.ok ? 'Done' : 'Failed';
  const el = h('section', { class: `card ${status.toLowerCase()}`, 'aria-label': `${titleOf(call.name)}: ${status}` });
  const args = Object.entries(call.arguments ?? {});
  const answer = call.ok ? Object.entries(call.result).filter(([k]) => k !== 'ok') : [];
  const [live, control] = [h('div', { class: 'card-live' }), h('span', { class: 'control' })];

  el.append(
    h('header', {}, icon(iconFor(call.name)), h('h3', {}, titleOf(call.name)), control, h('span', { class: 'status' }, status)),
    args.length ? h('dl', { class: 'args' }, ...args.map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, String(v))))) : '',
    ...answer.map(([k, v]) => Array.isArray(v)
      ? v.length ? h('ul', { class: 'items' }, ...v.map((i) => h('li', {}, String(i)))) : h('p', { class: 'hint' }, 'Nothing there.')
      : h('p', { class: k === 'duration' ? 'hint' : 'value' }, String(v))),
    call.ok === false ? h('p', { class: 'field-error' }, `${call.result.error}${call.note ? `: ${call.note}` : ''}`) : call.note ? h('p', { class: 'hint' }, call.note) : '',
    live,
    h('details', {}, h('summary', {}, 'Call and result'), h('pre', { tabIndex: 0 }, `${JSON.stringify({ name: call.name, arguments: call.arguments })}\n${pending ? '…' : JSON.stringify(call.result)}`)),
  );

  if (call.ok && call.changes?.length && !call.undone) {
    const last = /** @type {import('./tools/things.js').Change} */ (call.changes.at(-1));
    const paint = () => {
      const now = things.get(last.id);
      const untouched = JSON.stringify(now) === JSON.stringify(last.after);
      const running = untouched && last.after && ['timer', 'stopwatch'].includes(last.after.kind);
      live.replaceChildren(running ? runningTime(/** @type {any} */ (last.after)) : '');
      control.replaceChildren(untouched ? iconButton('undo', 'Undo', undo, running && !last.before ? 'Cancel' : 'Undo') : '');
    };
    paint();
    const onChange = () => (el.isConnected ? paint() : things.removeEventListener('change', onChange));
    things.addEventListener('change', onChange);
  }
  return el;
}

// @ts-check
import { clock, nextDue } from './tools/days.js';

/**
 * Rings timers, alarms and reminders while the page is open, in one tab only, and after a reload or a sleep those that came due meanwhile.
 * @typedef {import('./tools/things.js').Thing} Thing
 * @typedef {{ title: string, text: string, late: boolean, thing: Thing }} Ring
 */

/** When it should ring next, as seen from the last time it did. @param {Thing} t @returns {Date | null} */
export function dueAt(t) {
  if (t.kind === 'timer') return new Date(t.endsAt);
  if (t.kind !== 'alarm' && t.kind !== 'reminder') return null;
  if (t.rangAt && !t.repeat) return null;
  return nextDue(/** @type {any} */ (t), new Date(t.rangAt ?? t.made));
}

/** @param {Thing[]} things @param {Date} now @returns {{ due: Thing[], next: Date | null }} */
export function schedule(things, now) {
  const dated = things
    .flatMap((thing) => {
      const at = dueAt(thing);
      return at ? [{ thing, at }] : [];
    })
    .sort((a, b) => a.at.getTime() - b.at.getTime());
  return { due: dated.filter((d) => d.at <= now).map((d) => d.thing), next: dated.find((d) => d.at > now)?.at ?? null };
}

const LATE_MS = 60_000;
const MAX_DELAY = 2 ** 31 - 1;

/** @param {import('./tools/things.js').Things} things @param {(ring: Ring) => void} ring */
export function startClock(things, ring) {
  let timeout = 0;
  const ringing = () => /** @type {const} */ (['timer', 'alarm', 'reminder']).flatMap((kind) => things.all(kind));

  function sweep() {
    clearTimeout(timeout);
    const now = new Date();
    for (const thing of schedule(ringing(), now).due) {
      const late = now.getTime() - /** @type {Date} */ (dueAt(thing)).getTime() > LATE_MS;
      // A one-off timer or alarm is over once it rang; a reminder stays on the list until it is done.
      if (thing.repeat || thing.kind === 'reminder') things.update(thing.id, { rangAt: now.getTime() });
      else things.remove(thing.id);
      ring({ ...texts(thing), late, thing });
    }
    const { next } = schedule(ringing(), now);
    if (next) timeout = window.setTimeout(sweep, Math.min(next.getTime() - now.getTime(), MAX_DELAY));
  }

  const watch = () => {
    sweep();
    things.addEventListener('change', () => queueMicrotask(sweep));
    // Timers are throttled in hidden tabs and stand still while a laptop sleeps.
    document.addEventListener('visibilitychange', () => document.hidden || sweep());
    return new Promise(() => {});
  };
  if (navigator.locks) void navigator.locks.request('mobilellm-clock', watch);
  else void watch();
}

/** @param {Thing} t */
function texts(t) {
  if (t.kind === 'timer') return { title: t.label ? `Timer: ${t.label}` : 'Timer', text: 'Time is up.' };
  if (t.kind === 'alarm')
    return { title: t.label ? `Alarm: ${t.label}` : 'Alarm', text: `It is ${clock(/** @type {string} */ (t.time))}.` };
  return { title: 'Reminder', text: t.text };
}

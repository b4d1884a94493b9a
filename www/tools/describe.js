// @ts-check
import { clock, dayPhrase, spoken, whenPhrase } from './days.js';

/** An entry in a line: '7:30 AM tomorrow (gym)'. @param {import('./things.js').Thing} t @param {Date} now */
export function describe(t, now) {
  const inBrackets = (/** @type {string | undefined} */ s) => s && `(${s})`;
  const parts = {
    alarm: () => [clock(/** @type {string} */ (t.time)), dayPhrase(t, now), inBrackets(t.label)],
    timer: () => [spoken(t.seconds), inBrackets(t.label)],
    reminder: () => [t.text, inBrackets(whenPhrase(t, now))],
    event: () => [t.title, inBrackets(whenPhrase(t, now))],
    list: () => [t.name],
    note: () => [t.text],
    stopwatch: () => ['Stopwatch'],
  };
  return parts[t.kind]().filter(Boolean).join(' ');
}

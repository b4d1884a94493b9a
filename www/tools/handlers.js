// @ts-check
import { calculate } from './calculator.js';
import { convert } from './units.js';
import { clock, dayPhrase, firstDay, isoDay, longDate, nextDue, resolveDay, spoken, toWhen, whenPhrase, within } from './days.js';
import { describe } from './describe.js';
import { timeIn } from './zones.js';

/**
 * The functions of tools.json, done for real. Each returns the result in the shape the model was trained on (`x-result`) and, for the
 * person, a note of what was understood (the resolved day, the zone). An Error thrown becomes {"ok":false,"error":message}.
 * @typedef {{ things: import('./things.js').Things, now(): Date, findZone(place: string): string | undefined,
 *             random(below: number): number }} World  things: with the settings `theme` and `volume`
 * @typedef {{ result: object, note?: string }} Outcome
 */

const OK = { ok: true };
const same = (/** @type {string} */ a, /** @type {string} */ b) => fold(a) === fold(b);
const fold = (/** @type {string} */ s) => s.trim().toLowerCase().replace(/\s+/g, ' ');

/** @param {World} world @returns {Record<string, (args: any) => Outcome>} */
export function handlers({ things, now, findZone, random }) {
  /** Exactly that text, the newest of several; else the only one that contains it. @param {any} kind @param {string} field @param {string} text */
  const find = (kind, field, text) => {
    const all = things.all(kind);
    const hits = all.filter((t) => fold(t[field] ?? '').includes(fold(text)));
    const found = all.findLast((t) => same(t[field] ?? '', text)) ?? (hits.length === 1 ? hits[0] : undefined);
    if (!found) throw new Error('not found');
    return found;
  };
  const list = (/** @type {string} */ name) => things.all('list').find((l) => same(l.name, name));
  const notPast = (/** @type {import('./days.js').When} */ when) => {
    const due = nextDue(when, now());
    if (due && due <= now()) throw new Error('that time has passed');
    return when;
  };
  // Today's alarms are listed by time alone, as in the model's training data.
  const alarmText = (/** @type {import('./things.js').Thing} */ a) =>
    describe(a.date === isoDay(now()) ? { ...a, date: undefined } : a, now());
  const byTime = (/** @type {any} */ a, /** @type {any} */ b) => (nextDue(a, now())?.getTime() ?? 0) - (nextDue(b, now())?.getTime() ?? 0);

  return {
    set_alarm({ time, day, label }) {
      let when = toWhen(day, time, now());
      if (!day) {
        const today = toWhen('today', time, now());
        when = /** @type {Date} */ (nextDue(today, now())) > now() ? today : toWhen('tomorrow', time, now());
      }
      things.add('alarm', { ...notPast(when), label });
      return { result: OK, note: capital(whenPhrase(when, now())) };
    },
    list_alarms: () => ({ result: { alarms: things.all('alarm').sort(byTime).map(alarmText) } }),
    cancel_alarm({ time }) {
      const alarms = things.all('alarm');
      if (alarms.length === 0) throw new Error('no alarms');
      // Of two at one time, "that one" is the one made last.
      const gone = time === 'all' ? alarms : alarms.filter((a) => a.time === time).slice(-1);
      if (gone.length === 0) throw new Error('not found');
      for (const a of gone) things.remove(a.id);
      return { result: OK, note: gone.map(alarmText).join(', ') };
    },

    set_timer({ seconds, label }) {
      things.add('timer', { seconds, label, endsAt: now().getTime() + seconds * 1000 });
      return { result: { ok: true, duration: spoken(seconds) } };
    },
    cancel_timer({ label }) {
      const timers = things.all('timer');
      const timer = label
        ? (timers.findLast((t) => same(t.label ?? '', label)) ?? (timers.length === 1 && !timers[0].label ? timers[0] : undefined))
        : timers.at(-1);
      if (!timer) throw new Error('no timer');
      things.remove(timer.id);
      return { result: OK, note: timer.label };
    },

    create_reminder({ text, day, time }) {
      const when = notPast(toWhen(day ?? (time ? nextDay(time) : undefined), time, now()));
      things.add('reminder', { ...when, text });
      return { result: OK, note: capital(whenPhrase(when, now())) };
    },
    list_reminders: () => ({ result: { reminders: things.all('reminder').map((r) => describe(r, now())) } }),
    cancel_reminder({ text }) {
      const reminder = find('reminder', 'text', text);
      things.remove(reminder.id);
      return { result: OK, note: reminder.text };
    },

    create_event({ title, day, time }) {
      const when = toWhen(day, time, now());
      things.add('event', { ...when, title });
      return { result: OK, note: capital(whenPhrase(when, now())) };
    },
    list_events({ day }) {
      const range = day ? resolveDay(day, now()) : undefined;
      const events = things
        .all('event')
        .filter((e) => (range ? within(e, range) : e.repeat || /** @type {string} */ (e.date) >= isoDay(now())))
        .map((/** @type {any} */ e) => ({ ...e, key: `${firstDay(e, range?.start ?? now())} ${e.time ?? ''}` }))
        .sort((a, b) => a.key.localeCompare(b.key));
      // The day is part of the text only where the question left it open.
      const single = range && range.end.getTime() - range.start.getTime() <= 90_000_000;
      return {
        result: {
          events: events.map((e) => [e.time && clock(e.time), e.title, !single && `(${dayPhrase(e, now())})`].filter(Boolean).join(' ')),
        },
      };
    },
    cancel_event({ title }) {
      const event = find('event', 'title', title);
      things.remove(event.id);
      return { result: OK, note: event.title };
    },

    add_to_list({ list: name, item }) {
      const found = list(name);
      if (found) things.update(found.id, { items: [...found.items, item] });
      else things.add('list', { name, items: [item] });
      return { result: OK };
    },
    show_list({ list: name }) {
      const found = list(name);
      if (!found) throw new Error('no such list');
      return { result: { items: found.items } };
    },
    remove_from_list({ list: name, item }) {
      const found = list(name);
      const at = found ? found.items.findLastIndex((/** @type {string} */ i) => same(i, item)) : -1;
      if (at < 0 || !found) throw new Error('not found');
      things.update(found.id, { items: found.items.toSpliced(at, 1) });
      return { result: OK };
    },

    take_note({ text }) {
      things.add('note', { text });
      return { result: OK };
    },
    show_notes: () => ({ result: { notes: things.all('note').map((n) => n.text) } }),

    calculate: ({ expression }) => ({ result: { result: calculate(expression) } }),
    convert_units: ({ value, from, to }) => ({ result: { result: convert(value, from, to) } }),
    get_time({ place }) {
      const zone = place ? findZone(place) : undefined;
      if (place && !zone) throw new Error('unknown place');
      return { result: { time: timeIn(now(), zone) }, note: zone?.replaceAll('_', ' ') };
    },
    get_date: ({ day }) => ({ result: { date: longDate(day ? resolveDay(day, now()).start : now()) } }),

    set_theme({ theme }) {
      things.adjust('theme', theme);
      return { result: OK };
    },
    set_volume({ level }) {
      things.adjust('volume', level);
      return { result: OK, note: 'Alarm and timer sounds of this page' };
    },

    start_stopwatch() {
      for (const s of things.all('stopwatch')) things.remove(s.id);
      things.add('stopwatch', { startedAt: now().getTime() });
      return { result: OK };
    },
    stop_stopwatch() {
      const [watch] = things.all('stopwatch');
      if (!watch) throw new Error('not running');
      things.remove(watch.id);
      return { result: { elapsed: spoken(Math.round((now().getTime() - watch.startedAt) / 1000)) } };
    },

    flip_coin: () => ({ result: { result: random(2) ? 'heads' : 'tails' } }),
    roll_dice: ({ sides = 6 }) => ({ result: { result: random(sides) + 1 } }),
  };

  /** A reminder with a time and no day is for the next such moment. @param {string} time */
  function nextDay(time) {
    return /** @type {Date} */ (nextDue(toWhen('today', time, now()), now())) > now() ? 'today' : 'tomorrow';
  }
}

const capital = (/** @type {string} */ s) => s && s[0].toUpperCase() + s.slice(1);

/** Uniform, from the system's random source. @param {number} below at most 2^32 @returns {number} an integer in [0, below) */
export function randomBelow(below) {
  const limit = Math.floor(2 ** 32 / below) * below;
  const word = new Uint32Array(1);
  do crypto.getRandomValues(word);
  while (word[0] >= limit);
  return word[0] % below;
}

// @ts-check
/**
 * The model knows no clock: it says "next friday" or "12-05" and the page resolves that here, in local time.
 * A day is kept as 'YYYY-MM-DD' and a time as 'HH:MM', so an entry stays right across time zones and daylight saving.
 * @typedef {{ date?: string, time?: string, repeat?: number[] }} When  repeat: weekdays, 0 = Sunday
 */

const WEEKDAYS = ['sunday', 'monday', 'tuesday', 'wednesday', 'thursday', 'friday', 'saturday'];
const EVERY_DAY = [0, 1, 2, 3, 4, 5, 6];
const WORKDAYS = [1, 2, 3, 4, 5];
const WEEKEND = [0, 6];

/** @param {Date} date @param {number} days local midnight, so many days on */
const plus = (date, days) => new Date(date.getFullYear(), date.getMonth(), date.getDate() + days);
const pad = (/** @type {number} */ n) => String(n).padStart(2, '0');
/** @param {Date} d */
export const isoDay = (d) => `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
/** @param {string} iso @param {string} [time] */
export function localDate(iso, time = '00:00') {
  const [y, m, d] = iso.split('-').map(Number);
  const [hh, mm] = time.split(':').map(Number);
  return new Date(y, m - 1, d, hh, mm);
}

/**
 * @param {string} day as in tools.json @param {Date} now
 * @returns {{ start: Date, end: Date, repeat?: number[] }} whole local days, end excluded; for a repeating day, its first occurrence
 * @throws {Error} for words that name no day
 */
export function resolveDay(day, now) {
  const today = plus(now, 0);
  const words = day.trim().toLowerCase();
  const span = (/** @type {Date} */ start, days = 1) => ({ start, end: plus(start, days) });
  const onWeekdays = (/** @type {number[]} */ repeat) => {
    let start = today;
    while (!repeat.includes(start.getDay())) start = plus(start, 1);
    return { ...span(start), repeat };
  };
  // Weeks begin on Monday, as in ISO 8601.
  const monday = plus(today, -((today.getDay() + 6) % 7));

  switch (words) {
    case 'today':
      return span(today);
    case 'tomorrow':
      return span(plus(today, 1));
    case 'day after tomorrow':
      return span(plus(today, 2));
    case 'every day':
      return onWeekdays(EVERY_DAY);
    case 'weekdays':
      return onWeekdays(WORKDAYS);
    case 'weekends':
      return onWeekdays(WEEKEND);
    case 'weekend': {
      const end = plus(monday, 7);
      const saturday = plus(monday, 5);
      // biome-ignore lint/complexity/useMathMinMax: these are Dates
      return { start: saturday < today ? today : saturday, end };
    }
    case 'this week':
      return { start: today, end: plus(monday, 7) };
    case 'next week':
      return span(plus(monday, 7), 7);
    case 'this month':
      return { start: today, end: new Date(today.getFullYear(), today.getMonth() + 1, 1) };
    case 'next month':
      return { start: new Date(today.getFullYear(), today.getMonth() + 1, 1), end: new Date(today.getFullYear(), today.getMonth() + 2, 1) };
  }

  const named = /^(next |every )?([a-z]+)$/.exec(words);
  const weekday = named ? WEEKDAYS.indexOf(named[2]) : -1;
  if (named && weekday >= 0) {
    if (named[1] === 'every ') return onWeekdays([weekday]);
    if (named[1] === 'next ') return span(plus(monday, 7 + ((weekday + 6) % 7)));
    return span(plus(today, ((weekday - today.getDay() + 6) % 7) + 1));
  }

  const dated = /^(?:(\d\d)-)?(\d\d)$/.exec(words);
  if (dated) {
    const date = Number(dated[2]);
    // The next month that has this day: 8 years reach past 29 February even around 2100.
    for (let i = 0; i <= 96; i += 1) {
      const first = new Date(today.getFullYear(), today.getMonth() + i, 1);
      if (dated[1] && first.getMonth() + 1 !== Number(dated[1])) continue;
      const d = new Date(first.getFullYear(), first.getMonth(), date);
      if (d.getMonth() === first.getMonth() && d >= today) return span(d);
    }
  }
  throw new Error(`unknown day: ${day}`);
}

/** What is stored for an entry of this day and time. @param {string | undefined} day @param {string | undefined} time @param {Date} now @returns {When} */
export function toWhen(day, time, now) {
  const when = time ? { time } : {};
  if (!day) return when;
  const { start, repeat } = resolveDay(day, now);
  return repeat ? { ...when, repeat } : { ...when, date: isoDay(start) };
}

/** The first moment after `after` at which the entry is due; null for one without a time or a day. @param {When} when @param {Date} after @returns {Date | null} */
export function nextDue(when, after) {
  if (!when.time) return null;
  if (when.repeat) {
    for (let i = 0; i <= 7; i += 1) {
      const day = plus(after, i);
      const due = localDate(isoDay(day), when.time);
      if (when.repeat.includes(day.getDay()) && due > after) return due;
    }
  }
  return when.date ? localDate(when.date, when.time) : null;
}

/** The entry's own day, or for a repeating one the first from that day on. @param {When} when @param {Date} from @returns {string} '' for one without a day */
export function firstDay({ date, repeat }, from) {
  if (!repeat) return date ?? '';
  let day = plus(from, 0);
  while (!repeat.includes(day.getDay())) day = plus(day, 1);
  return isoDay(day);
}

/** Does the entry happen within these days? @param {When} when @param {{ start: Date, end: Date }} range */
export function within(when, { start, end }) {
  if (when.repeat) {
    for (let d = start; d < end; d = plus(d, 1)) if (when.repeat.includes(d.getDay())) return true;
    return false;
  }
  if (!when.date) return false;
  const date = localDate(when.date);
  return date >= start && date < end;
}

/** @param {string} time 'HH:MM' @returns {string} '7:30 AM' */
export function clock(time) {
  const [h, m] = time.split(':').map(Number);
  return `${h % 12 || 12}:${pad(m)} ${h < 12 ? 'AM' : 'PM'}`;
}

/** 'today', 'tomorrow', 'on Friday', 'on December 5', 'on weekdays', 'every Monday'; '' without a day. @param {When} when @param {Date} now */
export function dayPhrase({ date, repeat }, now) {
  if (repeat) {
    const key = repeat.join();
    if (key === EVERY_DAY.join()) return 'every day';
    if (key === WORKDAYS.join()) return 'on weekdays';
    if (key === WEEKEND.join()) return 'on weekends';
    return `every ${repeat.map((d) => capital(WEEKDAYS[d])).join(', ')}`;
  }
  if (!date) return '';
  const d = localDate(date);
  const days = Math.round((d.getTime() - plus(now, 0).getTime()) / 86_400_000);
  if (days === 0) return 'today';
  if (days === 1) return 'tomorrow';
  if (days > 1 && days < 7) return `on ${capital(WEEKDAYS[d.getDay()])}`;
  return `on ${d.toLocaleDateString('en-US', { month: 'long', day: 'numeric', year: d.getFullYear() === now.getFullYear() ? undefined : 'numeric' })}`;
}

/** 'tomorrow at 5:00 PM', '' when neither is set. @param {When} when @param {Date} now */
export const whenPhrase = (when, now) => [dayPhrase(when, now), when.time ? `at ${clock(when.time)}` : ''].filter(Boolean).join(' ');

/** 'Friday, March 14, 2025' @param {Date} d */
export const longDate = (d) => d.toLocaleDateString('en-US', { weekday: 'long', year: 'numeric', month: 'long', day: 'numeric' });

/** '1 hour 5 minutes' @param {number} seconds whole */
export function spoken(seconds) {
  const parts = [
    ['hour', 3600],
    ['minute', 60],
    ['second', 1],
  ].flatMap(([name, size]) => {
    const n = Math.floor(seconds / Number(size));
    seconds -= n * Number(size);
    return n ? [`${n} ${name}${n === 1 ? '' : 's'}`] : [];
  });
  return parts.join(' ') || '0 seconds';
}

const capital = (/** @type {string} */ s) => s[0].toUpperCase() + s.slice(1);

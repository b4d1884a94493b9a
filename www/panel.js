// @ts-check
import { $, h, icon, iconButton } from './dom.js';
import { runningTime } from './cards.js';
import { clock, dayPhrase, whenPhrase } from './tools/days.js';

/** The side panel: everything the assistant keeps for the user, with a way to remove each. @param {import('./tools/things.js').Things} things */
export function thingsPanel(things) {
  const body = $('#things-body');
  const badge = $('#things-count');

  /** @param {import('./tools/things.js').Thing} t @param {string | Node} main @param {string} [detail] */
  const row = (t, main, detail) =>
    h(
      'li',
      {},
      h('div', {}, h('span', {}, main), detail && h('span', { class: 'hint' }, detail)),
      iconButton(
        t.kind === 'reminder' ? 'check' : 'close',
        `${t.kind === 'reminder' ? 'Done' : 'Remove'}: ${t.text ?? t.title ?? t.name ?? t.label ?? t.kind}`,
        () => things.remove(t.id),
      ),
    );
  const section = (/** @type {string} */ title, /** @type {string} */ symbol, /** @type {HTMLElement[]} */ rows) =>
    rows.length ? [h('section', {}, h('h3', {}, icon(symbol), title), h('ul', { class: 'rows' }, ...rows))] : [];

  function paint() {
    const now = new Date();
    const timers = [...things.all('timer'), ...things.all('stopwatch')];
    const sections = [
      ...section(
        'Timers',
        'timer',
        timers.map((t) => row(t, runningTime(t), t.kind === 'stopwatch' ? 'Stopwatch' : t.label)),
      ),
      ...section(
        'Alarms',
        'alarm',
        things
          .all('alarm')
          .map((a) => row(a, clock(/** @type {string} */ (a.time)), [dayPhrase(a, now), a.label].filter(Boolean).join(' · '))),
      ),
      ...section(
        'Reminders',
        'bell',
        things.all('reminder').map((r) => row(r, r.text, whenPhrase(r, now))),
      ),
      ...section(
        'Calendar',
        'calendar',
        things.all('event').map((e) => row(e, e.title, whenPhrase(e, now))),
      ),
      ...things.all('list').flatMap((l) =>
        section(
          l.name,
          'list',
          l.items.length
            ? l.items.map((/** @type {string} */ item, /** @type {number} */ i) =>
                h(
                  'li',
                  {},
                  h('div', {}, item),
                  iconButton('check', `Done: ${item}`, () => things.update(l.id, { items: l.items.toSpliced(i, 1) })),
                ),
              )
            : [row(l, h('span', { class: 'hint' }, 'Empty list'))],
        ),
      ),
      ...section(
        'Notes',
        'note',
        things.all('note').map((n) => row(n, n.text)),
      ),
    ];
    body.replaceChildren(
      ...(sections.length
        ? sections
        : [
            h(
              'p',
              { class: 'hint empty' },
              'Timers, alarms, reminders, events, lists and notes appear here once you ask for them. They stay in this browser.',
            ),
          ]),
    );
    const rings = timers.length + things.all('alarm').length;
    badge.textContent = rings ? String(rings) : '';
    badge.hidden = rings === 0;
    $('#things-button').setAttribute('aria-label', rings ? `Your things, ${rings} running` : 'Your things');
    askToNotify();
  }

  function askToNotify() {
    const wanted =
      'Notification' in window &&
      Notification.permission === 'default' &&
      ['timer', 'alarm', 'reminder'].some((k) => things.all(/** @type {any} */ (k)).length);
    $('#notify').hidden = !wanted;
  }
  $('#notify button').addEventListener('click', async () => {
    await Notification.requestPermission();
    askToNotify();
  });

  things.addEventListener('change', paint);
  paint();
}

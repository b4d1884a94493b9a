// @ts-check
import { $, announce, h, icon, toast } from './dom.js';
import { callChecker, trainedErrors } from './tools/calls.js';
import { handlers, randomBelow } from './tools/handlers.js';
import { perform, performAll } from './tools/perform.js';
import { Things } from './tools/things.js';
import { zoneIndex } from './tools/zones.js';
import { Chat, isSubmit, scrollDown } from './chat.js';
import { startClock } from './clock.js';
import { completionView } from './completion.js';
import { MobileLLM } from './engine.js';
import { bytes, explain } from './format.js';
import { DEMO, Models, modelsPanel, progressView } from './models.js';
import { thingsPanel } from './panel.js';
import { offerThreads, registerShell } from './pwa.js';
import { settingsPanel } from './settings.js';
import { beep } from './sound.js';
import { openStore } from './store.js';

/** Of a list the first is said, and each of the others is offered once the one before it is answered. @type {(string | string[])[]} */
const SUGGESTIONS = [
  ['wake me at 6:30 tomorrow', 'make it 7 instead', 'and on friday too'],
  'remind me to call the plumber tomorrow at 10 and add tape to the hardware list',
  'set a timer for 12 minutes',
  'add oat milk and eggs to my shopping list',
  "what's 15% of 240",
  'how many miles is 5 km',
  'what time is it in Tokyo?',
  'what can you do?',
];
const SNOOZE_S = 300;

const json = async (/** @type {string} */ path) => {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  return response.json();
};

async function main() {
  const store = await openStore();
  if (!store.lasting)
    toast('This window keeps nothing', {
      detail: 'The browser forbids storage here: lists, alarms and the conversation are gone once it closes.',
    });
  const settings = await settingsPanel(store);
  let volume = (await store.get('volume')) ?? 70;
  const things = new Things(store.disk, {
    theme: { get: () => (isDark() ? 'dark' : 'light'), set: setTheme },
    volume: {
      get: () => volume,
      set(level) {
        volume = level;
        void store.set('volume', level);
      },
    },
  });
  await things.load();
  const [tools, zones] = await Promise.all([json('models/demo/tools.json'), json('vendor/zones.json')]);

  const doers = handlers({ things, now: () => new Date(), findZone: zoneIndex(zones), random: randomBelow });
  const check = callChecker(tools);
  const explains = trainedErrors(tools);
  const models = new Models();
  models.options = { ...models.options, ...(await store.get('load-options')) };

  const chat = new Chat({
    models,
    store,
    things,
    settings,
    tools,
    explains,
    performAll: (calls) => performAll(calls, (call) => perform(call, check, doers, things), things),
  });
  models.leave = () => Promise.all([chat.stop(), completion.stop()]);
  settings.onSystem = () => void chat.renew();
  const completion = completionView({ models, store, settings });
  const panel = modelsPanel(models, store);
  thingsPanel(things);
  startClock(things, (ring) => showRing(ring, things, () => volume));
  shareThings(things);
  things.addEventListener('unwritten', (e) =>
    toast('Could not save', { kind: 'error', detail: explain(/** @type {CustomEvent} */ (e).detail).message }),
  );

  header(models, panel, chat, things);
  const sendQueued = composer(models, chat);
  $('#loading').append(progressView(models));
  dialogs();

  models.addEventListener('model', async () => {
    const { llm, source } = models;
    if (source && source.kind !== 'files') void store.set('source', { ...source, token: undefined });
    await settings.use(models.isDemo ? 'demo' : 'other');
    const { chat: chats } = llm.info;
    $('#chat-view').hidden = !chats;
    $('#completion-view').hidden = chats;
    $('#clear-button').hidden = !chats;
    await chat.open();
    if (!chats) await completion.open();
    sendQueued();
    emptyText(models);
    announce(`${source?.name} is ready on ${llm.info.device === 'webgpu' ? 'WebGPU' : 'the CPU'}.`);
    if (llm.info.device === 'cpu' && llm.info.threads === 1) void offerThreads();
  });
  models.addEventListener('device', (e) => {
    const { type, message } = /** @type {CustomEvent} */ (e).detail;
    const titles = {
      fallback: 'Running elsewhere now',
      devicelost: 'The graphics device was lost',
      restored: 'The graphics device is back',
      warning: 'Note',
    };
    toast(/** @type {any} */ (titles)[type], { detail: message });
  });

  void firstVisit();
  void registerShell();
  await start(models, panel, store);
}

/** The last model if it needs no large download that nobody asked for, else the demo that comes with the page. @param {Models} models @param {{ open(): void }} panel @param {import('./store.js').Store} store */
async function start(models, panel, store) {
  const last = await store.get('source');
  if (last && last.kind !== 'demo') {
    const state = await MobileLLM.availability(last.value).catch(() => 'unavailable');
    if (state === 'cached') return models.load(last);
  }
  if (/** @type {any} */ (navigator).connection?.saveData && (await MobileLLM.availability(DEMO.value)) !== 'cached') return panel.open();
  await models.load(DEMO);
}

/** Says what this page downloads before its first answer. */
async function firstVisit() {
  const parts = Object.entries(/** @type {Record<string, { bytes: number }>} */ (await json('first-visit.json')));
  const total = parts.reduce((sum, [, part]) => sum + part.bytes, 0);
  $('#first-visit').textContent =
    `A first visit downloads ${bytes(total)} (${parts.map(([name, part]) => `${name} ${bytes(part.bytes)}`).join(', ')}), less where the host compresses; after that it works offline.`;
}

/** @param {Models} models */
function emptyText(models) {
  const info = models.llm?.info;
  $('#empty-text').textContent =
    models.isDemo || !info
      ? 'A language model of 13.8 million parameters that lives in this page. It sets alarms and timers, keeps lists, notes and a calendar, does sums and units. It knows no facts.'
      : `${models.source?.name} runs in this page. Small models make things up: check what matters.`;
  $('#first-visit').hidden = Boolean(info) && !models.isDemo;
  $('#suggestions').hidden = Boolean(info) && !models.isDemo;
}

/** @param {Models} models @param {{ open(): void }} panel @param {Chat} chat @param {Things} things */
function header(models, panel, chat, things) {
  const paint = () => {
    const { llm, state, pending, source, progress } = models;
    const percent = progress?.totalBytes ? ` ${Math.floor((100 * progress.loadedBytes) / progress.totalBytes)} %` : '';
    const device = llm && (llm.info.device === 'webgpu' ? 'WebGPU' : 'CPU');
    $('#model-chip').textContent =
      state === 'loading'
        ? `Loading${percent}`
        : state === 'failed'
          ? 'Could not load'
          : state === 'paused'
            ? 'Paused'
            : (source?.name ?? 'No model');
    $('#device-chip').textContent = state === 'idle' && device ? device : '';
    const button = $('#model-button');
    button.dataset.state = state === 'idle' ? (llm ? 'ready' : 'none') : state;
    button.title =
      llm && state === 'idle'
        ? [`${source?.name} on ${device}`, llm.info.adapter, llm.info.reason].filter(Boolean).join('\n')
        : (pending?.name ?? 'Choose a model');
    $('#send').disabled = !llm && state !== 'loading';
    $('#prompt').placeholder = llm
      ? models.isDemo
        ? 'Ask for a timer, a list, a sum …'
        : 'Write a message'
      : state === 'loading'
        ? 'The model is loading …'
        : 'Load a model first';
  };
  for (const event of ['state', 'progress', 'model']) models.addEventListener(event, paint);
  paint();

  $('#model-button').addEventListener('click', panel.open);
  $('#settings-button').addEventListener('click', () => $('#settings').showModal());
  $('#clear-button').addEventListener('click', async () => {
    await chat.clear();
    $('#prompt').focus();
  });
  $('#theme-button').addEventListener('click', () => things.adjust('theme', isDark() ? 'light' : 'dark'));
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paintTheme);
  paintTheme();
}

const isDark = () =>
  (document.documentElement.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';

/** @param {'dark' | 'light'} theme */
function setTheme(theme) {
  // The system's own theme needs no choice: following it again is one press away.
  const system = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
  const { dataset } = document.documentElement;
  if (theme === system) delete dataset.theme;
  else dataset.theme = theme;
  try {
    localStorage.setItem('theme', dataset.theme ?? '');
  } catch {
    // Storage is forbidden: the choice lasts as long as the page.
  }
  paintTheme();
}
function paintTheme() {
  const button = $('#theme-button');
  button.replaceChildren(icon(isDark() ? 'sun' : 'moon'));
  button.title = isDark() ? 'Light theme' : 'Dark theme';
  button.setAttribute('aria-label', button.title);
  const chosen = document.documentElement.dataset.theme;
  for (const meta of document.querySelectorAll('meta[name=theme-color]')) {
    const own = meta.getAttribute('media')?.includes('dark') ? 'dark' : 'light';
    meta.setAttribute('content', (chosen ?? own) === 'dark' ? '#16181b' : '#f7f7f5');
  }
}

/** @param {Models} models @param {Chat} chat @returns {() => void} sends what was entered while the model was loading */
function composer(models, chat) {
  const form = $('#composer');
  const prompt = $('#prompt');
  const scroll = $('#scroll');
  const hint = $('#composer-hint');
  const usual = hint.textContent;
  let queued = false;
  /** The suggestion that was pressed: its turns. */
  let next = /** @type {string[]} */ ([]);
  const queue = (/** @type {boolean} */ on) => {
    queued = on;
    hint.textContent = on ? 'Will be sent once the model is ready.' : usual;
    if (on) announce(hint.textContent);
  };
  form.addEventListener('submit', (/** @type {Event} */ e) => {
    e.preventDefault();
    const text = prompt.value.trim();
    if (!text || chat.busy) return;
    if (!models.llm) return queue(models.state === 'loading');
    prompt.value = '';
    chat.send(text, text === next[0] ? next.slice(1) : []);
    next = [];
    prompt.focus();
  });
  prompt.addEventListener('input', () => queued && queue(false));
  prompt.addEventListener('keydown', (/** @type {KeyboardEvent} */ e) => {
    if (isSubmit(e)) e.preventDefault(), form.requestSubmit();
    if (e.key === 'ArrowUp' && prompt.value === '') e.preventDefault(), chat.editLast();
  });
  addEventListener('keydown', (e) => {
    if (e.key === 'Escape' && chat.busy && !document.querySelector('dialog:modal')) void chat.stop();
  });
  $('#stop').addEventListener('click', () => {
    void chat.stop();
    prompt.focus();
  });
  $('#suggestions').append(
    ...SUGGESTIONS.map((one) => [one].flat()).map((turns) =>
      h(
        'li',
        {},
        h(
          'button',
          {
            type: 'button',
            class: 'suggestion',
            onclick: () => {
              next = turns;
              prompt.value = turns[0];
              prompt.focus();
              form.requestSubmit();
            },
          },
          turns[0],
          turns.length > 1 &&
            h(
              'span',
              { class: 'hint' },
              `then ${turns
                .slice(1)
                .map((t) => `“${t}”`)
                .join(', ')}`,
            ),
        ),
      ),
    ),
  );
  emptyText(models);

  scroll.addEventListener(
    'scroll',
    () => {
      const held = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight > 200;
      scroll.classList.toggle('held', held);
      $('#to-end').hidden = !held;
    },
    { passive: true },
  );
  $('#to-end').addEventListener('click', () => scrollDown(true));
  if (matchMedia('(pointer: fine)').matches) prompt.focus();

  return () => {
    if (!queued) return;
    queue(false);
    form.requestSubmit();
  };
}

function dialogs() {
  for (const dialog of document.querySelectorAll('dialog')) {
    dialog.querySelector('[data-close]')?.addEventListener('click', () => dialog.close());
    // A press on the backdrop lands on the dialog itself.
    dialog.addEventListener('click', (e) => e.target === dialog && dialog.matches(':modal') && dialog.close());
  }
  const things = $('#things');
  const wide = matchMedia('(min-width: 68rem)');
  const button = $('#things-button');
  const open = () => {
    if (wide.matches) things.show();
    else things.showModal();
    button.setAttribute('aria-expanded', 'true');
  };
  things.addEventListener('close', () => button.setAttribute('aria-expanded', 'false'));
  button.addEventListener('click', () => (things.open ? things.close() : open()));
  wide.addEventListener('change', () => things.close());
}

/** @param {import('./clock.js').Ring} ring @param {Things} things @param {() => number} volume */
function showRing({ title, text, late, thing }, things, volume) {
  const silence = late ? () => {} : beep(volume());
  const end = () => {
    silence();
    document.title = 'MobileLLM in your browser';
  };
  document.title = `🔔 ${title}`;
  const close = toast(title, {
    kind: 'ring',
    detail: late ? `${text} It came due while this page was closed or asleep.` : text,
    actions: [
      [
        'Snooze 5 min',
        () => things.add('timer', { seconds: SNOOZE_S, label: thing.label ?? thing.text, endsAt: Date.now() + SNOOZE_S * 1000 }),
      ],
      ...(thing.kind === 'reminder' && !thing.repeat
        ? [/** @type {[string, () => void]} */ (['Done', () => things.remove(thing.id)])]
        : []),
    ],
    onclose: end,
  });
  if (document.hidden && 'Notification' in window && Notification.permission === 'granted') void notify(title, text, close);
}

/** Android allows notifications only through a service worker. @param {string} title @param {string} body @param {() => void} close */
async function notify(title, body, close) {
  const options = { body, icon: 'icons/icon-192.png', tag: title };
  const registration = await navigator.serviceWorker?.getRegistration();
  if (registration?.active) return registration.showNotification(title, options);
  new Notification(title, options).onclick = () => (window.focus(), close());
}

/** Other tabs read again what this one wrote. @param {Things} things */
function shareThings(things) {
  const channel = new BroadcastChannel('mobilellm-things');
  things.addEventListener('written', () => channel.postMessage('changed'));
  channel.onmessage = () => void things.load();
}

main().catch((error) => {
  const { message, remedy } = explain(error);
  toast('The page could not start', { kind: 'error', detail: `${message} ${remedy}` });
});

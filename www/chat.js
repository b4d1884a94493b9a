// @ts-check
import { $, announce, h, icon, iconButton, toast } from './dom.js';
import { card, titleOf } from './cards.js';
import { explain, runFacts } from './format.js';
import { markdown } from './markdown.js';
import { toMessages, toolMessages } from './conversation.js';

/**
 * @typedef {import('./conversation.js').Turn} Turn
 * @typedef {import('./conversation.js').Step} Step
 */

/** A model that calls and calls is stopped here. */
const MAX_STEPS = 6;
/** At this share of the context the oldest half of the conversation is left out of what the model sees. */
const FULL = 0.8;
/** Greedy decoding would give the same answer again. */
const REGENERATE_TEMPERATURE = 0.8;

export class Chat {
  /** @type {Turn[]} */ turns = [];
  /** Turns before this one are no longer shown to the model. */ #from = 0;
  /** @type {any} */ #session = null;
  /** How many turns the session has seen. */ #seen = 0;
  /** Messages that the session has yet to be told with the next one: results after a failure or a stop. @type {any[]} */ #owed = [];
  /** The session before each turn, to go back to. @type {Map<Turn, { length: number, owed: any[] }>} */ #marks = new Map();
  /** The reply in progress. @type {{ run: any, stopped: boolean } | null} */ #current = null;
  /** @type {Promise<void>} */ #running = Promise.resolve();
  /** @type {Map<Turn, HTMLElement>} */ #views = new Map();
  #dirty = false;
  #log = $('#log');
  #deps;

  /**
   * @param {{ models: import('./models.js').Models, store: import('./store.js').Store, things: import('./tools/things.js').Things, settings: any,
   *           tools: any[], perform(call: any): any, explains(name: string, error: string): boolean }} deps
   */
  constructor(deps) {
    this.#deps = deps;
  }

  get busy() {
    return this.#current !== null;
  }

  /** Shows the conversation kept for the loaded model; a new device or a new system prompt keeps it too. */
  async open() {
    await this.stop();
    this.#drop();
    const kept = await this.#deps.store.get(this.#key);
    this.turns = kept?.turns ?? [];
    this.#from = kept?.from ?? 0;
    this.#paintAll();
    this.#meter();
  }

  /** Ends the running reply; what was said so far stays. */
  async stop() {
    if (this.#current) {
      this.#current.stopped = true;
      this.#current.run?.stop();
    }
    await this.#running;
  }

  /** The next message starts from a fresh session (after a change of the system prompt). */
  async renew() {
    await this.stop();
    this.#drop();
  }

  /** @param {string} text */
  send(text) {
    /** @type {Turn} */
    const turn = { user: text, steps: [], runs: [] };
    this.turns.push(turn);
    this.#append(turn);
    this.#answer(turn);
  }

  /** @param {Turn} turn */
  regenerate(turn) {
    const { temperature } = this.#deps.settings.sampling();
    this.#rewind(turn);
    this.turns.push(turn);
    turn.warmth = temperature === 0 ? REGENERATE_TEMPERATURE : undefined;
    this.#append(turn);
    this.#answer(turn);
  }

  /** @param {Turn} turn @param {string} text */
  resend(turn, text) {
    this.#rewind(turn);
    this.send(text);
  }

  async clear() {
    await this.stop();
    this.#drop();
    const before = { turns: this.turns, from: this.#from, key: this.#key };
    this.turns = [];
    this.#from = 0;
    this.#paintAll();
    this.#meter();
    this.#save();
    if (before.turns.length === 0) return;
    toast('Conversation cleared', { seconds: 8, actions: [['Undo', () => {
      // A conversation begun since, or another model's, is not replaced.
      if (this.turns.length || this.#key !== before.key) return;
      this.turns = before.turns;
      this.#from = before.from;
      this.#paintAll();
      this.#save();
    }]] });
  }

  /** Opens the editor of the last message. */
  editLast() {
    const turn = this.turns.at(-1);
    if (turn) this.#edit(turn);
  }

  get #key() {
    return `chat:${this.#deps.models.id}`;
  }

  #save() {
    void this.#deps.store.set(this.#key, { turns: this.turns, from: this.#from });
  }

  #drop() {
    this.#session?.close();
    this.#session = null;
    this.#seen = 0;
    this.#owed = [];
    this.#marks.clear();
  }

  /** Takes a turn and all after it out of the conversation, with what their calls did. @param {Turn} turn */
  #rewind(turn) {
    const at = this.turns.indexOf(turn);
    const gone = this.turns.splice(at);
    for (const t of gone) {
      this.#views.get(t)?.remove();
      this.#views.delete(t);
    }
    const undone = gone.flatMap((t) => t.steps).flatMap((s) => s.calls).reverse()
      .reduce((n, c) => n + (c.changes && !c.undone ? this.#deps.things.undo(c.changes) : 0), 0);
    if (undone) toast('Took back what the replaced reply had done', { detail: `${undone} change${undone === 1 ? '' : 's'} undone.` });
    if (at < this.#from) this.#from = 0;
    const mark = this.#marks.get(turn);
    if (this.#session && mark) {
      this.#session.truncate(mark.length);
      this.#owed = mark.owed;
      this.#seen = at;
    } else this.#drop();
    this.#markForgotten();
  }

  /** @param {Turn} turn */
  #answer(turn) {
    this.#running = this.#run(turn);
  }

  /** @param {Turn} turn */
  async #run(turn) {
    const { settings, models } = this.#deps;
    const current = (this.#current = { run: /** @type {any} */ (null), stopped: false });
    Object.assign(turn, { steps: [], runs: [], finish: undefined, error: undefined });
    this.#busy(true);
    try {
      const session = await this.#open(turn);
      this.#marks.set(turn, { length: session.messages.length, owed: this.#owed });
      this.#owed = [...this.#owed, { role: 'user', content: turn.user }];
      for (let i = 0; i < MAX_STEPS && !current.stopped; i += 1) {
        /** @type {Step} */
        const step = { text: '', calls: [] };
        turn.steps.push(step);
        const options = { ...settings.sampling(), ...(turn.warmth === undefined ? {} : { temperature: turn.warmth }) };
        const run = (current.run = session.send(this.#owed, options));
        for await (const chunk of run) {
          step.text += chunk.text;
          this.#paintSoon(turn);
        }
        const result = await run.result;
        this.#owed = [];
        // What was left of a call when it was stopped is no text to show.
        if (result.finishReason !== 'abort') step.text = result.text;
        turn.runs.push({ usage: result.usage, timings: result.timings });
        turn.finish = result.finishReason;
        step.calls = (result.toolCalls ?? []).map((/** @type {any} */ c) => ({ name: c.name, arguments: c.arguments }));
        if (step.calls.length === 0) break;
        for (const call of step.calls) Object.assign(call, this.#deps.perform(call));
        this.#owed = toolMessages(step.calls);
        this.#paintSoon(turn);
        const unexplained = step.calls.filter((c) => c.ok === false && !this.#deps.explains(c.name, c.result.error));
        if (unexplained.length) {
          turn.steps.push({ text: unexplained.map(failure).join('\n\n'), calls: [] });
          break;
        }
      }
      if (current.stopped) turn.finish = 'abort';
      this.#seen = this.turns.indexOf(turn) + 1;
      if (turn.finish === 'context') this.#forgetHalf();
    } catch (error) {
      this.#drop();
      turn.error = explain(error);
      if (turn.error.code === 'context-overflow') this.#forgetHalf();
    } finally {
      this.#current = null;
      turn.steps = turn.steps.filter((s) => s.text || s.calls.length);
      this.#busy(false);
      this.#paint(turn);
      this.#meter();
      if (models.llm) this.#save();
      this.#speak(turn);
    }
  }

  /** The session that has seen everything before this turn. @param {Turn} turn */
  async #open(turn) {
    const { models, settings, tools } = this.#deps;
    const before = this.turns.indexOf(turn);
    if (this.#session && this.#used() > FULL * models.llm.info.contextLength) this.#forgetHalf(before);
    if (this.#session && this.#seen === before) return this.#session;
    this.#drop();
    const system = settings.system();
    this.#session = await models.llm.session({
      ...(system && { system }),
      ...(models.isDemo && { tools }),
      messages: toMessages(this.turns.slice(this.#from, before)),
    });
    return this.#session;
  }

  /** Leaves the older half of what the model sees out of the next session. */
  #forgetHalf(before = this.turns.length - 1) {
    this.#from += Math.max(1, Math.ceil((before - this.#from) / 2));
    this.#from = Math.min(this.#from, Math.max(before, 0));
    this.#drop();
    this.#markForgotten();
  }

  #used() {
    return this.#session?.contextUsage.used ?? 0;
  }

  #meter() {
    const total = this.#deps.models.llm?.info.contextLength ?? 0;
    const used = this.#used();
    const meter = $('#context-meter');
    meter.max = total || 1;
    meter.high = total * FULL;
    meter.value = used;
    $('#context-text').textContent = total ? `${used.toLocaleString('en')} / ${total.toLocaleString('en')} tokens of context` : '';
  }

  /** @param {boolean} on */
  #busy(on) {
    $('#composer').classList.toggle('busy', on);
    this.#log.setAttribute('aria-busy', String(on));
    $('#send').hidden = on;
    $('#stop').hidden = !on;
    for (const button of this.#log.querySelectorAll('.turn-actions button')) button.disabled = on;
  }

  /** @param {Turn} turn */
  #speak(turn) {
    if (turn.error) return announce(`Error: ${turn.error.message} ${turn.error.remedy}`);
    const calls = turn.steps.flatMap((s) => s.calls).map((c) => `${titleOf(c.name)}: ${c.ok ? 'done' : 'failed'}.`);
    announce([...calls, turn.steps.at(-1)?.text ?? '', turn.finish === 'abort' ? 'Stopped.' : ''].join(' '));
  }

  #paintAll() {
    this.#views.clear();
    this.#log.replaceChildren();
    for (const turn of this.turns) this.#append(turn);
    this.#markForgotten();
    $('#empty').hidden = this.turns.length > 0;
  }

  /** @param {Turn} turn */
  #append(turn) {
    $('#empty').hidden = true;
    const view = h('article', { class: 'turn' });
    this.#views.set(turn, view);
    this.#log.append(view);
    this.#paint(turn);
    scrollDown(true);
  }

  #markForgotten() {
    for (const el of this.#log.querySelectorAll('.forgotten')) el.remove();
    const first = this.turns[this.#from];
    if (this.#from > 0) this.#views.get(first)?.before(h('p', { class: 'forgotten' }, 'The model no longer sees what is above: its context was full.'));
  }

  /** At most one repaint a frame, however fast the tokens come. @param {Turn} turn */
  #paintSoon(turn) {
    if (this.#dirty) return;
    this.#dirty = true;
    requestAnimationFrame(() => {
      this.#dirty = false;
      if (this.busy) this.#paint(turn);
    });
  }

  /** @param {Turn} turn */
  #paint(turn) {
    const view = this.#views.get(turn);
    if (!view) return;
    const running = this.busy && turn === this.turns.at(-1);
    const focused = view.contains(document.activeElement);
    const stick = atBottom();
    const text = turn.steps.map((s) => s.text).filter(Boolean).join('\n\n');
    const cut = { length: 'Cut at the longest reply set in the settings.', context: 'Cut: the context is full. The next reply sees only the newer half of the conversation.', abort: 'Stopped.' }[turn.finish ?? ''];
    const facts = [...runFacts(turn.runs), turn.warmth !== undefined && `temperature ${turn.warmth}`].filter(Boolean);

    view.replaceChildren(
      h('div', { class: 'message user' }, h('h2', { class: 'sr-only' }, 'You'), h('div', { class: 'bubble' }, turn.user),
        h('div', { class: 'turn-actions' },
          iconButton('edit', 'Edit and resend', () => this.#edit(turn)),
          iconButton('copy', 'Copy your message', () => copy(turn.user)))),
      h('div', { class: 'message assistant' }, h('h2', { class: 'sr-only' }, 'Assistant'),
        ...turn.steps.flatMap((step) => [
          ...step.calls.map((call) => card(call, this.#deps.things, { undo: () => this.#undo(turn, call) })),
          step.text && h('div', { class: 'prose' }, /** @type {any} */ (markdown(step.text, copy))),
        ]),
        running && !turn.steps.at(-1)?.text && h('div', { class: 'thinking', role: 'img', 'aria-label': 'The model is working' }, h('span'), h('span'), h('span')),
        turn.error && h('div', { class: 'error-box' }, icon('warning'), h('div', {}, h('strong', {}, turn.error.message), turn.error.remedy && h('p', {}, turn.error.remedy))),
        cut && !running && h('p', { class: 'hint' }, cut),
        !running && h('div', { class: 'turn-actions' },
          text && iconButton('copy', 'Copy reply', () => copy(text)),
          iconButton('retry', turn.error ? 'Try again' : 'Regenerate', () => this.regenerate(turn)),
          facts.length > 0 && h('span', { class: 'facts' }, facts.join(' · ')))),
    );
    if (this.busy) for (const button of view.querySelectorAll('.turn-actions button')) /** @type {HTMLButtonElement} */ (button).disabled = true;
    if (focused && !view.contains(document.activeElement)) $('#prompt').focus();
    if (stick) scrollDown();
  }

  /** @param {Turn} turn @param {import('./cards.js').CallState} call */
  #undo(turn, call) {
    if (this.#deps.things.undo(call.changes ?? [])) call.undone = true;
    this.#paint(turn);
    this.#save();
  }

  /** @param {Turn} turn */
  #edit(turn) {
    if (this.busy) return;
    const bubble = this.#views.get(turn)?.querySelector('.message.user');
    if (!bubble) return;
    const area = h('textarea', { rows: 2, 'aria-label': 'Edit your message', value: turn.user });
    const close = () => (this.#paint(turn), $('#prompt').focus());
    const form = h('form', {
      class: 'editor',
      onsubmit: (/** @type {Event} */ e) => {
        e.preventDefault();
        if (area.value.trim() && this.#deps.models.llm) this.resend(turn, area.value.trim());
        $('#prompt').focus();
      },
      onkeydown: (/** @type {KeyboardEvent} */ e) => {
        if (e.key === 'Escape') close();
        if (isSubmit(e)) (e.preventDefault(), form.requestSubmit());
      },
    }, area, h('div', { class: 'editor-actions' },
      h('button', { type: 'button', class: 'small', onclick: close }, 'Cancel'),
      h('button', { type: 'submit', class: 'small primary' }, 'Send')));
    bubble.replaceChildren(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** The page's own words. @param {import('./cards.js').CallState} call */
const failure = (call) => `Sorry, that did not work: ${call.result.error}${call.note ? ` (${call.note.replace(/\.$/, '')})` : ''}.`;

/** Enter sends, Shift+Enter breaks the line; Enter that ends an input-method composition does neither. @param {KeyboardEvent} e */
export const isSubmit = (e) => e.key === 'Enter' && !e.shiftKey && !e.isComposing;

/** @param {string} text */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast('Copied', { seconds: 2 });
  } catch (error) {
    toast('Could not copy', { kind: 'error', detail: explain(error).message });
  }
}

const scroller = () => $('#scroll');
function atBottom() {
  const { scrollHeight, scrollTop, clientHeight } = scroller();
  return scrollHeight - scrollTop - clientHeight < 80;
}
export function scrollDown(always = false) {
  if (always || !scroller().matches('.held')) scroller().scrollTop = scroller().scrollHeight;
}

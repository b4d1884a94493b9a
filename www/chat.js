// @ts-check
import { $, announce, h, icon, iconButton, toast } from './dom.js';
import { card, groupTitle } from './cards.js';
import { explain, runFacts } from './format.js';
import { markdown } from './markdown.js';
import { firstSeen, hasBrokenCall, toMessages, toolMessages } from './conversation.js';
import { changesOf, failureText } from './tools/perform.js';

/**
 * @typedef {import('./conversation.js').Turn} Turn
 * @typedef {import('./conversation.js').Step} Step
 */

/** A model that calls and calls is stopped here. */
const MAX_STEPS = 6;
/** At this share of the context the meter changes colour. */
const NEARLY_FULL = 0.8;
/** Control tokens around a message and before its answer. */
const MARKERS = 8;
/** The page's words for an answer that cannot be carried out. */
const BROKEN_CALL = 'Sorry, I began something there that cannot be carried out, so nothing of it was done. Please say it another way.';
/** Greedy decoding would give the same answer again. */
const REGENERATE_TEMPERATURE = 0.8;

export class Chat {
  /** @type {Turn[]} */ turns = [];
  /** Turns before this one are no longer shown to the model. */ #from = 0;
  /** @type {any} */ #session = null;
  /** How many turns the session has seen. */ #seen = 0;
  /** Messages that the session has yet to be told with the next one: results after a failure or a stop. @type {any[]} */ #owed = [];
  /** The session before each turn, to go back to. @type {Map<Turn, { length: number, owed: any[] }>} */ #marks = new Map();
  /** The reply in progress. @type {{ run: any, stopped: boolean, fits: boolean } | null} */ #current = null;
  /** @type {Promise<void>} */ #running = Promise.resolve();
  /** @type {Map<Turn, HTMLElement>} */ #views = new Map();
  #dirty = false;
  #log = $('#log');
  #deps;

  /**
   * @param {{ models: import('./models.js').Models, store: import('./store.js').Store, things: import('./tools/things.js').Things, settings: any,
   *           tools: any[], performAll(calls: any[]): import('./cards.js').CallState[], explains(name: string, error: string): boolean }} deps
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

  /** @param {string} text @param {string[]} [next] what to try afterwards, one after the other */
  send(text, next = []) {
    /** @type {Turn} */
    const turn = { user: text, steps: [], runs: [], ...(next.length && { next }) };
    const before = this.turns.at(-1);
    this.turns.push(turn);
    this.#append(turn);
    if (before?.next) this.#paint(before);
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
    toast('Conversation cleared', {
      seconds: 8,
      actions: [
        [
          'Undo',
          () => {
            // A conversation begun since, or another model's, is not replaced.
            if (this.turns.length || this.#key !== before.key) return;
            this.turns = before.turns;
            this.#from = before.from;
            this.#paintAll();
            this.#save();
          },
        ],
      ],
    });
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
    const undone = gone
      .flatMap((t) => t.steps)
      .flatMap((s) => changesOf(s.calls))
      .reverse()
      .reduce((n, calls) => n + this.#takeBack(calls), 0);
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
    const { models } = this.#deps;
    const current = (this.#current = { run: /** @type {any} */ (null), stopped: false, fits: /** @type {boolean} */ (true) });
    Object.assign(turn, { steps: [], runs: [], finish: undefined, error: undefined, tokens: undefined, dropped: undefined });
    this.#busy(true);
    try {
      current.fits = await this.#makeRoom(turn);
      const session = await this.#open(turn);
      this.#marks.set(turn, { length: session.messages.length, owed: this.#owed });
      this.#owed = [...this.#owed, { role: 'user', content: turn.user }];
      for (let i = 0; i < MAX_STEPS && !current.stopped; i += 1) {
        /** @type {Step} */
        const step = { text: '', calls: [] };
        turn.steps.push(step);
        const result = await this.#say(turn, step, current);
        this.#owed = [];
        turn.runs.push({ usage: result.usage, timings: result.timings });
        turn.finish = result.finishReason;
        const stopped = result.finishReason === 'abort';
        // What was left of a call when it was stopped is no text to show.
        if (!stopped) step.text = result.text;
        if (!stopped && models.isDemo && hasBrokenCall(result)) {
          step.text = BROKEN_CALL;
          this.#drop();
          break;
        }
        const calls = (result.toolCalls ?? []).map((/** @type {any} */ c) => ({ name: c.name, arguments: c.arguments }));
        if (calls.length === 0) break;
        step.calls = this.#deps.performAll(calls);
        this.#owed = toolMessages(step.calls);
        this.#paintSoon(turn);
        const failure = failureText(step.calls, this.#deps.explains);
        if (failure) {
          turn.steps.push({ text: failure, calls: [] });
          // The session that the next turn opens has these words as the model's own.
          this.#drop();
          break;
        }
      }
      if (current.stopped) turn.finish = 'abort';
      if (this.#session) {
        this.#seen = this.turns.indexOf(turn) + 1;
        turn.tokens = this.#used() - this.#before(turn).reduce((sum, t) => sum + (t.tokens ?? 0), 0);
      }
    } catch (error) {
      this.#drop();
      turn.error = explain(error);
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

  /**
   * One run of the model on what it is owed. If that does not fit behind the turns before, it is run again without them.
   * @param {Turn} turn @param {Step} step @param {{ run: any, stopped: boolean, fits: boolean }} current
   */
  async #say(turn, step, current) {
    const options = { ...this.#deps.settings.sampling(), ...(turn.warmth === undefined ? {} : { temperature: turn.warmth }) };
    for (;;) {
      const last = !current.fits || this.#before(turn).length === 0;
      try {
        const run = (current.run = this.#session.send(this.#owed, options));
        for await (const chunk of run) {
          step.text += chunk.text;
          this.#paintSoon(turn);
        }
        const result = await run.result;
        if (result.finishReason !== 'context' || last) return result;
      } catch (error) {
        if (last || explain(error).code !== 'context-overflow') throw error;
      }
      step.text = '';
      this.#forget(turn, this.turns.indexOf(turn));
      const said = toMessages([{ ...turn, steps: turn.steps.slice(0, -1) }]);
      const owed = said.length - 1 - said.findLastIndex((m) => m.role === 'assistant');
      await this.#begin(said.slice(0, -owed));
      this.#owed = said.slice(-owed);
    }
  }

  /** The session that has seen everything before this turn. @param {Turn} turn */
  async #open(turn) {
    if (!this.#session || this.#seen !== this.turns.indexOf(turn)) {
      this.#drop();
      await this.#begin(toMessages(this.#before(turn)));
    }
    return this.#session;
  }

  /** @param {any[]} messages */
  async #begin(messages) {
    const { models, settings, tools } = this.#deps;
    const system = settings.system();
    this.#session = await models.llm.session({ ...(system && { system }), ...(models.isDemo && { tools }), messages });
  }

  /** The turns before this one that the model still sees. @param {Turn} turn */
  #before(turn) {
    return this.turns.slice(this.#from, this.turns.indexOf(turn));
  }

  /** Leaves the oldest turns out of what the model sees if this one would not fit behind them. @param {Turn} turn @returns {Promise<boolean>} whether it fits at all */
  async #makeRoom(turn) {
    const { models, settings } = this.#deps;
    const { contextLength } = models.llm.info;
    const count = async (/** @type {string} */ text) => (await models.llm.tokenize(text)).length;
    const before = this.turns.slice(0, this.turns.indexOf(turn));
    for (const t of before) t.tokens ??= await count(JSON.stringify(toMessages([t])));
    const reply = Math.min(settings.sampling().maxTokens, contextLength / 4);
    const message = (await count(turn.user + settings.system())) + MARKERS;
    const from = firstSeen(
      before.map((t) => t.tokens ?? 0),
      this.#from,
      contextLength,
      message + reply,
    );
    if (from > this.#from) this.#forget(turn, from);
    return message < contextLength;
  }

  /** The model no longer sees the turns before `from`, and this turn says so. @param {Turn} turn @param {number} from */
  #forget(turn, from) {
    turn.dropped = from;
    this.#from = from;
    this.#drop();
    this.#markForgotten();
  }

  #used() {
    return this.#session?.contextUsage.used ?? 0;
  }

  #meter() {
    const total = this.#deps.models.llm?.info.contextLength ?? 0;
    const used = this.#used() || this.turns.slice(this.#from).reduce((sum, t) => sum + (t.tokens ?? 0), 0);
    const meter = $('#context-meter');
    meter.max = total || 1;
    meter.high = total * NEARLY_FULL;
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
    const calls = turn.steps
      .flatMap((s) => changesOf(s.calls))
      .map((group) => `${groupTitle(group)}: ${group.at(-1)?.ok ? 'done' : 'failed'}.`);
    announce([...calls, turn.steps.at(-1)?.text ?? '', turn.finish === 'abort' ? 'Stopped.' : '', droppedText(turn)].join(' '));
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
    if (this.#from > 0)
      this.#views.get(first)?.before(h('p', { class: 'forgotten' }, 'The model no longer sees what is above: its context was full.'));
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
    const text = turn.steps
      .map((s) => s.text)
      .filter(Boolean)
      .join('\n\n');
    const cut = { length: 'Cut at the longest reply set in the settings.', context: 'Cut: the context is full.', abort: 'Stopped.' }[
      turn.finish ?? ''
    ];
    const facts = [...runFacts(turn.runs), turn.warmth !== undefined && `temperature ${turn.warmth}`].filter(Boolean);

    view.replaceChildren(
      h(
        'div',
        { class: 'message user' },
        h('h2', { class: 'sr-only' }, 'You'),
        h('div', { class: 'bubble' }, turn.user),
        h(
          'div',
          { class: 'turn-actions' },
          iconButton('edit', 'Edit and resend', () => this.#edit(turn)),
          iconButton('copy', 'Copy your message', () => copy(turn.user)),
        ),
      ),
      h(
        'div',
        { class: 'message assistant' },
        h('h2', { class: 'sr-only' }, 'Assistant'),
        ...turn.steps.flatMap((step) => [
          ...changesOf(step.calls).map((calls) => card(calls, this.#deps.things, { undo: () => this.#undo(turn, calls) })),
          step.text && h('div', { class: 'prose' }, /** @type {any} */ (markdown(step.text, copy))),
        ]),
        running &&
          !turn.steps.at(-1)?.text &&
          h('div', { class: 'thinking', role: 'img', 'aria-label': 'The model is working' }, h('span'), h('span'), h('span')),
        turn.error &&
          h(
            'div',
            { class: 'error-box' },
            icon('warning'),
            h('div', {}, h('strong', {}, turn.error.message), turn.error.remedy && h('p', {}, turn.error.remedy)),
          ),
        cut && !running && h('p', { class: 'hint' }, cut),
        droppedText(turn) && h('p', { class: 'hint' }, droppedText(turn)),
        !running &&
          h(
            'div',
            { class: 'turn-actions' },
            text && iconButton('copy', 'Copy reply', () => copy(text)),
            iconButton('retry', turn.error ? 'Try again' : 'Regenerate', () => this.regenerate(turn)),
            facts.length > 0 && h('span', { class: 'facts' }, facts.join(' · ')),
          ),
        !running && turn === this.turns.at(-1) && this.#nextButton(turn),
      ),
    );
    if (this.busy)
      for (const button of view.querySelectorAll('.turn-actions button')) /** @type {HTMLButtonElement} */ (button).disabled = true;
    if (focused && !view.contains(document.activeElement)) $('#prompt').focus();
    if (stick) scrollDown();
  }

  /** @param {Turn} turn */
  #nextButton({ next: [text, ...rest] = [], error }) {
    return (
      text &&
      !error &&
      h(
        'p',
        { class: 'try-next' },
        'Try next',
        h(
          'button',
          {
            type: 'button',
            class: 'suggestion',
            onclick: () => {
              if (!this.busy && this.#deps.models.llm) this.send(text, rest);
              $('#prompt').focus();
            },
          },
          text,
        ),
      )
    );
  }

  /** What one change did, a call or an edit, is undone as a whole. @param {import('./cards.js').CallState[]} calls @returns {number} of things */
  #takeBack(calls) {
    if (calls.some((c) => c.undone)) return 0;
    const undone = this.#deps.things.undo(calls.flatMap((c) => c.changes ?? []));
    if (undone) for (const call of calls) call.undone = true;
    return undone;
  }

  /** @param {Turn} turn @param {import('./cards.js').CallState[]} calls */
  #undo(turn, calls) {
    this.#takeBack(calls);
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
    const form = h(
      'form',
      {
        class: 'editor',
        onsubmit: (/** @type {Event} */ e) => {
          e.preventDefault();
          if (area.value.trim() && this.#deps.models.llm) this.resend(turn, area.value.trim());
          $('#prompt').focus();
        },
        onkeydown: (/** @type {KeyboardEvent} */ e) => {
          if (e.key === 'Escape') close();
          if (isSubmit(e)) e.preventDefault(), form.requestSubmit();
        },
      },
      area,
      h(
        'div',
        { class: 'editor-actions' },
        h('button', { type: 'button', class: 'small', onclick: close }, 'Cancel'),
        h('button', { type: 'submit', class: 'small primary' }, 'Send'),
      ),
    );
    bubble.replaceChildren(form);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}

/** @param {Turn} turn */
const droppedText = ({ dropped: n }) =>
  n ? `The context was full: for this reply the model no longer saw the oldest ${n === 1 ? 'message' : `${n} messages`}.` : '';

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

// @ts-check
import { $, announce, toast } from './dom.js';
import { explain, runFacts } from './format.js';

/** The view for a model without a chat template: one sheet of text that the model continues. @param {{ models: import('./models.js').Models, store: import('./store.js').Store, settings: any }} deps */
export function completionView({ models, store, settings }) {
  const sheet = $('#sheet');
  const go = $('#continue');
  const stop = $('#stop-completion');
  const back = $('#take-back');
  const facts = $('#completion-facts');
  /** @type {any} */ let running = null;
  let done = Promise.resolve();
  /** @type {string | null} */ let before = null;
  const key = () => `sheet:${models.id}`;
  const save = () => void store.set(key(), sheet.value);

  async function run() {
    before = sheet.value;
    busy(true);
    facts.textContent = '';
    try {
      const { system: _, ...options } = settings.sampling();
      running = models.llm.generate(before, options);
      for await (const { text } of running) {
        sheet.value += text;
        sheet.scrollTop = sheet.scrollHeight;
      }
      const result = await running.result;
      sheet.value = before + result.text;
      facts.textContent = runFacts([result]).join(' · ');
      announce(`Text continued: ${result.text}`);
    } catch (error) {
      const { message, remedy } = explain(error);
      toast(message, { kind: 'error', detail: remedy });
    } finally {
      running = null;
      busy(false);
      save();
    }
  }
  function start() {
    if (models.llm && !running) done = run();
  }
  /** @param {boolean} on */
  function busy(on) {
    sheet.readOnly = on;
    go.hidden = on;
    stop.hidden = !on;
    back.disabled = on || before === null;
    (on ? stop : go).focus();
  }

  go.addEventListener('click', start);
  stop.addEventListener('click', () => running?.stop());
  back.addEventListener('click', () => {
    if (before === null) return;
    sheet.value = before;
    before = null;
    back.disabled = true;
    save();
    sheet.focus();
  });
  sheet.addEventListener('change', save);
  sheet.addEventListener('keydown', (/** @type {KeyboardEvent} */ e) => {
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) e.preventDefault(), start();
  });

  return {
    /** Ends the running continuation; what was written stays. */
    async stop() {
      running?.stop();
      await done;
    },
    async open() {
      before = null;
      back.disabled = true;
      facts.textContent = '';
      sheet.value = (await store.get(key())) ?? '';
    },
  };
}

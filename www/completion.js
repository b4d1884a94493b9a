// @ts-check
import { $, announce, toast } from './dom.js';
import { explain, isAbort, runFacts } from './format.js';

/** The view for a model without a chat template: one sheet of text that the model continues. @param {{ models: import('./models.js').Models, store: import('./store.js').Store, settings: any }} deps */
export function completionView({ models, store, settings }) {
  const sheet = $('#sheet');
  const go = $('#continue');
  const stop = $('#stop-completion');
  const back = $('#take-back');
  const facts = $('#completion-facts');
  /** @type {AbortController | null} */ let abort = null;
  /** @type {string | null} */ let before = null;
  const key = () => `sheet:${models.id}`;
  const save = () => void store.set(key(), sheet.value);

  async function run() {
    if (!models.llm || abort) return;
    abort = new AbortController();
    before = sheet.value;
    busy(true);
    facts.textContent = '';
    try {
      const { system: _, ...options } = settings.sampling();
      const run = models.llm.generate(before, { ...options, signal: abort.signal });
      for await (const { text } of run) {
        sheet.value += text;
        sheet.scrollTop = sheet.scrollHeight;
      }
      const result = await run.result;
      sheet.value = before + result.text;
      facts.textContent = runFacts([result]).join(' · ');
      announce(`Text continued: ${result.text}`);
    } catch (error) {
      if (!isAbort(error)) {
        const { message, remedy } = explain(error);
        toast(message, { kind: 'error', detail: remedy });
      }
    } finally {
      abort = null;
      busy(false);
      save();
    }
  }
  /** @param {boolean} on */
  function busy(on) {
    sheet.readOnly = on;
    go.hidden = on;
    stop.hidden = !on;
    back.disabled = on || before === null;
    (on ? stop : go).focus();
  }

  go.addEventListener('click', run);
  stop.addEventListener('click', () => abort?.abort());
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
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) (e.preventDefault(), void run());
  });

  return {
    async open() {
      abort?.abort();
      sheet.value = (await store.get(key())) ?? '';
    },
  };
}

// @ts-check
import { $, h } from './dom.js';

/** Sampling options as the library takes them; an empty seed means a new one for each reply. */
const FIELDS = [
  { name: 'temperature', label: 'Temperature', min: 0, max: 2, step: 0.05, value: 0.7, hint: '0 always takes the likeliest token.' },
  { name: 'topK', label: 'Top-k', min: 0, max: 1000, step: 1, value: 0, hint: 'Only the k likeliest tokens; 0 turns it off.' },
  {
    name: 'topP',
    label: 'Top-p',
    min: 0.01,
    max: 1,
    step: 0.01,
    value: 1,
    hint: 'Only tokens within this share of probability; 1 turns it off.',
  },
  {
    name: 'minP',
    label: 'Min-p',
    min: 0,
    max: 1,
    step: 0.01,
    value: 0,
    hint: 'Only tokens at least this likely relative to the best; 0 turns it off.',
  },
  { name: 'repetitionPenalty', label: 'Repetition penalty', min: 1, max: 2, step: 0.01, value: 1, hint: '1 turns it off.' },
  { name: 'maxTokens', label: 'Longest reply (tokens)', min: 1, max: 4096, step: 1, value: 256 },
  {
    name: 'seed',
    label: 'Seed',
    min: 0,
    max: 4294967295,
    step: 1,
    value: '',
    optional: true,
    hint: 'The same seed gives the same reply. Empty: a new one each time.',
  },
];

/** The demo model was trained for exact calls: greedy decoding, as in its model card. */
export const DEFAULTS = { demo: { temperature: 0 }, other: {} };

/**
 * @param {import('./store.js').Store} store
 * @returns {Promise<{ sampling(): Record<string, number>, system(): string, use(profile: 'demo' | 'other'): Promise<void>, onSystem: () => void }>}
 */
export async function settingsPanel(store) {
  /** Each kind of model has its own settings. @type {'demo' | 'other'} */
  let profile = 'demo';
  let values = /** @type {Record<string, any>} */ ({});
  const form = $('#settings-form');
  const key = () => `settings:${profile}`;
  const defaults = () => ({ system: '', ...Object.fromEntries(FIELDS.map((f) => [f.name, f.value])), ...DEFAULTS[profile] });

  const inputs = FIELDS.map((f) => {
    const id = `set-${f.name}`;
    const error = h('p', { class: 'field-error', id: `${id}-error` });
    const input = h('input', {
      id,
      name: f.name,
      type: 'number',
      inputMode: 'decimal',
      min: f.min,
      max: f.max,
      step: f.step,
      required: !f.optional,
      'aria-describedby': `${id}-hint ${id}-error`,
    });
    input.addEventListener('input', () => {
      const ok = input.checkValidity();
      input.setAttribute('aria-invalid', String(!ok));
      error.textContent = ok ? '' : `${input.validationMessage} Until then ${values[f.name] === '' ? 'none' : values[f.name]} is used.`;
      if (ok) save(f.name, input.value === '' ? '' : input.valueAsNumber);
    });
    form.append(
      h(
        'div',
        { class: 'field' },
        h('label', { for: id }, f.label),
        input,
        f.hint && h('p', { class: 'hint', id: `${id}-hint` }, f.hint),
        error,
      ),
    );
    return input;
  });
  const system = h('textarea', { id: 'set-system', rows: 3, 'aria-describedby': 'set-system-hint' });
  system.addEventListener('change', () => {
    save('system', system.value.trim());
    panel.onSystem();
  });
  form.append(
    h(
      'div',
      { class: 'field wide' },
      h('label', { for: 'set-system' }, 'System prompt'),
      system,
      h('p', { class: 'hint', id: 'set-system-hint' }, 'Sent to the model before the conversation.'),
    ),
    h('button', { type: 'button', class: 'small', onclick: reset }, 'Reset to defaults'),
  );

  function show() {
    for (const input of inputs) {
      input.value = values[input.name];
      input.dispatchEvent(new Event('input'));
    }
    system.value = values.system;
  }
  function save(/** @type {string} */ name, /** @type {unknown} */ value) {
    if (values[name] === value) return;
    values[name] = value;
    void store.set(key(), values);
  }
  function reset() {
    const before = values.system;
    values = defaults();
    void store.set(key(), values);
    show();
    if (before !== values.system) panel.onSystem();
  }

  const panel = {
    sampling() {
      const { system: _, seed, ...rest } = values;
      return seed === '' ? rest : { ...rest, seed };
    },
    system: () => values.system,
    async use(/** @type {'demo' | 'other'} */ next) {
      profile = next;
      values = { ...defaults(), ...(await store.get(key())) };
      show();
    },
    onSystem() {},
  };
  await panel.use('demo');
  return panel;
}

// @ts-check
/**
 * A small element maker. Text is only ever set as text: nothing here parses HTML.
 * @param {string} tag @param {Record<string, any>} [props] `class`, `on*` listeners, `data-*`/`aria-*`/`role` attributes, else properties
 * @param {...(Node | string | false | null | undefined)} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false || value === null) continue;
    if (name === 'class') el.className = value;
    else if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name.includes('-') || name === 'role' || name === 'for' || !(name in el)) el.setAttribute(name, value === true ? '' : value);
    else Object.assign(el, { [name]: value });
  }
  el.append(...children.filter((c) => c !== undefined && c !== null && c !== false).map((c) => /** @type {Node | string} */ (c)));
  return el;
}

const SVG = 'http://www.w3.org/2000/svg';
/** @param {string} name a symbol of icons/ui.svg */
export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const use = document.createElementNS(SVG, 'use');
  use.setAttribute('href', `icons/ui.svg#${name}`);
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

/** @param {string} name @param {string} label @param {(event: MouseEvent) => void} onclick @param {string} [text] shown; else the label is for screen readers and as a tooltip */
export const iconButton = (name, label, onclick, text) =>
  h(
    'button',
    {
      type: 'button',
      class: text ? 'quiet' : 'quiet square',
      'aria-label': text ? undefined : label,
      title: text ? undefined : label,
      onclick,
    },
    icon(name),
    text,
  );

/** @param {string} selector @returns {any} */
export const $ = (selector) => /** @type {any} */ (document.querySelector(selector));

/** Says something to screen readers, politely. @param {string} text */
export function announce(text) {
  $('#announcer').textContent = text;
}

/**
 * A note that stays until dismissed or, without actions, for some seconds.
 * @param {string} text @param {{ detail?: string, kind?: 'info' | 'error' | 'ring', actions?: [string, () => void][], seconds?: number, onclose?: () => void }} [options] @returns {() => void} closes it
 */
export function toast(text, { detail, kind = 'info', actions = [], seconds = actions.length || kind !== 'info' ? 0 : 6, onclose } = {}) {
  const close = () => {
    el.remove();
    onclose?.();
  };
  const el = h(
    'div',
    { class: `toast ${kind}`, role: kind === 'info' ? 'status' : 'alert' },
    h('div', { class: 'toast-text' }, h('strong', {}, text), detail && h('p', {}, detail)),
    h(
      'div',
      { class: 'toast-actions' },
      ...actions.map(([label, run]) => h('button', { type: 'button', class: 'small', onclick: () => (close(), run()) }, label)),
      iconButton('close', 'Dismiss', close),
    ),
  );
  // An open dialog makes the rest of the page inert, so the note has to live in the topmost one.
  ([...document.querySelectorAll('dialog[open] .toasts')].at(-1) ?? $('#toasts')).append(el);
  if (seconds) setTimeout(close, seconds * 1000);
  return close;
}

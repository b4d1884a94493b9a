// @ts-check
import DOMPurify from './vendor/purify.js';
import { Marked } from './vendor/marked.js';
import { h, iconButton } from './dom.js';

// HTML in the text is shown as the text that it is.
const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: { html: (/** @type {{ text: string }} */ { text }) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;') },
});
// Model output must not make the browser ask anyone for anything: no images, media, frames, forms or styles.
const ALLOWED_TAGS = [
  'p',
  'br',
  'hr',
  'strong',
  'em',
  'del',
  'code',
  'pre',
  'blockquote',
  'ul',
  'ol',
  'li',
  'a',
  'h1',
  'h2',
  'h3',
  'h4',
  'h5',
  'h6',
  'table',
  'thead',
  'tbody',
  'tr',
  'th',
  'td',
];
const POLICY = {
  ALLOWED_TAGS,
  ALLOWED_ATTR: ['href', 'start', 'align'],
  ALLOWED_URI_REGEXP: /^https?:|^mailto:/i,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

/** @param {string} text @param {(text: string) => void} copy @returns {DocumentFragment} */
export function markdown(text, copy) {
  const fragment = /** @type {any} */ (DOMPurify).sanitize(marked.parse(text), POLICY);
  for (const a of fragment.querySelectorAll('a')) {
    a.target = '_blank';
    a.rel = 'noopener noreferrer nofollow';
  }
  for (const pre of fragment.querySelectorAll('pre')) {
    const block = h('div', { class: 'code-block' });
    pre.replaceWith(block);
    pre.tabIndex = 0;
    block.append(
      pre,
      iconButton('copy', 'Copy code', () => copy(pre.textContent ?? '')),
    );
  }
  for (const table of fragment.querySelectorAll('table')) {
    const scroller = h('div', { class: 'table-scroll', tabIndex: 0, role: 'region', 'aria-label': 'Table' });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  return fragment;
}

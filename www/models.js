// @ts-check
import { $, announce, h, icon, iconButton, toast } from './dom.js';
import { MobileLLM } from './engine.js';
import { bytes, explain, isAbort, parameters, seconds } from './format.js';

/**
 * @typedef {{ kind: 'demo' | 'url' | 'hub' | 'files', name: string, value: any, token?: string }} Source
 * @typedef {{ device: 'auto' | 'webgpu' | 'cpu', dtype: 'auto' | 'f16' | 'q8' | 'q4', contextLength?: number }} Options
 */

/** @type {Source} */
export const DEMO = { kind: 'demo', name: 'Demo assistant', value: 'models/demo/' };

/** `auto` is the package's own choice: the fewest bits that lose nothing. @param {Options} options */
const forLoad = ({ dtype, ...rest }) => (dtype === 'auto' ? rest : { ...rest, dtype });

const WAITING = 'Another tab is downloading this model; this one waits and then reads what is stored.';
/** @type {Record<string, string>} */
const PHASES = {
  check: 'Checking the files',
  download: 'Downloading',
  verify: 'Verifying',
  store: 'Storing',
  upload: 'Moving weights to the device',
  compile: 'Preparing the device',
  'self-check': 'Checking the results',
  ready: 'Ready',
};

/** The loaded model and the loading of the next one. Events: 'state', 'progress', 'model' (another llm). */
export class Models extends EventTarget {
  /** @type {any} */ llm = null;
  /** @type {Source | null} */ source = null;
  /** @type {Source | null} what is loading, paused or failed */ pending = null;
  /** @type {'idle' | 'loading' | 'paused' | 'failed'} */ state = 'idle';
  /** @type {any} */ progress = null;
  /** @type {string} what the load under way has to say, such as that another tab is downloading */ note = '';
  /** @type {ReturnType<typeof explain> | null} */ error = null;
  /** @type {Options} */ options = { device: 'auto', dtype: 'auto' };
  /** Ends what still runs on the old model, before another takes its place. @type {() => Promise<unknown>} */ leave = async () => {};
  /** @type {AbortController | null} */ #abort = null;

  get id() {
    return this.source ? `${this.source.kind}:${this.source.name}` : '';
  }
  get isDemo() {
    return this.source?.kind === 'demo';
  }

  /** The model in use stays until the new one is ready. @param {Source} source */
  async load(source) {
    this.#abort?.abort();
    const controller = (this.#abort = new AbortController());
    this.pending = source;
    this.progress = null;
    this.error = null;
    this.note = '';
    this.#set('loading');
    try {
      const llm = await MobileLLM.load(source.value, {
        ...forLoad(this.options),
        ...(source.token && { token: source.token }),
        signal: controller.signal,
        onProgress: (/** @type {any} */ p) => {
          if (controller !== this.#abort) return;
          // The other tab is done, or was.
          if (p.phase !== 'check' && this.note === WAITING) this.note = '';
          this.progress = p;
          this.dispatchEvent(new Event('progress'));
        },
        onWarning: (/** @type {any} */ { reason, message }) => {
          if (controller !== this.#abort) return;
          this.note = reason === 'waiting' ? WAITING : `${message[0].toUpperCase()}${message.slice(1)}.`;
          this.dispatchEvent(new Event('progress'));
          if (reason === 'storage-failed')
            this.dispatchEvent(new CustomEvent('device', { detail: { type: 'warning', message: this.note } }));
        },
      });
      await this.leave();
      if (controller.signal.aborted) return void llm.close();
      const old = this.llm;
      this.llm = llm;
      this.source = source;
      this.pending = null;
      this.#abort = null;
      for (const type of ['fallback', 'devicelost', 'restored', 'warning'])
        llm.addEventListener(type, (/** @type {any} */ e) =>
          this.dispatchEvent(new CustomEvent('device', { detail: { type, message: e.detail.message } })),
        );
      this.#set('idle');
      this.dispatchEvent(new Event('model'));
      await old?.close();
    } catch (error) {
      if (controller !== this.#abort || isAbort(error)) return;
      this.error = explain(error);
      this.#set('failed');
    }
  }

  /** What is stored stays stored: loading again goes on from there. */
  pause() {
    this.#abort?.abort();
    this.#set('paused');
  }

  cancel() {
    this.#abort?.abort();
    this.#abort = null;
    this.pending = null;
    this.#set('idle');
  }

  /** @param {typeof this.state} state */
  #set(state) {
    this.state = state;
    this.dispatchEvent(new Event('state'));
  }
}

/** @param {Models} models @returns {HTMLElement} bar, numbers, pause, resume, cancel; or what failed */
export function progressView(models) {
  const title = h('strong');
  const facts = h('p', { class: 'hint' });
  const note = h('p', { class: 'hint', role: 'status' });
  const bar = h('progress', { 'aria-label': 'Loading the model' });
  const pause = h('button', { type: 'button', class: 'small', onclick: () => models.pause() }, 'Pause');
  const resume = h('button', { type: 'button', class: 'small primary', onclick: () => models.pending && models.load(models.pending) });
  const cancel = h('button', { type: 'button', class: 'small', onclick: () => models.cancel() }, 'Cancel');
  const error = h('div', { class: 'error-box' });
  const el = h('div', { class: 'progress-view' }, title, bar, facts, note, error, h('div', { class: 'row' }, pause, resume, cancel));
  let phase = '';

  function paint() {
    const { state, progress: p, pending } = models;
    el.hidden = state === 'idle';
    if (!pending) return;
    const moving = state === 'loading';
    const total = p?.totalBytes || 0;
    const label = state === 'failed' ? 'Could not load' : state === 'paused' ? 'Paused' : (PHASES[p?.phase ?? ''] ?? 'Starting');
    title.textContent = `${label}: ${pending.name}`;
    if (moving && label !== phase) announce(`${label}: ${pending.name}`);
    phase = label;
    bar.hidden = state === 'failed';
    if (total) {
      bar.max = total;
      bar.value = p.loadedBytes;
    } else if (moving) bar.removeAttribute('value');
    facts.textContent = total
      ? [
          `${bytes(p.loadedBytes)} of ${bytes(total)}`,
          p.cachedBytes > 0 && `${bytes(p.cachedBytes)} already stored`,
          moving && p.bytesPerSecond > 0 && `${bytes(p.bytesPerSecond)}/s`,
          moving && p.etaSeconds > 0 && `${seconds(p.etaSeconds)} left`,
        ]
          .filter(Boolean)
          .join(' · ')
      : '';
    note.textContent = models.note;
    note.hidden = models.note === '';
    error.hidden = state !== 'failed';
    if (models.error)
      error.replaceChildren(
        icon('warning'),
        h('div', {}, h('strong', {}, models.error.message), models.error.remedy && h('p', {}, models.error.remedy)),
      );
    pause.hidden = !moving;
    resume.hidden = moving;
    resume.textContent = state === 'failed' ? 'Try again' : 'Resume';
  }
  models.addEventListener('state', paint);
  models.addEventListener('progress', paint);
  paint();
  return el;
}

/** The dialog: what runs, what is stored, and how to load something else. @param {Models} models @param {import('./store.js').Store} store */
export function modelsPanel(models, store) {
  const dialog = $('#models');
  const form = $('#model-form');
  const estimate = $('#estimate');
  const loadButton = $('#load-model');
  /** @type {Source | null} */ let chosen = null;
  /** @type {any} */ let files = null;
  let asked = 0;

  $('#model-progress').append(progressView(models));

  // What runs
  function paintInfo() {
    const info = models.llm?.info;
    $('#model-info').replaceChildren(
      ...(info
        ? facts(info).map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, v)))
        : [h('p', { class: 'hint' }, 'No model is loaded.')]),
    );
  }
  const facts = (/** @type {any} */ i) =>
    /** @type {[string, string][]} */ (
      [
        ['Model', models.source?.kind === 'demo' || models.source?.kind === 'files' ? models.source.name : i.model],
        [
          'Size',
          `${parameters(i.parameters)} parameters, ${i.storedBlocks} blocks${i.executedLayers === i.storedBlocks ? '' : ` run as ${i.executedLayers} layers`}`,
        ],
        [
          'Runs on',
          `${i.device === 'webgpu' ? 'WebGPU' : 'CPU'}${i.adapter ? `: ${i.adapter}` : ''}${i.device === 'cpu' ? `, ${i.threads} thread${i.threads === 1 ? '' : 's'}` : ''}`,
        ],
        ['Why', i.reason],
        ['Weights', `${i.dtype}, context of ${i.contextLength.toLocaleString('en')} tokens`],
        i.features.length && ['Features', i.features.join(', ')],
        [
          'Loaded in',
          `${Math.round(i.timings.loadMs).toLocaleString('en')} ms, of it ${Math.round(i.timings.initMs).toLocaleString('en')} ms to prepare the device`,
        ],
        i.license && ['Licence', i.license],
      ].filter((f) => f?.[1])
    );

  // Device and weights
  for (const input of dialog.querySelectorAll('[name=device], [name=dtype]')) {
    input.checked = models.options[/** @type {'device' | 'dtype'} */ (input.name)] === input.value;
    input.addEventListener('change', () => apply({ [input.name]: input.value }));
  }
  if (!('gpu' in navigator)) {
    $('#device-webgpu').disabled = true;
    $('#device-hint').textContent = 'This browser has no WebGPU; the model runs on the CPU.';
  }
  const context = $('#context-length');
  context.value = models.options.contextLength ?? '';
  context.addEventListener('change', () => {
    if (context.checkValidity()) apply({ contextLength: context.value === '' ? undefined : context.valueAsNumber });
    else context.reportValidity();
  });
  /** @param {Partial<Options>} change */
  function apply(change) {
    models.options = { ...models.options, ...change };
    if (models.options.contextLength === undefined) delete models.options.contextLength;
    void store.set('load-options', models.options);
    const again = models.pending ?? models.source;
    if (again) void models.load(again);
  }

  // Choosing a source
  const kind = () => /** @type {Source['kind']} */ (form.elements.kind.value);
  function showKind() {
    for (const part of form.querySelectorAll('[data-kind]')) part.hidden = part.dataset.kind !== kind();
    forget();
    if (kind() === 'demo') void check();
  }
  function forget() {
    asked += 1;
    chosen = null;
    estimate.replaceChildren();
    loadButton.hidden = true;
    $('#check-model').hidden = kind() === 'demo' || kind() === 'files';
  }
  /** @returns {Source | null} */
  function source() {
    if (kind() === 'demo') return DEMO;
    if (kind() === 'files') return files;
    const input = kind() === 'url' ? $('#model-url') : $('#model-hub');
    if (!input.reportValidity()) return null;
    const value = input.value.trim();
    return {
      kind: kind(),
      name: value,
      value: kind() === 'url' && !value.endsWith('/') ? `${value}/` : value,
      token: kind() === 'hub' ? $('#model-token').value.trim() || undefined : undefined,
    };
  }
  async function check() {
    const wanted = source();
    if (!wanted) return;
    forget();
    const turn = asked;
    estimate.replaceChildren(h('p', { class: 'hint' }, 'Asking for the size …'));
    try {
      const { device: _, ...held } = forLoad(models.options);
      const options = { ...held, ...(wanted.token && { token: wanted.token }) };
      const [e, space] = await Promise.all([MobileLLM.estimate(wanted.value, options), navigator.storage?.estimate?.()]);
      if (turn !== asked) return;
      const free = space ? (space.quota ?? 0) - (space.usage ?? 0) : NaN;
      const short = e.diskBytes > free;
      estimate.replaceChildren(
        h(
          'dl',
          { class: 'facts-list' },
          ...[
            [
              'To download',
              e.downloadBytes ? bytes(e.downloadBytes) : `nothing, it is ${wanted.kind === 'files' ? 'on this device' : 'stored'}`,
            ],
            ['On disk', `${bytes(e.diskBytes)}, ${bytes(free)} free`],
            ['Memory', `${bytes(e.gpuBytes)} on the GPU, or ${bytes(e.cpuBytes)} on the CPU`],
          ].map(([k, v]) => h('div', {}, h('dt', {}, k), h('dd', {}, v))),
        ),
        ...(short ? [h('p', { class: 'field-error' }, 'There is not enough free space to keep it: delete a stored model first.')] : []),
      );
      chosen = wanted;
      loadButton.hidden = false;
      loadButton.textContent = e.downloadBytes ? `Download ${bytes(e.downloadBytes)} and load` : 'Load';
    } catch (error) {
      if (turn !== asked) return;
      const { message, remedy } = explain(error);
      estimate.replaceChildren(
        h('div', { class: 'error-box' }, icon('warning'), h('div', {}, h('strong', {}, message), remedy && h('p', {}, remedy))),
      );
    }
  }
  form.addEventListener('submit', (/** @type {Event} */ e) => {
    e.preventDefault();
    if (!chosen) return void check();
    void models.load(chosen);
    forget();
    $('#model-progress').scrollIntoView({ block: 'nearest' });
  });
  for (const radio of form.elements.kind) radio.addEventListener('change', showKind);
  for (const input of [$('#model-url'), $('#model-hub'), $('#model-token')]) input.addEventListener('input', forget);

  /** @param {any} value File[] or directory handle @param {string} name */
  function useFiles(value, name) {
    if (value.length === 0)
      return toast('No files there', { kind: 'error', detail: 'Choose a folder with config.json, the tokenizer and the weights.' });
    files = { kind: 'files', name, value };
    $('#chosen-files').textContent = Array.isArray(value) ? `${name}: ${value.length} files` : name;
    void check();
  }
  $('#pick-files').addEventListener('click', async () => {
    const pick = /** @type {any} */ (window).showDirectoryPicker;
    if (!pick) return $('#file-input').click();
    try {
      const handle = await pick();
      useFiles(handle, handle.name);
    } catch (error) {
      if (!isAbort(error)) toast('Could not open the folder', { kind: 'error', detail: explain(error).message });
    }
  });
  $('#file-input').addEventListener('change', () => {
    const list = [...$('#file-input').files];
    useFiles(list, list[0]?.webkitRelativePath.split('/')[0] || 'Local files');
  });
  const drop = $('#drop');
  for (const type of ['dragenter', 'dragover'])
    drop.addEventListener(type, (/** @type {DragEvent} */ e) => (e.preventDefault(), drop.classList.add('over')));
  for (const type of ['dragleave', 'drop']) drop.addEventListener(type, () => drop.classList.remove('over'));
  drop.addEventListener('drop', async (/** @type {DragEvent} */ e) => {
    e.preventDefault();
    const entries = [...(e.dataTransfer?.items ?? [])].map((item) => item.webkitGetAsEntry()).filter((entry) => entry !== null);
    const list = (await Promise.all(entries.map(filesOf))).flat();
    useFiles(list, entries[0]?.isDirectory ? entries[0].name : 'Dropped files');
  });

  // What is stored
  async function paintStored() {
    const target = $('#stored');
    try {
      const list = await MobileLLM.models.list();
      target.replaceChildren(
        ...(list.length
          ? list.map((/** @type {any} */ m) =>
              h(
                'li',
                {},
                h(
                  'div',
                  {},
                  h('span', {}, nameOf(m)),
                  h(
                    'span',
                    { class: 'hint' },
                    [
                      m.complete ? bytes(m.bytes) : `${bytes(m.bytes)} of ${bytes(m.totalBytes)}, incomplete`,
                      m.revision && `commit ${m.revision.slice(0, 7)}`,
                      m.lastUsed && `used ${new Date(m.lastUsed).toLocaleDateString()}`,
                    ]
                      .filter(Boolean)
                      .join(' · '),
                  ),
                ),
                h(
                  'button',
                  {
                    type: 'button',
                    class: 'small',
                    disabled: same(m, models.source) || same(m, models.pending),
                    'aria-label': `${m.complete ? 'Load' : 'Go on with'} ${nameOf(m)}`,
                    onclick: () => start(m),
                  },
                  m.complete ? 'Load' : 'Go on',
                ),
                iconButton('trash', `Delete ${nameOf(m)}`, () => remove(m)),
              ),
            )
          : [h('li', { class: 'hint' }, 'Nothing is stored yet.')]),
      );
    } catch (error) {
      target.replaceChildren(h('li', { class: 'field-error' }, explain(error).message));
    }
    await paintSpace();
  }
  const addressOf = (/** @type {Source} */ { kind, value }) =>
    kind === 'hub' ? value : kind === 'files' ? '' : new URL(value, document.baseURI).href;
  const same = (/** @type {any} */ m, /** @type {Source | null} */ source) => source !== null && m.source === addressOf(source);
  const nameOf = (/** @type {any} */ m) => (same(m, DEMO) ? DEMO.name : m.source);
  /** @param {any} m */
  function start(m) {
    const hub = !/^https?:/.test(m.source);
    void models.load(
      same(m, DEMO)
        ? DEMO
        : {
            kind: hub ? 'hub' : 'url',
            name: m.source,
            value: m.source,
            token: hub ? $('#model-token').value.trim() || undefined : undefined,
          },
    );
    $('#model-progress').scrollIntoView({ block: 'nearest' });
  }
  async function paintSpace() {
    if (!navigator.storage?.estimate) return;
    const [{ usage = 0, quota = 0 }, kept] = await Promise.all([navigator.storage.estimate(), navigator.storage.persisted()]);
    $('#space').textContent =
      `${bytes(usage)} used of ${bytes(quota)} this site may keep. ${kept ? 'Kept until you delete it.' : 'The browser may delete it when space runs low.'}`;
    $('#persist').hidden = kept;
  }
  $('#persist').addEventListener('click', async () => {
    if (!(await navigator.storage.persist()))
      toast('The browser said no', { detail: 'It usually agrees once the page is installed, bookmarked or used often.' });
    await paintSpace();
  });
  /** @param {any} model */
  async function remove(model) {
    if (!confirm(`Delete ${nameOf(model)} (${bytes(model.bytes)}) from this browser?`)) return;
    try {
      await MobileLLM.models.delete(model.source);
    } catch (error) {
      const { message, remedy } = explain(error);
      toast(message, { kind: 'error', detail: remedy });
    }
    await paintStored();
    $('#stored-title').focus();
  }

  models.addEventListener('model', paintInfo);
  models.addEventListener('state', () => dialog.open && paintStored());
  // The package asks the browser to keep what it stored; the answer comes in its own time.
  navigator.permissions?.query({ name: 'persistent-storage' }).then(
    (status) => status.addEventListener('change', paintSpace),
    () => {},
  );
  paintInfo();
  return {
    open() {
      paintInfo();
      showKind();
      void paintStored();
      if (!dialog.open) dialog.showModal();
    },
  };
}

/** @param {FileSystemEntry} entry @returns {Promise<File[]>} of a folder, its own files: a checkpoint is flat */
async function filesOf(entry) {
  const file = (/** @type {any} */ e) => new Promise((done, failed) => e.file(done, failed));
  if (entry.isFile) return [await file(entry)];
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  const all = [];
  // readEntries hands out the folder in portions; an empty one is the end.
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (some.length === 0) break;
    all.push(...some.filter((/** @type {FileSystemEntry} */ e) => e.isFile));
  }
  return Promise.all(all.map(file));
}

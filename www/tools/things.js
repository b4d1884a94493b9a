// @ts-check
/**
 * Alarms, timers, reminders, events, lists, notes and the stopwatch: small records, all held in memory and written through to `disk`.
 * @typedef {'alarm' | 'timer' | 'reminder' | 'event' | 'list' | 'note' | 'stopwatch'} Kind
 * @typedef {{ id: string, kind: Kind, made: number } & import('./days.js').When & Record<string, any>} Thing
 * @typedef {{ id: string, before?: any, after?: any }} Change  of a thing, without `before` it was made, without `after` removed; or of a setting's value
 * @typedef {{ get(): any, set(value: any): void }} Setting
 * @typedef {{ all(): Promise<Thing[]>, put(thing: Thing): Promise<unknown>, delete(id: string): Promise<unknown> }} Disk
 */

export class Things extends EventTarget {
  /** @type {Map<string, Thing>} */ #things = new Map();
  /** @type {Change[] | null} */ #journal = null;
  #disk;
  #settings;

  /** @param {Disk} disk @param {Record<string, Setting>} [settings] what is kept elsewhere and is changed and undone like a thing: the theme, the volume */
  constructor(disk, settings = {}) {
    super();
    this.#disk = disk;
    this.#settings = settings;
  }

  async load() {
    this.#things = new Map((await this.#disk.all()).map((t) => [t.id, t]));
    this.dispatchEvent(new Event('change'));
  }

  /** In the order they were made. @param {Kind} kind */
  all(kind) {
    return [...this.#things.values()].filter((t) => t.kind === kind).sort((a, b) => a.made - b.made);
  }

  /** A thing by its id, or a setting's value by its name. @param {string} id */
  get(id) {
    return Object.hasOwn(this.#settings, id) ? this.#settings[id].get() : this.#things.get(id);
  }

  /** @param {string} name of a setting @param {unknown} value */
  adjust(name, value) {
    const before = this.#settings[name].get();
    if (value === before) return;
    this.#journal?.push({ id: name, before, after: value });
    this.#settings[name].set(value);
    this.dispatchEvent(new Event('change'));
  }

  /** @param {Kind} kind @param {object} fields @returns {Thing} */
  add(kind, fields) {
    const thing = { ...fields, id: crypto.randomUUID(), kind, made: Date.now() };
    this.#set(thing.id, thing);
    return thing;
  }

  /** @param {string} id @param {object} fields */
  update(id, fields) {
    const thing = this.#things.get(id);
    if (thing) this.#set(id, { ...thing, ...fields });
  }

  /** @param {string} id */
  remove(id) {
    this.#set(id, undefined);
  }

  /** What `work` changed, so that it can be undone. @template T @param {() => T} work @returns {{ value: T, changes: Change[] }} */
  record(work) {
    const changes = (this.#journal = /** @type {Change[]} */ ([]));
    try {
      return { value: work(), changes };
    } finally {
      this.#journal = null;
    }
  }

  /** Whether everything is still as these changes left it. @param {Change[]} changes */
  untouched(changes) {
    return net(changes).every(({ id, after }) => JSON.stringify(this.get(id)) === JSON.stringify(after));
  }

  /** Takes changes back together, or none of them if anything was touched since. @param {Change[]} changes @returns {number} how many things were taken back */
  undo(changes) {
    if (!this.untouched(changes)) return 0;
    const whole = net(changes);
    for (const { id, before } of whole) {
      if (Object.hasOwn(this.#settings, id)) this.adjust(id, before);
      else this.#set(id, before);
    }
    return whole.length;
  }

  /** @param {string} id @param {Thing | undefined} thing */
  #set(id, thing) {
    const before = this.#things.get(id);
    if (!before && !thing) return;
    this.#journal?.push({ id, before, after: thing });
    if (thing) this.#things.set(id, thing);
    else this.#things.delete(id);
    const written = thing ? this.#disk.put(thing) : this.#disk.delete(id);
    written.then(
      () => this.dispatchEvent(new Event('written')),
      (cause) => this.dispatchEvent(new CustomEvent('unwritten', { detail: cause })),
    );
    this.dispatchEvent(new Event('change'));
  }
}

/** One change for each thing: from before the first to after the last. @param {Change[]} changes @returns {Change[]} */
function net(changes) {
  /** @type {Map<string, Change>} */ const whole = new Map();
  for (const change of changes) whole.set(change.id, { ...change, before: (whole.get(change.id) ?? change).before });
  return [...whole.values()];
}

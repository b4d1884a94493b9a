// @ts-check
/**
 * Alarms, timers, reminders, events, lists, notes and the stopwatch: small records, all held in memory and written through to `disk`.
 * @typedef {'alarm' | 'timer' | 'reminder' | 'event' | 'list' | 'note' | 'stopwatch'} Kind
 * @typedef {{ id: string, kind: Kind, made: number } & import('./days.js').When & Record<string, any>} Thing
 * @typedef {{ id: string, before?: Thing, after?: Thing }} Change  without `before` it was made, without `after` removed
 * @typedef {{ all(): Promise<Thing[]>, put(thing: Thing): Promise<unknown>, delete(id: string): Promise<unknown> }} Disk
 */

export class Things extends EventTarget {
  /** @type {Map<string, Thing>} */ #things = new Map();
  /** @type {Change[] | null} */ #journal = null;
  #disk;

  /** @param {Disk} disk */
  constructor(disk) {
    super();
    this.#disk = disk;
  }

  async load() {
    this.#things = new Map((await this.#disk.all()).map((t) => [t.id, t]));
    this.dispatchEvent(new Event('change'));
  }

  /** In the order they were made. @param {Kind} kind */
  all(kind) {
    return [...this.#things.values()].filter((t) => t.kind === kind).sort((a, b) => a.made - b.made);
  }

  /** @param {string} id */
  get(id) {
    return this.#things.get(id);
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

  /** Takes back the changes that nothing has touched since. @param {Change[]} changes @returns {number} how many were taken back */
  undo(changes) {
    let done = 0;
    for (const { id, before, after } of [...changes].reverse()) {
      if (JSON.stringify(this.#things.get(id)) !== JSON.stringify(after)) continue;
      this.#set(id, before);
      done += 1;
    }
    return done;
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

import { ChunkLog } from './run.js';
import { checkGenerate, checkInput, show } from './options.js';
import { bound, busyError, closedError, invalidOption } from './errors.js';
import type { Client, Pending } from './client.js';
import type { GenerateOptions, GenerateResult, Message, Run, Tool } from './types.js';

/** What sessions of one model share. */
export interface SessionHost {
  client: Client;
  contextLength: number;
  nextSession(): number;
}

/**
 * A conversation: messages, and the KV cache of what was computed of them. A turn computes only what the cache does not hold.
 * From {@link MobileLLM.session}.
 */
export class Session {
  #host: SessionHost;
  #id: number;
  #messages: Message[];
  #tools: Tool[] | null;
  #chatTemplate: string | null;
  #closed = false;
  #pending = new Set<Pending<GenerateResult>>();
  /** Tokens in the cache after the first n messages, where that was seen. */
  #used = new Map<number, number>();

  private constructor(host: SessionHost, id: number, messages: Message[], tools: Tool[] | null, chatTemplate: string | null) {
    this.#host = host;
    this.#id = id;
    this.#messages = messages;
    this.#tools = tools;
    this.#chatTemplate = chatTemplate;
  }

  /** @internal */
  static made(value: object): boolean {
    return #host in value;
  }

  /** @internal */
  static async open(
    host: SessionHost,
    start: { messages: Message[]; tools: Tool[] | null; chatTemplate: string | null },
  ): Promise<Session> {
    const id = host.nextSession();
    const { used } = await host.client.call('openSession', { session: id, ...start });
    const session = new Session(host, id, start.messages, start.tools, start.chatTemplate);
    session.#used.set(start.messages.length, used);
    return session;
  }

  /** Everything said so far, the system message included: a copy. */
  get messages(): Message[] {
    return structuredClone(this.#messages);
  }

  /** Tokens of the conversation, as of the last answer, and tokens that fit. */
  get contextUsage(): { used: number; capacity: number } {
    const known = [...this.#used].filter(([length]) => length <= this.#messages.length).map(([, used]) => used);
    return { used: Math.max(0, ...known), capacity: this.#host.contextLength };
  }

  /**
   * Says something and runs the answer: a text of the user, one message, or several, such as the results of tools in the order of
   * their calls (`[{ role: 'tool', content: '{"ok":true}' }]`). Question and answer join {@link messages}; after a stop or an
   * abort so does what there was of the answer; after an error neither does.
   */
  send(input: string | Message | readonly Message[], options?: GenerateOptions): Run {
    const added = checkInput(input);
    return this.#answer('send', options, (messages) => [...messages, ...added]);
  }

  /** Drops the last answer and runs another one to the same question. */
  regenerate(options?: GenerateOptions): Run {
    return this.#answer('regenerate', options, (messages) => {
      if (messages.at(-1)?.role !== 'assistant') throw invalidOption('regenerate: the conversation does not end with an answer');
      return messages.slice(0, -1);
    });
  }

  /** Keeps the first `length` of {@link messages}, the system message counted; the cache of what they share stays of use. */
  truncate(length: number): void {
    this.#open();
    if (!Number.isInteger(length) || length < 0 || length > this.#messages.length) {
      throw invalidOption(`truncate: ${show(length)} is not an integer from 0 to ${this.#messages.length}`);
    }
    if (this.#pending.size > 0) {
      throw busyError('truncate: an answer is under way');
    }
    this.#messages = this.#messages.slice(0, length);
    for (const known of this.#used.keys()) if (known > length) this.#used.delete(known);
  }

  /** A copy, KV cache included, that goes its own way from here. */
  async clone(): Promise<Session> {
    this.#open();
    const session = this.#host.nextSession();
    return this.#host.client.enqueue('cloneSession', {
      prepare: () => ({ session, from: this.#id }),
      finish: () => {
        const copy = new Session(this.#host, session, this.#messages, this.#tools, this.#chatTemplate);
        copy.#used = new Map(this.#used);
        return copy;
      },
    }).result;
  }

  /** Frees the session's KV cache; runs that are under way stop. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const pending of this.#pending) pending.stop();
    this.#host.client.call('closeSession', { session: this.#id }).catch(() => {});
  }

  #open(): void {
    if (this.#closed) throw closedError('the session');
  }

  #answer(call: string, options: GenerateOptions | undefined, change: (messages: Message[]) => Message[]): Run {
    this.#open();
    const { signal, request } = checkGenerate(call, options);
    const log = new ChunkLog();
    let before: Message[] | undefined;
    const pending = this.#host.client.enqueue('generate', {
      signal,
      prepare: () => {
        this.#open();
        const messages = change(this.#messages);
        before = this.#messages;
        this.#messages = messages;
        return { session: this.#id, input: { messages, tools: this.#tools, chatTemplate: this.#chatTemplate }, options: request };
      },
      onChunk: (chunk) => log.push(chunk),
      onFailure: () => {
        if (before) this.#messages = before;
      },
      finish: ({ used, ...result }) => {
        const { text: content, toolCalls } = result;
        this.#messages = [...this.#messages, { role: 'assistant', content, ...(toolCalls.length > 0 ? { toolCalls } : {}) }];
        this.#used.set(this.#messages.length, used);
        return unlessAborted(result, signal);
      },
    });
    this.#pending.add(pending);
    const done = () => this.#pending.delete(pending);
    pending.result.then(done, done);
    return log.run(pending);
  }
}

bound(Session, Session.made);

/** A run that its signal ended rejects with the signal's reason. */
export function unlessAborted(result: GenerateResult, signal: AbortSignal | undefined): GenerateResult {
  if (result.finishReason === 'abort' && signal?.aborted) throw signal.reason;
  return result;
}

/**
 * MobileLLM in a web browser, or in Node.
 *
 * ```ts
 * const llm = await MobileLLM.load('/models/demo/');
 * const chat = await llm.session({ system: 'Be brief.' });
 * for await (const chunk of chat.send('Help me set an alarm at 7:30AM')) show(chunk.text);
 * await llm.close();
 * ```
 *
 * Everything runs in a worker of its own; calls on one model queue in order. Failures are {@link MobileLLMError}s.
 *
 * @module
 */
import { Client } from './client.js';
import { bound, closedError, invalidOption, outward, reading } from './errors.js';
import {
  checkArgument,
  checkAssets,
  checkEstimate,
  checkCompletion,
  checkSpecial,
  checkLoad,
  checkSession,
  checkSource,
} from './options.js';
import { ChunkLog } from './run.js';
import { Session, unlessAborted } from './session.js';
import { resolveSource } from './source.js';
import type { Call, Calls } from './protocol.js';
import type {
  AssetOptions,
  Availability,
  Estimate,
  EstimateOptions,
  CompletionOptions,
  EventDetail,
  Info,
  LoadOptions,
  MobileLLMEventMap,
  ModelRecord,
  Run,
  Score,
  SpecialTokensOption,
  SessionOptions,
  Source,
  SourceOptions,
} from './types.js';

export { MobileLLMError } from './errors.js';
export type { ErrorCode } from './errors.js';
export type { Session } from './session.js';
export type * from './types.js';

type Listener<K extends keyof MobileLLMEventMap> = (event: MobileLLMEventMap[K]) => void;

/** A loaded model. */
export class MobileLLM extends EventTarget {
  #client: Client;
  #info: Info;
  #sessions = 0;

  private constructor(client: Client, info: Info) {
    if (!(client instanceof Client)) throw invalidOption('a model comes from MobileLLM.load(), not from new MobileLLM()');
    super();
    this.#client = client;
    this.#info = info;
  }

  /** What is loaded and where it runs; changes with `fallback` and `restored`. */
  get info(): Info {
    return this.#info;
  }

  /**
   * Loads a model: from the source, or from browser storage as far as it is there.
   *
   * @throws MobileLLMError; the signal's reason after an abort.
   */
  static async load(source: Source, options?: LoadOptions): Promise<MobileLLM> {
    const { signal, assets, onProgress, onWarning, persist, request } = checkLoad(options);
    let llm: MobileLLM | undefined;
    const early: CustomEvent[] = [];
    const onEvent = (type: string, detail: EventDetail) => {
      if (llm && detail.info) llm.#info = detail.info;
      if (!llm && type === 'warning' && onWarning) return onWarning(detail);
      const event = new CustomEvent(type, { detail });
      if (llm) llm.dispatchEvent(event);
      else early.push(event);
    };
    return withClient(assets, signal, onEvent, async (client) => {
      const info = await client.call('load', { ...request, source: await resolveSource(source) }, onProgress);
      const model = (llm = new MobileLLM(client, info));
      if (persist && info.storage.stored && info.storage.downloadedBytes > 0) void model.#persist();
      // What happened while loading reaches listeners that are added as soon as the model is there.
      setTimeout(() => {
        for (const event of early) model.dispatchEvent(event);
      });
      return model;
    });
  }

  /** Only a page can ask; a refusal, or an API that is missing or throws, changes nothing. */
  async #persist(): Promise<void> {
    try {
      const persisted = await navigator.storage?.persist?.();
      if (persisted) this.#info = { ...this.#info, storage: { ...this.#info.storage, persisted } };
    } catch {
      // The model is loaded and stored all the same.
    }
  }

  /** Completes a text. Starts by itself when the calls before it are done; the KV cache of a common beginning is reused. */
  generate(prompt: string, options?: CompletionOptions): Run {
    checkArgument('generate', 'prompt', prompt, 'text');
    const { signal, request, special } = checkCompletion('generate', options);
    const log = new ChunkLog();
    const pending = this.#client.enqueue('generate', {
      signal,
      prepare: () => ({ session: 0, input: { prompt, special }, options: request }),
      onChunk: (chunk) => log.push(chunk),
      finish: ({ used: _, ...result }) => unlessAborted(result, signal),
    });
    return log.run(pending);
  }

  /** Opens a conversation. @throws MobileLLMError `no-chat-template` if the model only completes text. */
  async session(options?: SessionOptions): Promise<Session> {
    const start = checkSession(options);
    return Session.open({ client: this.#client, contextLength: this.info.contextLength, nextSession: () => ++this.#sessions }, start);
  }

  /** Token ids of a text, without a beginning-of-text token; strings that look like special tokens are plain text unless `parse` is asked for. */
  async tokenize(text: string, options?: SpecialTokensOption): Promise<number[]> {
    checkArgument('tokenize', 'text', text, 'text');
    const special = checkSpecial('tokenize', options);
    return this.#client.call('tokenize', { text, special });
  }

  /** Text of token ids; special tokens are left out. */
  async detokenize(ids: readonly number[]): Promise<string> {
    checkArgument('detokenize', 'ids', ids, 'ids');
    return this.#client.call('detokenize', { ids: [...ids] });
  }

  /** How probable each of some continuations of one context is. */
  async score(context: string, continuations: readonly string[], options?: SpecialTokensOption): Promise<Score[]> {
    checkArgument('score', 'context', context, 'text');
    checkArgument('score', 'continuations', continuations, 'texts');
    const special = checkSpecial('score', options);
    return this.#client.call('score', { context, continuations: [...continuations], special });
  }

  /** Hears of what happens to the loaded model. */
  override addEventListener<K extends keyof MobileLLMEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  override addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  override addEventListener(type: string, listener: unknown, options?: boolean | AddEventListenerOptions): void {
    reading('addEventListener', () => super.addEventListener(type, listener as EventListener, options));
  }

  override removeEventListener<K extends keyof MobileLLMEventMap>(
    type: K,
    listener: Listener<K>,
    options?: boolean | EventListenerOptions,
  ): void;
  override removeEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject | null,
    options?: boolean | EventListenerOptions,
  ): void;
  override removeEventListener(type: string, listener: unknown, options?: boolean | EventListenerOptions): void {
    reading('removeEventListener', () => super.removeEventListener(type, listener as EventListener, options));
  }

  /** Frees GPU and wasm memory. Calls that are not answered yet fail with code `closed`. */
  async close(): Promise<void> {
    return this.#client.close();
  }

  /** Whether a model is stored, wholly or in part, can be downloaded, or neither. */
  static async availability(source: Source, options?: SourceOptions): Promise<Availability> {
    const { signal, assets, request } = checkSource('availability', options);
    return ask(assets, 'availability', { ...request, source: await resolveSource(source) }, signal);
  }

  /** What a model would cost, in bytes: only its configuration and headers are read. */
  static async estimate(source: Source, options?: EstimateOptions): Promise<Estimate> {
    const { signal, assets, request } = checkEstimate(options);
    return ask(assets, 'estimate', { ...request, source: await resolveSource(source) }, signal);
  }

  /** The models in browser storage. */
  static readonly models = {
    /** All of them, complete or not. */
    list: async (options?: AssetOptions): Promise<ModelRecord[]> => ask(checkAssets('models.list', options), 'listModels', null),
    /** Deletes one. @throws MobileLLMError `model-in-use` if it is loaded, here or in another tab. */
    delete: async (source: Source, options?: SourceOptions): Promise<void> => {
      const { signal, assets, request } = checkSource('models.delete', options);
      await ask(assets, 'deleteModel', { ...request, source: await resolveSource(source) }, signal);
    },
  };

  /** @internal */
  static made(value: object): boolean {
    return #client in value;
  }
}

bound(MobileLLM, MobileLLM.made);

/** One question to a worker without a model. */
async function ask<C extends Call>(assets: AssetOptions, call: C, args: Calls[C][0], signal?: AbortSignal): Promise<Calls[C][1]> {
  return withClient(
    assets,
    signal,
    () => {},
    async (client) => {
      const answer = await client.call(call, args);
      await client.close();
      return answer;
    },
  );
}

/** Runs work on a new worker; the worker ends with a failure or an abort of it. */
async function withClient<T>(
  assets: AssetOptions,
  signal: AbortSignal | undefined,
  onEvent: (type: string, detail: EventDetail) => void,
  work: (client: Client) => Promise<T>,
): Promise<T> {
  signal?.throwIfAborted();
  const client = new Client(assets, onEvent);
  const abort = () => client.end(closedError('the load'));
  signal?.addEventListener('abort', abort, { once: true });
  try {
    return await work(client);
  } catch (error) {
    client.end(closedError('the model'));
    throw signal?.aborted ? signal.reason : outward(error);
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

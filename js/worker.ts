/** The worker: owns the engine and answers one call after the other. Between two tokens it lets messages in, so that a stop acts within one. */
import init, * as wasm from 'wasm-glue';
import initSplitter, { Part as Splitter } from 'splitter-glue';
import initTemplates, { Part as Templates } from 'templates-glue';
import { installFileFetch } from './file-fetch.js';
import type { Assets, Script } from './assets.js';
import { cspBlocked, engineUnavailable, invalidOption, MobileLLMError, said, toWire, webGpuUnavailable } from './errors.js';
import { node } from './platform.js';
import { Forbidden, installPolicyFetch, noWasm } from './policy.js';
import { plainLength, splitToolCalls } from './toolcalls.js';
import { Exchange, Team, threadCount, type FollowRequest } from './threads.js';
import { PieceReader, servePiece, type PieceRequest } from './pieces.js';
import type { Call, Calls, FromWorker, Input, LoadRequest, ToWorker } from './protocol.js';
import type { EngineEstimate, EngineEvent, EngineInfo, LoadEvent, TokenLogprobs } from './generated.js';
import type { Chunk, EventDetail, Info, LoadProgress } from './types.js';

type Handlers = { [C in Call]: (args: Calls[C][0], id: number) => Calls[C][1] | Promise<Calls[C][1]> };

interface Scope {
  postMessage(message: FromWorker): void;
  onmessage: ((event: { data: ToWorker }) => void) | null;
  addEventListener(type: 'error' | 'unhandledrejection', listener: (event: { message?: string; reason?: unknown }) => void): void;
}
const scope = globalThis as unknown as Scope;
const port = node?.threads.parentPort ?? scope;
const post = (message: FromWorker) => port.postMessage(message);

function warning(event: Exclude<LoadEvent, { type: 'progress' }>): EventDetail {
  const { type, ...detail } = event;
  switch (event.type) {
    case 'waiting':
      return { reason: type, message: 'another tab is downloading this model: waiting for it' };
    case 'evicted': {
      const size = (event.bytes / 1e6).toFixed(0);
      return { ...detail, reason: type, message: `${event.pieces} of ${event.of} stored pieces are gone: ${size} MB to fetch` };
    }
    case 'repaired':
      return { ...detail, reason: type, message: `${event.file}: a stored piece (${event.piece}) was damaged and is fetched again` };
    case 'skipped': {
      const [first, ...more] = event.tensors;
      const others = more.length > 0 ? ` and ${more.length} more` : '';
      return { ...detail, reason: type, message: `the checkpoint holds tensors that this architecture does not use: ${first}${others}` };
    }
    case 'storage-failed':
      return { ...detail, reason: type, message: `the model is loaded but not kept: ${event.message}` };
  }
}

/** In Node 20 there is none. */
const navigatorLike = (globalThis.navigator ?? {}) as {
  gpu?: { requestAdapter(): Promise<object | null> };
  deviceMemory?: number;
  userAgent?: string;
};

/** What can be said about the device before anything is loaded; `reason` if it decides. */
function chooseDevice({ device }: LoadRequest): { device: LoadRequest['device']; reason?: string } {
  if (device === 'cpu') return { device };
  const missing = !navigatorLike.gpu
    ? 'there is no navigator.gpu here'
    : // wgpu looks for the GPU in a page or a worker of the web, and takes it for granted that this is one.
      !('Window' in globalThis || 'WorkerGlobalScope' in globalThis)
      ? 'that of this runtime can be used in a browser only'
      : null;
  if (missing === null) return { device };
  const reason = `WebGPU is not available: ${missing}`;
  if (device === 'auto') return { device: 'cpu', reason };
  throw webGpuUnavailable(reason);
}

/** Progress of a load, up to ready. */
class Meter {
  /** When the last byte arrived, in milliseconds. */
  lastByte = performance.now();
  #last: LoadProgress = { phase: 'check', loadedBytes: 0, totalBytes: 0, cachedBytes: 0, bytesPerSecond: 0, etaSeconds: null, file: null };
  #report: (progress: LoadProgress) => void;

  constructor(report: (progress: LoadProgress) => void) {
    this.#report = report;
    report(this.#last);
  }

  add({ type: _, file, ...progress }: Extract<LoadEvent, { type: 'progress' }>): void {
    if (progress.loadedBytes > this.#last.loadedBytes) this.lastByte = performance.now();
    this.#last = { ...progress, file: file || null };
    this.#report(this.#last);
  }

  ready(): void {
    this.#report({ ...this.#last, phase: 'ready', etaSeconds: 0, file: null });
  }
}

/** As it stands where a percent sign begins no escape, which an address may have. */
function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function modelName({ source }: LoadRequest): string {
  if (source.kind === 'hub') return source.id;
  if (source.kind === 'files') return source.name;
  const parts = new URL(source.url).pathname.split('/').filter(Boolean);
  return decoded(parts.at(-1) ?? new URL(source.url).host);
}

/** Of the first message: this worker's script, and what it needs. */
let script: Script;
let assets: Assets;

async function compile(asset: string | Blob): Promise<WebAssembly.Module> {
  const address = typeof asset === 'string' ? asset : 'the wasm in the bundle';
  try {
    if (typeof asset !== 'string') return await WebAssembly.compile(await asset.arrayBuffer());
    if (node && asset.startsWith('file:')) return await WebAssembly.compile(node.fs.readFileSync(new URL(asset)));
    const response = await fetch(asset);
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    // A host that knows no type for wasm.
    if (response.headers.get('content-type') !== 'application/wasm') return await WebAssembly.compile(await response.arrayBuffer());
    return await WebAssembly.compileStreaming(response);
  } catch (error) {
    if (error instanceof Forbidden) throw cspBlocked(address, error.needed, error);
    const needed = noWasm(error);
    if (needed) throw cspBlocked('WebAssembly', needed, error);
    throw engineUnavailable(`${address} could not be loaded: ${said(error)}`, error);
  }
}

let module: WebAssembly.Module;
let starting: Promise<void> | null = null;
/** Compiles and starts the wasm, once. */
const start = (): Promise<void> =>
  (starting ??= (async () => {
    module = await compile(assets.engine);
    await init({ module_or_path: module });
    wasm.onPanic((message: string) => post({ crashed: message }));
  })());

/** What `work` does, once; anew only after it has failed. */
function once(work: () => Promise<void>): () => Promise<void> {
  let started: Promise<void> | null = null;
  return () =>
    (started ??= work().catch((error: unknown) => {
      started = null;
      throw error;
    }));
}

type Part = { call(request: string): string };
const opener =
  (open: (specification: string) => Part) =>
  (specification: string): ((request: string) => string) => {
    const part = open(specification);
    return (request) => part.call(request);
  };

/** The module for chat templates: a completion does without it. */
const startTemplates = once(async () => {
  await initTemplates({ module_or_path: await compile(assets.templates) });
  wasm.installTemplates(opener((specification) => new Templates(specification)));
});

/** The module for tokenizers that the engine does not know by heart. */
const startSplitter = once(async () => {
  await initSplitter({ module_or_path: await compile(assets.splitter) });
  wasm.installSplitter(opener((specification) => new Splitter(specification)));
});

/** This worker as a CPU thread of another: blocks until that one ends. */
async function follow({ module, shared, rank, count, words, config, precision }: FollowRequest): Promise<void> {
  const say = (message: { following: true } | { failed: string }) => (port as { postMessage(m: unknown): void }).postMessage(message);
  const exchange = new Exchange(shared, rank, count, words);
  try {
    await init({ module_or_path: module });
    wasm.onPanic((message: string) => exchange.fail(message));
    say({ following: true });
    wasm.follow(config, precision, exchange);
  } catch (error) {
    // Where the failure came from another thread, that one said so already.
    exchange.fail(String(error));
    say({ failed: String(error) });
  }
}

const team = new Team();

let engine: wasm.Engine | null = null;
let describe: () => Info;
/** The page's session numbers -> the engine's. */
const sessions = new Map<number, number>();
/** The generation that is to end early. */
let stopped = 0;
let closing = false;

function loaded(): wasm.Engine {
  if (!engine) throw invalidOption('no model is loaded');
  return engine;
}

function sessionOf(session: number): number {
  const number = sessions.get(session) ?? loaded().openSession();
  sessions.set(session, number);
  return number;
}

/** Half a pair of surrogates, which UTF-8 cannot carry, becomes U+FFFD, as in any other text; JSON writes it as an escape. */
const jsonOf = (value: unknown): string =>
  JSON.stringify(value).replace(/\\(?:ud[89a-f][0-9a-f]{2}|.)/g, (half) => (half.startsWith('\\ud') ? '\\ufffd' : half));

async function encode(input: Input, answer: boolean): Promise<Uint32Array> {
  if ('prompt' in input) return loaded().encodePrompt(input.prompt, input.special);
  await startTemplates();
  if (input.tools && !input.chatTemplate) await loaded().findToolTemplate();
  const messages = input.messages.map(({ toolCalls, ...message }) =>
    toolCalls ? { ...message, tool_calls: toolCalls.map((call) => ({ type: 'function', function: call })) } : message,
  );
  const tools = input.tools?.map((tool) => ('function' in tool ? tool : { type: 'function', function: tool }));
  return loaded().encodeChat(jsonOf(messages), tools && jsonOf(tools), input.chatTemplate ?? undefined, answer);
}

/** A turn of the event loop; a timer would cost 4 ms. */
const breathe: () => Promise<void> = node
  ? () => new Promise((resolve) => setImmediate(resolve))
  : (() => {
      const { port1, port2 } = new MessageChannel();
      const waiting: (() => void)[] = [];
      port1.onmessage = () => waiting.shift()?.();
      return () =>
        new Promise<void>((resolve) => {
          waiting.push(resolve);
          port2.postMessage(null);
        });
    })();

/** What a load tried first and gave up. */
function tellFallbacks(): void {
  const { fallbacks } = loaded().info() as EngineInfo;
  for (const message of fallbacks) post({ event: 'fallback', detail: { message, info: describe() } });
}

/** Tells the page when other than the last known number of threads compute. */
let knownThreads = 0;
function tellThreads(): void {
  const [working, message] = loaded().threads() ?? [0, ''];
  if (working === knownThreads) return;
  knownThreads = working;
  post({ event: 'threads', detail: { message, info: describe() } });
}

/** When GPU devices were lost, in milliseconds. */
const losses: number[] = [];

/** Runs work on the engine; if the GPU device is lost, loads the model again and goes on. Twice within a minute: on the CPU. */
async function surviving<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      const { code } = toWire(error);
      if (code !== 'device-lost' && code !== 'gpu-error') throw error;
      // What was under way fails first; that the device is lost is told up to a moment later.
      for (let waits = 0; waits < 25 && loaded().deviceLost() === undefined; waits++) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const message = loaded().deviceLost();
      if (message === undefined) throw error;
      post({ event: 'devicelost', detail: { message } });
      await recover();
      const info = describe();
      const restored = `the model is loaded again, on ${info.device}`;
      tellFallbacks();
      if (info.device === 'cpu') post({ event: 'fallback', detail: { message: restored, info } });
      post({ event: 'restored', detail: { message: restored, info } });
    }
  }
}

/** Loads the model again; where that one's device is lost too, on the CPU. */
async function recover(): Promise<void> {
  const now = performance.now();
  const cpu = losses.some((loss) => now - loss < 60_000);
  losses.push(now);
  try {
    await loaded().recover(cpu);
  } catch (error) {
    if (cpu || !['device-lost', 'gpu-error', 'webgpu-unavailable'].includes(toWire(error).code)) throw error;
    await loaded().recover(true);
  }
}

/** Whether the warning was given: once for a model is enough. */
let warnedOfSpecialTokens = false;

/** A prompt that spells out special tokens was most likely meant to have them. */
function warnOfSpecialTokens(input: Input): void {
  if (warnedOfSpecialTokens || !('prompt' in input) || input.special || !loaded().spellsOutSpecial(input.prompt)) return;
  warnedOfSpecialTokens = true;
  const message =
    "the prompt spells out special tokens, which are read as plain text: generate(prompt, { specialTokens: 'parse' }) reads them as tokens";
  post({ event: 'warning', detail: { reason: 'special-tokens', message } });
}

/** Of a conversation that is too long the error also says which message is the longest. */
function withLongestTurn(thrown: unknown, input: Input): unknown {
  const { code, message, remedy } = toWire(thrown);
  if (code !== 'context-overflow' || !('messages' in input)) return thrown;
  const lengths = input.messages.map(({ content }) => loaded().tokenize(content, false).length);
  const longest = lengths.indexOf(Math.max(...lengths));
  const which = `message ${longest + 1} of ${lengths.length} (${input.messages[longest]!.role}, ${lengths[longest]} tokens)`;
  return new MobileLLMError(code, `${message}; the longest turn is ${which}`, remedy);
}

async function generate({ session, input, options }: Calls['generate'][0], id: number): Promise<Calls['generate'][1]> {
  const engine = loaded();
  const number = await surviving(async () => sessionOf(session));
  const withTools = 'messages' in input && input.tools !== null;
  warnOfSpecialTokens(input);
  const prompt = await encode(input, true);
  try {
    engine.begin(number, prompt, { ...options, specialTokens: withTools });
  } catch (error) {
    throw withLongestTurn(error, input);
  }
  const tokenIds: number[] = [];
  const logprobs: TokenLogprobs[] = [];
  /** As decoded; with tools, calls and special tokens are in it. */
  let raw = '';
  let text = '';
  const emit = (tokens: Partial<Chunk>, upTo: string) => {
    const chunk = { text: upTo.slice(text.length), tokenIds: [], ...tokens };
    text = upTo;
    if (chunk.text || chunk.tokenIds.length > 0) post({ id, chunk });
  };
  const giveBack = (error: unknown) => {
    // The next call on the session begins anew; other sessions are as they were.
    if (toWire(error).code === 'gpu-out-of-memory') handlers.closeSession({ session }, id);
    throw error;
  };
  for (;;) {
    const stop = closing || stopped === id;
    const event = (stop ? engine.interrupt() : await surviving(() => engine.next()).catch(giveBack)) as EngineEvent;
    if (event.type !== 'prefill') raw += event.text;
    if (event.type === 'token') {
      tokenIds.push(event.tokenId);
      if (event.logprobs) logprobs.push(event.logprobs);
      emit(
        { tokenIds: [event.tokenId], ...(event.logprobs ? { logprobs: [event.logprobs] } : {}) },
        withTools ? raw.slice(0, plainLength(raw)) : raw,
      );
    } else if (event.type === 'done') {
      const split = withTools ? splitToolCalls(raw) : { text: raw, toolCalls: [] };
      emit({}, split.text);
      const { finishReason, usage, timings } = event;
      tellThreads();
      return {
        ...split,
        rawText: engine.detokenize(Uint32Array.from(tokenIds), true),
        tokenIds,
        ...(options.logprobs ? { logprobs } : {}),
        finishReason,
        usage,
        timings,
        seed: options.seed,
        used: engine.sessionTokens(number),
      };
    }
    await breathe();
  }
}

const handlers: Handlers = {
  async load(request, id) {
    const started = performance.now();
    const chosen = chooseDevice(request);
    const meter = new Meter((progress) => post({ id, progress }));
    const onEvent = (event: LoadEvent) => {
      if (event.type === 'progress') meter.add(event);
      else post({ event: 'warning', detail: warning(event) });
    };
    let { threads, reason } = threadCount(request.threads);
    const startThreads = async (words: number, config: string, precision: string, count: number) => {
      team.end();
      if (count === 1) return null;
      try {
        return await team.start(script, module, count || threads, words, config, precision);
      } catch (error) {
        [threads, reason] = [1, `one CPU thread: ${String(error)}`];
        return null;
      }
    };
    const stored = request.cache === 'indexeddb' && request.source.kind !== 'files' && !node;
    const reader = stored ? new PieceReader(script) : undefined;
    try {
      const forEngine = { ...request, device: chosen.device, environment: navigatorLike.userAgent ?? '' };
      const opened = await wasm.Engine.load(forEngine, onEvent, threads > 1 ? startThreads : undefined, reader);
      if (opened.needsSplitter) {
        await startSplitter();
        opened.openSplitter();
      }
      engine = opened;
    } finally {
      reader?.end();
    }
    meter.ready();
    const now = performance.now();
    describe = () => {
      const { fallbacks: _, selfCheckMs, ...info } = engine!.info() as EngineInfo;
      const [working, why] = engine!.threads() ?? [0, null];
      return {
        ...info,
        reason: [chosen.reason ?? info.reason, working > 0 && (why || reason)].filter(Boolean).join('; '),
        threads: working,
        model: modelName(request),
        timings: { loadMs: now - started, initMs: now - meter.lastByte, ...(selfCheckMs === null ? {} : { selfCheckMs }) },
      };
    };
    tellFallbacks();
    const info = describe();
    knownThreads = info.threads;
    return info;
  },
  generate,
  async openSession({ session, ...input }) {
    await startTemplates();
    if (input.tools && !input.chatTemplate) await loaded().findToolTemplate();
    // A model without a template, or with one that cannot be parsed, fails here.
    loaded().checkTemplate(input.chatTemplate ?? undefined, input.tools !== null);
    let used = 0;
    try {
      if (input.messages.length > 0) used = (await encode(input, false)).length;
    } catch (error) {
      // What a template refuses is an error of the turn that it refuses: many want a question, which is still to come.
      if (toWire(error).code !== 'chat-template') throw error;
    }
    return surviving(async () => {
      sessionOf(session);
      return { used };
    });
  },
  cloneSession({ session, from }) {
    return surviving(async () => {
      sessions.set(session, loaded().forkSession(sessionOf(from)));
      return null;
    });
  },
  closeSession({ session }) {
    const number = sessions.get(session);
    if (number !== undefined) loaded().closeSession(number);
    sessions.delete(session);
    return null;
  },
  tokenize: ({ text, special }) => [...loaded().tokenize(text, special)],
  detokenize: ({ ids }) => loaded().detokenize(Uint32Array.from(ids), false),
  score: ({ context, continuations, special }) => surviving(() => loaded().score(context, continuations, special)),
  availability: (request) => wasm.availability(request),
  async estimate(request) {
    const { freeBytes, ...sizes } = (await wasm.estimate(request)) as EngineEstimate;
    const adapter = await navigatorLike.gpu?.requestAdapter();
    // A wasm memory ends at 4 GiB; the GPU's own limit is known only buffer by buffer, and the largest is a fraction of the model.
    const cpu =
      sizes.cpuBytes < 2 ** 32 && (navigatorLike.deviceMemory === undefined || sizes.cpuBytes < navigatorLike.deviceMemory * 2 ** 30);
    return { ...sizes, fits: { disk: freeBytes === null ? null : sizes.downloadBytes <= freeBytes, gpu: adapter ? null : false, cpu } };
  },
  listModels: () => wasm.listModels(),
  async deleteModel(request) {
    await wasm.deleteModel(request);
    return null;
  },
  close() {
    engine?.free();
    engine = null;
    team.end();
    return null;
  },
};

let tail: Promise<unknown> = Promise.resolve();
function receive(message: ToWorker | { follow: FollowRequest } | { read: PieceRequest | null }): void {
  if ('read' in message) {
    void servePiece(message.read);
    return;
  }
  if ('follow' in message) {
    void follow(message.follow);
    return;
  }
  if ('stop' in message) {
    stopped = message.id;
    return;
  }
  if ('assets' in message) {
    ({ script, assets } = message);
    post({ ready: true });
    return;
  }
  const { id, call, args } = message;
  closing ||= call === 'close';
  tail = tail
    .then(start)
    .then(() => handlers[call](args as never, id))
    .then(
      (result) => post({ id, result }),
      (error) => post({ id, error: toWire(error) }),
    );
}

installFileFetch();
installPolicyFetch();
if (node) {
  node.threads.parentPort!.on('message', receive);
} else {
  scope.onmessage = ({ data }) => receive(data);
  // A trap inside a future shows up here and nowhere else: its promise would never settle.
  scope.addEventListener('unhandledrejection', ({ reason }) => post({ crashed: String(reason) }));
}

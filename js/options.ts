/** Strict checking of everything a caller passes: an option that is unknown or ill-typed never passes silently. */
import { invalidOption, reading, said } from './errors.js';
import type {
  CompletionOptions,
  SpecialTokensOption,
  AssetOptions,
  EstimateOptions,
  GenerateOptions,
  LoadOptions,
  Message,
  SessionOptions,
  SourceOptions,
  Tool,
} from './types.js';
import { node } from './platform.js';
import type { GenerateRequest, LoadRequest } from './protocol.js';

/** Says what a value should have been, or nothing if it is fine. */
type Check = (value: unknown) => string | undefined;
/** One check for each option, so that a new option without a check does not compile. */
type Schema<T> = { [K in keyof Required<T>]: Check };

const number =
  (low: number, high: number): Check =>
  (v) =>
    typeof v === 'number' && v >= low && v <= high ? undefined : `a number from ${low} to ${high}`;
const integer =
  (low: number, high = Number.MAX_SAFE_INTEGER): Check =>
  (v) =>
    Number.isSafeInteger(v) && (v as number) >= low && (v as number) <= high
      ? undefined
      : `an integer from ${low} to ${high === Number.MAX_SAFE_INTEGER ? '2^53 - 1' : high}`;
const boolean: Check = (v) => (typeof v === 'boolean' ? undefined : 'a boolean');
const string: Check = (v) => (typeof v === 'string' ? undefined : 'a string');
const text: Check = (v) => (typeof v === 'string' && v !== '' ? undefined : 'a string that is not empty');
const fn: Check = (v) => (typeof v === 'function' ? undefined : 'a function');
const oneOf =
  (...values: string[]): Check =>
  (v) =>
    values.includes(v as string) ? undefined : values.map((x) => `'${x}'`).join(' or ');
const arrayOf =
  (check: Check, what: string): Check =>
  (v) =>
    // Spread, since `every` passes over holes.
    Array.isArray(v) && [...v].every((x) => check(x) === undefined) ? undefined : `an array of ${what}`;
const signal: Check = (v) => (v instanceof AbortSignal && typeof v.aborted === 'boolean' ? undefined : 'an AbortSignal');
const folderUrl: Check = (v) =>
  typeof v === 'string' && URL.canParse(v) && URL.canParse('config.json', v) ? undefined : 'an absolute URL';

const isRecord = (v: unknown): v is Record<string, unknown> => typeof v === 'object' && v !== null && !Array.isArray(v);

const address: Check = (v) => (v instanceof URL || (typeof v === 'string' && v !== '') ? undefined : 'an address');
const assets: Schema<AssetOptions> = { workerUrl: address, wasmUrl: address };
const source: Schema<SourceOptions> = {
  ...assets,
  revision: text,
  token: text,
  mirrors: arrayOf(folderUrl, 'absolute URLs'),
  cache: oneOf('indexeddb', 'none'),
  signal,
};
const dtype = oneOf('f16', 'q8', 'q4');
const estimate: Schema<EstimateOptions> = { ...source, contextLength: integer(1), dtype };
const load: Schema<LoadOptions> = {
  ...estimate,
  device: oneOf('auto', 'webgpu', 'cpu'),
  threads: integer(1, 1024),
  verify: oneOf('always', 'first'),
  persist: boolean,
  selfCheck: boolean,
  gpuBudgetMs: number(1, 10_000),
  onProgress: fn,
  onWarning: fn,
};
const generate: Schema<GenerateOptions> = {
  maxTokens: integer(1),
  temperature: number(0, 100),
  topK: integer(0, 2 ** 32 - 1),
  topP: (v) => (typeof v === 'number' && v > 0 && v <= 1 ? undefined : 'a number above 0, at most 1'),
  minP: number(0, 1),
  repetitionPenalty: number(0.01, 100),
  presencePenalty: number(-100, 100),
  frequencyPenalty: number(-100, 100),
  seed: integer(0),
  stop: (v) => (text(v) && arrayOf(text, '')(v) ? 'a string or an array of strings, none empty' : undefined),
  stopTokenIds: arrayOf(integer(0, 2 ** 32 - 1), 'token ids'),
  logprobs: integer(0, 20),
  ignoreEos: boolean,
  signal,
};
const special: Schema<SpecialTokensOption> = { specialTokens: oneOf('text', 'parse') };
const session: Schema<SessionOptions> = {
  system: string,
  tools: (v) => arrayOf(tool, '')(v) && "an array of { name, description?, parameters? }, or of { type: 'function', function: {...} }",
  messages: (v) => arrayOf(message, '')(v) && 'an array of { role, content }',
  chatTemplate: text,
};

function tool(v: unknown): string | undefined {
  if (!isRecord(v)) return 'an object';
  const inner = v['type'] === 'function' ? v['function'] : v;
  return isRecord(inner) && typeof inner['name'] === 'string' ? undefined : 'a tool';
}

function message(v: unknown): string | undefined {
  const ok =
    isRecord(v) &&
    ['system', 'user', 'assistant', 'tool'].includes(v['role'] as string) &&
    typeof v['content'] === 'string' &&
    Object.keys(v).every((key) => ['role', 'content', 'toolCalls'].includes(key)) &&
    (v['toolCalls'] === undefined ||
      (v['role'] === 'assistant' &&
        Array.isArray(v['toolCalls']) &&
        v['toolCalls'].every((c) => isRecord(c) && typeof c['name'] === 'string' && isRecord(c['arguments']))));
  return ok ? undefined : 'a message';
}

/** `undefined` counts as not given. */
function check<T extends object>(call: string, options: unknown, schema: Schema<T>): T {
  if (options === undefined) return {} as T;
  if (!isRecord(options)) throw invalidOption(`${call}: options must be an object`);
  // Read once: a getter may say something else the next time.
  const given = { ...options };
  for (const [name, value] of Object.entries(given)) {
    const rule = Object.hasOwn(schema, name) ? schema[name as keyof T] : undefined;
    if (!rule) {
      const near = nearest(name, Object.keys(schema));
      throw invalidOption(`${call}: unknown option '${name}'${near ? `; did you mean '${near}'?` : ''}`);
    }
    const problem = value === undefined ? undefined : rule(value);
    if (problem) throw invalidOption(`${call}: option ${name}: ${show(value)} is not ${problem}`);
  }
  return given as T;
}

/** A copy of what goes to the chat template, which is given JSON. */
function plain<T>(call: string, name: string, value: unknown): T {
  try {
    const copy = structuredClone(value);
    // Throws for what a clone may hold and JSON may not: a bigint, a circle.
    JSON.stringify(copy);
    return copy as T;
  } catch (error) {
    throw invalidOption(`${call}: ${name} is not plain data: ${said(error)}`, error);
  }
}

export function show(value: unknown): string {
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch {
    // Shown as below.
  }
  return json === undefined || json.length > 60 ? `a value of type ${typeof value}` : json;
}

/** The known name that a misspelt one most likely meant. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  const plain = (s: string) => s.toLowerCase().replaceAll(/[-_]/g, '');
  const limit = Math.max(2, name.length / 3);
  const [best] = known.map((candidate) => [candidate, distance(plain(name), plain(candidate))] as const).sort((a, b) => a[1] - b[1]);
  return best && best[1] <= limit ? best[0] : undefined;
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

export const checkAssets = (call: string, options: unknown): AssetOptions =>
  reading(call, () => check<AssetOptions>(call, options, assets));

function assetOptions({ workerUrl, wasmUrl }: AssetOptions): AssetOptions {
  return { ...(workerUrl === undefined ? {} : { workerUrl }), ...(wasmUrl === undefined ? {} : { wasmUrl }) };
}

export const checkSource = (call: string, options: unknown) =>
  reading(call, () => {
    const o = check<SourceOptions>(call, options, source);
    return { signal: o.signal, assets: assetOptions(o), request: sourceRequest(o) };
  });

export const checkEstimate = (options: unknown) =>
  reading('estimate', () => {
    const o = check<EstimateOptions>('estimate', options, estimate);
    return {
      signal: o.signal,
      assets: assetOptions(o),
      request: { ...sourceRequest(o), contextLength: o.contextLength ?? null, dtype: o.dtype ?? null },
    };
  });

export const checkLoad = (options: unknown) =>
  reading('load', () => {
    const o = check<LoadOptions>('load', options, load);
    const request: Omit<LoadRequest, 'source'> = {
      ...sourceRequest(o),
      device: o.device ?? 'auto',
      dtype: o.dtype ?? null,
      contextLength: o.contextLength ?? null,
      threads: o.threads ?? null,
      verify: o.verify ?? 'always',
      selfCheck: o.selfCheck ?? true,
      gpuBudgetMs: o.gpuBudgetMs ?? null,
    };
    return {
      signal: o.signal,
      assets: assetOptions(o),
      onProgress: o.onProgress,
      onWarning: o.onWarning,
      persist: o.persist ?? true,
      request,
    };
  });

function sourceRequest(o: SourceOptions) {
  return {
    revision: o.revision ?? 'main',
    token: o.token ?? null,
    mirrors: [...(o.mirrors ?? [])],
    // Node has no IndexedDB, and files on disk need no copy.
    cache: node ? ('none' as const) : (o.cache ?? ('indexeddb' as const)),
  };
}

export const checkGenerate = (call: string, options: unknown): { signal: AbortSignal | undefined; request: GenerateRequest } =>
  reading(call, () => {
    const { signal, seed, stop = [], stopTokenIds = [], ...rest } = check<GenerateOptions>(call, options, generate);
    // What is undefined was not given: the engine has the defaults.
    const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
    const texts = typeof stop === 'string' ? [stop] : [...stop];
    const request = { ...given, seed: seed ?? Math.floor(Math.random() * 2 ** 53), stop: texts, stopTokenIds: [...stopTokenIds] };
    return { signal, request };
  });

/** The same for a completion, whose prompt may have special tokens in it. */
export function checkCompletion(call: string, options: unknown): ReturnType<typeof checkGenerate> & { special: boolean } {
  return reading(call, () => {
    const { specialTokens, ...rest } = check<CompletionOptions>(call, options, { ...generate, ...special });
    return { ...checkGenerate(call, rest), special: specialTokens === 'parse' };
  });
}

export const checkSpecial = (call: string, options: unknown): boolean =>
  reading(call, () => check<SpecialTokensOption>(call, options, special).specialTokens === 'parse');

export const checkSession = (options: unknown) =>
  reading('session', () => {
    const o = check<SessionOptions>('session', options, session);
    const system: Message[] = o.system === undefined ? [] : [{ role: 'system', content: o.system }];
    return {
      messages: [...system, ...plain<Message[]>('session', 'messages', o.messages ?? [])],
      tools: o.tools?.length ? plain<Tool[]>('session', 'tools', o.tools) : null,
      chatTemplate: o.chatTemplate ?? null,
    };
  });

/** What `send` takes: text, one message, or several (the results of tools, in the order of their calls). */
export const checkInput = (input: unknown): Message[] =>
  reading('send', () => {
    if (typeof input === 'string') return [{ role: 'user', content: input }];
    const messages = plain<unknown[]>('send', 'the message', Array.isArray(input) ? input : [input]);
    if (messages.length === 0 || [...messages].some((m) => message(m) || (m as Message).role === 'assistant')) {
      throw invalidOption("send: give a text, a message { role, content } or an array of such, with roles 'user', 'tool' or 'system'");
    }
    return messages as Message[];
  });

export const checkArgument = (call: string, name: string, value: unknown, kind: 'text' | 'texts' | 'ids'): void =>
  reading(call, () => {
    const rule = { text: string, texts: arrayOf(string, 'strings'), ids: arrayOf(integer(0, 2 ** 32 - 1), 'token ids') }[kind];
    const problem = rule(value);
    if (problem) throw invalidOption(`${call}: ${name}: ${show(value)} is not ${problem}`);
  });

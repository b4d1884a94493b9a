/** Every message between page and worker: types only. */
import type { Assets } from './assets.js';
import type { WireError } from './errors.js';
import type {
  Availability, Chunk, Estimate, EventDetail, GenerateResult, Info, LoadProgress, Message, ModelRecord, Score, Tool,
} from './types.js';

/** Where a model's files are, resolved: the worker knows neither the page's address nor the user's spelling. */
export type ResolvedSource =
  /** A folder in Hugging Face layout, whose address ends with a slash, or a file whose path ends with `.gguf`. */
  | { kind: 'url'; url: string }
  /** `org/name` or `org/name/file.gguf` on the hub; a revision here goes before the option. */
  | { kind: 'hub'; id: string; revision: string | null }
  /** The user's own files, by path within the model's folder. */
  | { kind: 'files'; name: string; files: { path: string; file: Blob }[] };

/** Options that concern the source. */
export interface SourceRequest {
  source: ResolvedSource;
  revision: string;
  token: string | null;
  mirrors: string[];
  cache: 'indexeddb' | 'none';
}

export interface LoadRequest extends SourceRequest {
  device: 'auto' | 'webgpu' | 'cpu';
  dtype: 'f16' | 'q8';
  /** Tokens; null: the smaller of the model's and 2048. */
  contextLength: number | null;
  /** CPU threads; null: all cores where the page is isolated, else 1. */
  threads: number | null;
  /** When the SHA-256 of a stored piece is checked. */
  verify: 'always' | 'first';
  selfCheck: boolean;
  /** Milliseconds; null: the default. */
  gpuBudgetMs: number | null;
}

/** The options of one run with every default filled in. */
export interface GenerateRequest {
  maxTokens: number | null;
  temperature: number;
  topK: number;
  topP: number;
  minP: number;
  repetitionPenalty: number;
  presencePenalty: number;
  frequencyPenalty: number;
  seed: number;
  stop: string[];
  stopTokenIds: number[];
  logprobs: number;
  ignoreEos: boolean;
}

export type Input =
  /** Completed as it stands. */
  | { prompt: string }
  /** Rendered by the chat template, which is asked for an answer. */
  | { messages: Message[]; tools: Tool[] | null; chatTemplate: string | null };

/** What the page can ask of the worker: arguments and result of each call. */
export interface Calls {
  load: [LoadRequest, Info];
  /** Session 0 is that of plain completions. */
  generate: [{ session: number; input: Input; options: GenerateRequest }, GenerateResult & { used: number }];
  openSession: [{ session: number; messages: Message[]; tools: Tool[] | null; chatTemplate: string | null }, { used: number }];
  cloneSession: [{ session: number; from: number }, null];
  closeSession: [{ session: number }, null];
  tokenize: [{ text: string }, number[]];
  detokenize: [{ ids: number[] }, string];
  score: [{ context: string; continuations: string[] }, Score[]];
  availability: [SourceRequest, Availability];
  estimate: [SourceRequest & { contextLength: number | null; dtype: 'f16' | 'q8' }, Estimate];
  listModels: [null, ModelRecord[]];
  deleteModel: [SourceRequest, null];
  close: [null, null];
}

export type Call = keyof Calls;

export type ToWorker =
  /** The first: where the worker's own script is, and what else it needs. */
  | { script: string; assets: Assets }
  | { [C in Call]: { id: number; call: C; args: Calls[C][0] } }[Call]
  /** End generation `id` early: it returns what it has. */
  | { id: number; stop: true };

export type FromWorker =
  /** To the first message. */
  | { ready: true }
  | Answer;

export type Answer =
  | { id: number; result: unknown }
  | { id: number; error: WireError }
  | { id: number; chunk: Chunk }
  | { id: number; progress: LoadProgress }
  | { event: 'fallback' | 'devicelost' | 'restored' | 'warning'; detail: EventDetail }
  /** A panic: nothing of the worker can be used after it. */
  | { crashed: string };

/** Every message between page and worker: types only. What the engine is asked and answers comes from generated.ts. */
import type { Assets, Script } from './assets.js';
import type { WireError } from './errors.js';
import type { EngineRequest, EstimateRequest, GenerateRequest as EngineGenerate, SourceRequest } from './generated.js';
import type {
  Availability,
  Chunk,
  Estimate,
  EventDetail,
  GenerateResult,
  Info,
  LoadProgress,
  Message,
  ModelRecord,
  Score,
  Tool,
} from './types.js';

export type { ResolvedSource, SourceRequest } from './generated.js';

export type LoadRequest = SourceRequest & Omit<EngineRequest, 'environment'>;

/** The options of one run that were given, and its seed; the engine has the defaults. */
export type GenerateRequest = Partial<Omit<EngineGenerate, 'specialTokens'>> & Pick<EngineGenerate, 'seed'>;

export type Input =
  /** Completed as it stands; `special`: special tokens in it are read as such. */
  | { prompt: string; special: boolean }
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
  tokenize: [{ text: string; special: boolean }, number[]];
  detokenize: [{ ids: number[] }, string];
  score: [{ context: string; continuations: string[]; special: boolean }, Score[]];
  availability: [SourceRequest, Availability];
  estimate: [SourceRequest & EstimateRequest, Estimate];
  listModels: [null, ModelRecord[]];
  deleteModel: [SourceRequest, null];
  close: [null, null];
}

export type Call = keyof Calls;

export type ToWorker =
  /** The first: where the worker's own script is, and what else it needs. */
  | { script: Script; assets: Assets }
  | { [C in Call]: { id: number; call: C; args: Calls[C][0] } }[Call]
  /** End generation `id` early: it returns what it has. */
  | { id: number; stop: true };

export type FromWorker =
  /** To the first message. */
  { ready: true } | Answer;

export type Answer =
  | { id: number; result: unknown }
  | { id: number; error: WireError }
  | { id: number; chunk: Chunk }
  | { id: number; progress: LoadProgress }
  | { event: 'fallback' | 'devicelost' | 'restored' | 'threads' | 'warning'; detail: EventDetail }
  /** A panic: nothing of the worker can be used after it. */
  | { crashed: string };

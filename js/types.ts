/** The public types. Units are in each comment. Those that the engine knows too come from generated.ts. */
import type {
  Cache,
  Device,
  DeviceChoice,
  Dtype,
  EngineEstimate,
  EngineInfo,
  FinishReason,
  GenerateRequest,
  LoadEvent,
  Phase,
  Progress,
  Timings,
  TokenLogprobs,
  Usage,
  Verify,
} from './generated.js';

export type {
  Availability,
  Device,
  Dtype,
  FinishReason,
  Logprob,
  ModelRecord,
  Score,
  Timings,
  TokenLogprobs,
  Usage,
} from './generated.js';

/**
 * Where a model's files are:
 * - the URL of a folder in Hugging Face layout: absolute, or relative to the page. A relative one begins with `/`, `./` or `../`, or ends with `/`;
 * - `org/name` or `org/name@revision`: a repository on the Hugging Face hub;
 * - the user's own files: `File`s of one folder, or a directory handle;
 * - in Node also the path of a folder.
 *
 * Or a GGUF, which holds everything in one file: its URL (the path ends with `.gguf`), `org/name/file.gguf` on the hub, a `File` or
 * any other `Blob`, an `ArrayBuffer` or a view of one, in Node its path. Of a split one (`-00001-of-00003.gguf`) any part's URL, id or path, or all parts' `File`s.
 */
export type Source = string | URL | readonly File[] | FileList | FileSystemDirectoryHandle | Blob | ArrayBuffer | ArrayBufferView;

/**
 * Where the package's own files are, for a bundler or host that does not put them where they are looked for. A folder (the address ends
 * with a slash) holds a copy of the package's `pkg/wasm/`; relative addresses are relative to the page.
 */
export interface AssetOptions {
  /** The folder, or the `worker.js` itself: that of `relaxed/` only where the browser has relaxed SIMD. */
  workerUrl?: string | URL;
  /** The folder, or the `.wasm` itself, of the same subfolder as the worker. Default: beside `workerUrl`, where that is given. */
  wasmUrl?: string | URL;
}

/** Options that say how a source is reached. */
export interface SourceOptions extends AssetOptions {
  /** Hub only: branch, tag or commit. Default `main`; resolved to a commit at the first load. */
  revision?: string;
  /** Access token for gated models; sent to the source's own origin only. */
  token?: string;
  /** Base URLs of folders with the same files, tried in turn when the source fails. */
  mirrors?: readonly string[];
  /** Where downloaded pieces are kept. Default `indexeddb` in a browser; Node always reads anew. */
  cache?: Cache;
  /** Aborts at any phase; what is already stored is kept. */
  signal?: AbortSignal;
}

/** Options of {@link MobileLLM.load}. */
export interface LoadOptions extends SourceOptions {
  /** Default `auto`: the best tier that passes its self-check; {@link Info.reason} says why. */
  device?: DeviceChoice;
  /** Default: the nearest that loses nothing, `f16` for what is published in 16 bits or more; a GGUF of 4 or 8 bits stays at these where that is exact. */
  dtype?: Dtype;
  /** Tokens of KV cache. Default: the smaller of the model's limit and 2048. */
  contextLength?: number;
  /**
   * CPU tier: number of threads, at most. Default where the page is cross-origin isolated: as many as there are cores, fewer if a
   * measurement of some 30 ms finds these faster; else 1. While other programs want the cores, one thread goes on alone and the
   * others sleep.
   */
  threads?: number;
  /**
   * When a piece's SHA-256 is checked: before it is stored and each time it is read (`always`, the default), or only before it
   * is stored (`first`: a warm load is faster, and storage that changed behind the library's back goes unnoticed).
   */
  verify?: Verify;
  /**
   * After a load that downloaded something and stored all of it: ask the browser to spare the site's storage from eviction
   * (`navigator.storage.persist()`). Default true. The load does not wait for the answer, which may be a question to the user, nor
   * fail by it.
   */
  persist?: boolean;
  /**
   * WebGPU tier: whether the GPU must compute what the CPU computes before it is used. Default true: at the first load of a model
   * with this browser, adapter and package version, and again at each load with `cache: 'none'`.
   */
  selfCheck?: boolean;
  /** WebGPU tier: GPU time of one submission in milliseconds, as far as can be told from earlier ones. Less leaves more of a slow GPU to the page. Default 16. */
  gpuBudgetMs?: number;
  /** Called at each change of phase and in between, at most 20 times a second. */
  onProgress?: (progress: LoadProgress) => void;
  /**
   * Hears the warnings of this load as they arise: another tab is downloading and is waited for, stored pieces are gone or damaged
   * and fetched again, storage fails. Without it they are the first `warning` events of the loaded model.
   */
  onWarning?: (warning: EventDetail) => void;
}

/** Options of {@link MobileLLM.estimate}. */
export interface EstimateOptions extends SourceOptions {
  /** Tokens of KV cache. Default as for {@link MobileLLM.load}. */
  contextLength?: number;
  /** Default as for {@link MobileLLM.load}. */
  dtype?: Dtype;
}

/** What a load is doing. */
export interface LoadProgress extends Omit<Progress, 'phase' | 'file'> {
  /**
   * The first thing that is not finished. Pieces pass from download to upload side by side, so `verify`, `store` and `upload` show for
   * the last of them only; a load from storage alone goes from `check` to `verify`. `compile` and `self-check` are the backend's.
   */
  phase: Phase | 'ready';
  /** The file at hand; null between files. */
  file: string | null;
}

/** A loaded model and where it runs. */
export interface Info extends Omit<EngineInfo, 'model' | 'fallbacks' | 'selfCheckMs'> {
  /** Name of the model: hub id or last part of the folder's address. */
  model: string;
  device: Device;
  /** CPU threads that compute now; changes with the event `threads`. */
  threads: number;
  /** Milliseconds: from the call until ready, the part of it that came after the last byte, and of that the GPU's self-check, if it ran. */
  timings: { loadMs: number; initMs: number; selfCheckMs?: number };
}

/** How an answer is chosen and when it ends. */
export interface GenerateOptions extends Partial<Omit<GenerateRequest, 'maxTokens' | 'seed' | 'stop' | 'stopTokenIds' | 'specialTokens'>> {
  /** Tokens of the answer at most. Default: until the context is full. */
  maxTokens?: number;
  /** Integer from 0 to 2^53 - 1. Same seed, same text. Default: random; {@link GenerateResult.seed} tells it. */
  seed?: number;
  /**
   * The answer ends before the first of these strings, which may span tokens; it is not part of the text. The text of a special
   * token ends it at that token.
   */
  stop?: string | readonly string[];
  /** The answer ends at any of these tokens, besides the model's own. */
  stopTokenIds?: readonly number[];
  /** Aborts the run: it rejects with the signal's reason. A session keeps what was said until then. */
  signal?: AbortSignal;
}

/** How special tokens such as `<|im_start|>` that a text spells out are read. */
export interface SpecialTokensOption {
  /**
   * `text` (default): as the characters they are, so that nothing that a stranger typed can pass for one. `parse`: as the tokens, for
   * prompts that the caller put together from a template of his own.
   */
  specialTokens?: 'text' | 'parse';
}

/** Options of {@link MobileLLM.generate}. */
export interface CompletionOptions extends GenerateOptions, SpecialTokensOption {}

/** A piece of an answer, as soon as it is known. */
export interface Chunk {
  /** Text to append; may be empty while a character or a stop string is incomplete. */
  text: string;
  /** Tokens since the last chunk. */
  tokenIds: number[];
  /** One for each token, if asked for. */
  logprobs?: TokenLogprobs[];
}

/** A call of one of the session's tools. */
export interface ToolCall {
  name: string;
  arguments: Record<string, unknown>;
}

/** A whole answer. */
export interface GenerateResult {
  /** The plain text: without special tokens, stop string and tool calls. */
  text: string;
  /** The text with special tokens and tool calls as the model wrote them. */
  rawText: string;
  /** Every token that was generated, the final one included. */
  tokenIds: number[];
  /** Calls of the session's tools, in order; empty if there are none or the session has no tools. */
  toolCalls: ToolCall[];
  /** One for each token, if asked for. */
  logprobs?: TokenLogprobs[];
  /** `stop`: end token, stop token or stop string; `length`: maxTokens; `context`: the KV cache is full; `abort`: the loop was left or {@link Run.stop} called. */
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
  /** The seed that was used. */
  seed: number;
}

/** A run: a stream of chunks and a promise of the whole. It starts by itself and in order; leaving a loop over it stops it. */
export interface Run extends AsyncIterable<Chunk> {
  /** The whole answer. An error that nobody awaits here or in a loop is not reported elsewhere. */
  readonly result: Promise<GenerateResult>;
  /** Ends the run within one token; `result` resolves with what there is and finishReason `abort`. */
  stop(): void;
}

/** One message of a conversation. */
export interface Message {
  role: 'system' | 'user' | 'assistant' | 'tool';
  /** Plain text; of a `tool` message the result, usually JSON. */
  content: string;
  /** Of an `assistant` message: the calls it made. */
  toolCalls?: ToolCall[];
}

/** A function that the model may call; either this or OpenAI's `{ type: 'function', function: {...} }` around it. */
export interface FunctionTool {
  name: string;
  description?: string;
  /** JSON schema of the arguments. */
  parameters?: Record<string, unknown>;
}

/** See {@link FunctionTool}. */
export type Tool = FunctionTool | { type: 'function'; function: FunctionTool };

/** Options of {@link MobileLLM.session}. */
export interface SessionOptions {
  /** The system message. */
  system?: string;
  /** Handed to the chat template; with tools, calls are taken out of the text into {@link GenerateResult.toolCalls}. */
  tools?: readonly Tool[];
  /** What was said before, without the system message. */
  messages?: readonly Message[];
  /** Jinja template in place of the model's own. */
  chatTemplate?: string;
}

/** What a model costs, in bytes. */
export interface Estimate extends Omit<EngineEstimate, 'freeBytes'> {
  /** Whether there is room; null where the browser does not tell. WebGPU never tells how much memory there is: `gpu` is false without an adapter, else null. */
  fits: { disk: boolean | null; gpu: boolean | null; cpu: boolean | null };
}

/** Detail of the events of {@link MobileLLM}. */
export interface EventDetail {
  message: string;
  /** Of a `warning`. */
  reason?: Exclude<LoadEvent['type'], 'progress'> | 'special-tokens';
  /** Of `fallback`, `restored` and `threads`: what {@link MobileLLM.info} is now. */
  info?: Info;
  [key: string]: unknown;
}

/**
 * Events of {@link MobileLLM}: `fallback` (another tier took over), `devicelost` and `restored` (GPU device), `threads`
 * (another number of CPU threads computes, since other programs want the cores or have gone), `warning`
 * (such as storage that cannot be used).
 */
export interface MobileLLMEventMap {
  fallback: CustomEvent<EventDetail>;
  devicelost: CustomEvent<EventDetail>;
  restored: CustomEvent<EventDetail>;
  threads: CustomEvent<EventDetail>;
  warning: CustomEvent<EventDetail>;
}

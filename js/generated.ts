// Written from the Rust types by the tests of src/protocol.rs: `UPDATE=1 cargo test --lib protocol`. Not edited by hand.

/** Stable names of everything that can go wrong; docs/errors.md lists causes and remedies. New ones may be added; none is renamed. */
export type ErrorCode =
  | 'aborted'
  | 'busy'
  | 'chat-template'
  | 'closed'
  | 'context-overflow'
  | 'cpu-threads'
  | 'crashed'
  | 'csp-blocked'
  | 'device-lost'
  | 'engine-unavailable'
  | 'file-not-found'
  | 'gated-model'
  | 'gpu-error'
  | 'gpu-out-of-memory'
  | 'integrity'
  | 'internal'
  | 'invalid-checkpoint'
  | 'invalid-config'
  | 'invalid-option'
  | 'invalid-tensor'
  | 'invalid-tokenizer'
  | 'io'
  | 'model-in-use'
  | 'network'
  | 'no-chat-template'
  | 'out-of-memory'
  | 'quota-exceeded'
  | 'self-check-failed'
  | 'storage'
  | 'unsupported-model'
  | 'web-page'
  | 'webgpu-unavailable';

/** What to do about the errors that TypeScript gives. */
export const REMEDIES = {
  "busy": "Stop the run and await its result first.",
  "closed": "Load the model, or open a session, again.",
  "crashed": "Load the model again; with device: 'cpu' or a smaller contextLength if it happens again. Please report this message.",
  "csp-blocked": "Add to the policy what the message names; docs/errors.md shows one that is enough.",
  "engine-unavailable": "Load in a page or a dedicated worker; serve the folder pkg/wasm/ of the package and name it by the options workerUrl and wasmUrl (docs/bundlers.md).",
  "internal": "Please report this message with the steps that led to it.",
  "invalid-option": "See the option's documentation for its name, type and range.",
  "io": "Check the path and its permissions.",
  "webgpu-unavailable": "Load with device: 'auto' or 'cpu', or use a browser with WebGPU.",
} as const satisfies Partial<Record<ErrorCode, string>>;

/** Whether a model is here: all of it, a part, nothing but it can be fetched, or not even that. */
export type Availability = "cached" | "partial" | "downloadable" | "unavailable";

/** Where downloaded pieces are kept. */
export type Cache = "indexeddb" | "none";

/** Which hardware computes. */
export type Device = "webgpu" | "cpu";

/** Which hardware is asked for. */
export type DeviceChoice = "auto" | "webgpu" | "cpu";

/** How weights are held in memory; the download is the same. */
export type Dtype = "f16" | "q8" | "q4";

/** What the engine throws. */
export type EngineError = { code: ErrorCode, message: string, remedy: string, };

/** What a model costs, in bytes. */
export type EngineEstimate = {
/** Still to be downloaded. */
downloadBytes: number,
/** In browser storage when loaded completely. */
diskBytes: number,
/** GPU memory on the WebGPU tier: weights, KV cache, scratch. */
gpuBytes: number,
/** Memory on the CPU tier. */
cpuBytes: number,
/** Free storage, where the browser tells. */
freeBytes: number | null, };

/** What one pull gave. */
export type EngineEvent = { "type": "prefill", done: number, total: number, } | { "type": "token", text: string, tokenId: number, logprobs: TokenLogprobs | null, } | { "type": "done",
/** Text that was held back and now is certain. */
text: string, finishReason: FinishReason, usage: Usage, timings: Timings, };

/** What was opened and where it runs. */
export type EngineInfo = {
/** Name of the model: hub id or address of the folder. */
model: string,
/** Stored parameters; a shared matrix counts once. */
parameters: number,
/** Transformer blocks in the checkpoint. */
storedBlocks: number,
/** Layers a token passes through: more than `storedBlocks` where layers are shared. */
executedLayers: number, hiddenSize: number, vocabSize: number,
/** Tokens of KV cache. */
contextLength: number, device: Device, dtype: Dtype,
/** Name of the GPU adapter, as far as the browser tells. */
adapter?: string,
/** What the chosen tier uses, such as `shader-f16`, `subgroups`, `simd128`, `relaxed-simd`. */
features: Array<string>,
/** Why this tier was chosen, in a sentence. */
reason: string,
/** Whether the model has a chat template; without one it only completes text. */
chat: boolean,
/** From the model card, where there is one. */
license?: string,
/** Where the weights came from. */
storage: LoadReport,
/** What was tried first and given up, in order. */
fallbacks: Array<string>,
/** Milliseconds that the GPU's self-check took; null if it did not run. */
selfCheckMs: number | null, };

/** What a load is told besides, in the same object as its `SourceRequest`. */
export type EngineRequest = { device: DeviceChoice,
/** Null: the nearest that loses nothing. */
dtype: Dtype | null,
/** Tokens of KV cache; null: the smaller of the model's limit and 2048. */
contextLength: number | null, verify: Verify, selfCheck: boolean,
/** Milliseconds; null: the default. */
gpuBudgetMs: number | null,
/** CPU threads at most; null: what measures fastest, all cores where the page is isolated, else 1. */
threads: number | null, cache: Cache,
/** Name and version of browser and system. */
environment: string, };

/** What an estimate is told besides, in the same object as its `SourceRequest`. */
export type EstimateRequest = {
/** Null: as for a load. */
dtype: Dtype | null,
/** Tokens of KV cache; null: as for a load. */
contextLength: number | null, };

/** Why a generation ended. */
export type FinishReason = "stop" | "length" | "context" | "abort";

/** How an answer is chosen and when it ends. Unknown fields are an error. */
export type GenerateRequest = {
/** Tokens of the answer at most; `null`: until the context is full. */
maxTokens: number | null,
/** 0 (default): always the most probable token. Else logits are divided by it. */
temperature: number,
/** Keep the k most probable tokens; 0 (default): all. */
topK: number,
/** Keep the smallest set of most probable tokens that reaches this probability; 1 (default): all. */
topP: number,
/** Keep tokens at least this fraction as probable as the most probable one; 0 (default): all. */
minP: number,
/** Divides positive and multiplies negative logits of tokens in prompt or answer; 1 (default): off. */
repetitionPenalty: number,
/** Subtracted from the logits of tokens that are in the answer; 0 (default): off. */
presencePenalty: number,
/** Subtracted once for each time that a token is in the answer; 0 (default): off. */
frequencyPenalty: number,
/** Integer from 0 to 2^53 - 1. Same seed, same text. */
seed: number,
/** The answer ends before the first of these strings, which may span tokens; it is not part of the text. */
stop: Array<string>,
/** The answer ends at any of these tokens, besides the model's own. */
stopTokenIds: Array<number>,
/** With each token, its log-probability and those of the n most probable ones, 0 to 20. Default 0: none. */
logprobs: number,
/** Go on after the model's end-of-text token. Default false. */
ignoreEos: boolean,
/** Show control tokens in the text (a stop token never). */
specialTokens: boolean, };

/** What a load tells while it runs. */
export type LoadEvent = { "type": "progress" } & Progress | { "type": "waiting" } | { "type": "evicted", pieces: number, of: number, bytes: number, } | { "type": "repaired", file: string, piece: string, } | { "type": "skipped", tensors: Array<string>, } | { "type": "storage-failed", code: ErrorCode, message: string, };

/** What a finished load did, in bytes. */
export type LoadReport = { totalBytes: number, cachedBytes: number, downloadedBytes: number,
/** Whether every piece is in storage now. */
stored: boolean,
/** Whether the browser promised to spare it from eviction. */
persisted: boolean, };

/** A token and its natural log-probability, before temperature, penalties and cuts. */
export type Logprob = { tokenId: number, logprob: number, };

/** A model in storage. */
export type ModelRecord = {
/** What load and delete take: address, hub id, or hub id and revision. */
source: string,
/** Commit of a hub's repository, else null. */
revision: string | null,
/** Bytes that are there. */
bytes: number,
/** Bytes of the whole model. */
totalBytes: number,
/** Whether every piece is there. */
complete: boolean,
/** Milliseconds since 1970-01-01 UTC. */
lastUsed: number, };

/**
 * The first thing that a load has not finished. Pieces pass through download, verification, store and upload side by side, so
 * that each of these phases but the longest only shows for the last pieces.
 */
export type Phase = "check" | "download" | "verify" | "store" | "upload" | "compile" | "self-check";

/** How far a load is. */
export type Progress = { phase: Phase,
/** Bytes of the model that are loaded, from network and storage together. */
loadedBytes: number,
/** Bytes of the whole model; 0 while not yet known. */
totalBytes: number,
/** Of `loadedBytes`, those that came from storage. */
cachedBytes: number,
/** Over the last seconds; 0 while not yet known. */
bytesPerSecond: number,
/** Seconds until every byte has arrived; null while not yet known. */
etaSeconds: number | null,
/** The file at hand; empty between files. */
file: string, };

/** Where a model's files are, resolved: the worker knows neither the page's address nor the user's spelling. */
export type ResolvedSource = { "kind": "url", url: string, } | { "kind": "hub", id: string, revision: string | null, } | { "kind": "files", name: string,
/** Read from the JavaScript object itself: serde cannot carry a `Blob`. */
files: { path: string; file: Blob }[], };

/** How probable a continuation is. */
export type Score = {
/** Natural log-likelihood of the continuation: the sum over its tokens. */
logprob: number,
/** Of each token of the continuation. */
tokens: Array<Logprob>,
/** Whether greedy decoding would have written exactly this. */
isGreedy: boolean, };

/** How a source is reached. */
export type SourceRequest = { source: ResolvedSource, revision: string, token: string | null, mirrors: Array<string>, cache: Cache, };

/** How long an answer took, by the wall clock; 0 where a phase had nothing to do. */
export type Timings = {
/** Milliseconds from the call to the first token. */
ttftMs: number,
/** Prompt tokens computed, over the time to the first token. */
prefillTokensPerSecond: number,
/** Tokens after the first, over the time after the first; 0 with fewer than two tokens. */
decodeTokensPerSecond: number, };

/** The chosen token and the most probable ones, best first. */
export type TokenLogprobs = { top: Array<Logprob>, tokenId: number, logprob: number, };

/** What an answer took, in tokens. */
export type Usage = { promptTokens: number,
/** Those of the prompt that the KV cache held already. */
cachedTokens: number,
/** Those of the answer, the final one included. */
completionTokens: number, };

/** When the SHA-256 of a stored piece is checked. */
export type Verify = "always" | "first";

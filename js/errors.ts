/** Stable names of everything that can go wrong. New ones may be added; none is renamed. */
export type ErrorCode =
  | 'invalid-option'
  | 'invalid-config'
  | 'unsupported-model'
  | 'file-not-found'
  | 'invalid-checkpoint'
  | 'invalid-tensor'
  | 'invalid-tokenizer'
  | 'chat-template'
  | 'no-chat-template'
  | 'context-overflow'
  | 'network'
  | 'gated-model'
  | 'integrity'
  | 'quota-exceeded'
  | 'storage'
  | 'model-in-use'
  | 'webgpu-unavailable'
  | 'gpu-out-of-memory'
  | 'device-lost'
  | 'gpu-error'
  | 'self-check-failed'
  | 'closed'
  | 'io'
  | 'busy'
  | 'engine-unavailable'
  | 'crashed'
  | 'internal';

/** An error as it crosses the worker boundary. */
export interface WireError {
  code: ErrorCode;
  message: string;
  remedy: string;
  cause?: unknown;
}

/**
 * Every failure of this package, except an abort: that rejects with the signal's own reason, as `fetch` does.
 */
export class MobileLLMError extends Error {
  override readonly name = 'MobileLLMError';
  /** What kind of failure this is, for programs. */
  readonly code: ErrorCode;
  /** What the reader of the message can do about it. */
  readonly remedy: string;

  constructor(code: ErrorCode, message: string, remedy: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.remedy = remedy;
  }

  /** @internal */
  static fromWire(error: WireError): MobileLLMError {
    return new MobileLLMError(error.code, error.message, error.remedy, error.cause);
  }
}

/** Anything that was thrown, as the form that survives structured cloning. */
export function toWire(thrown: unknown): WireError {
  const { code, message, remedy, cause } = (thrown ?? {}) as Partial<WireError>;
  if (typeof code === 'string' && typeof remedy === 'string') {
    return { code, message: String(message), remedy, ...(cause === undefined ? {} : { cause: cloneable(cause) }) };
  }
  return {
    code: 'internal',
    message: thrown instanceof Error ? `internal error: ${thrown.name}: ${thrown.message}` : `internal error: ${thrown}`,
    remedy: 'Please report this message with the steps that led to it.',
    ...(thrown instanceof Error ? { cause: cloneable(thrown) } : {}),
  };
}

function cloneable(cause: unknown): unknown {
  return cause instanceof Error ? Object.assign(new Error(cause.message), { name: cause.name, stack: cause.stack }) : String(cause);
}

export const invalidOption = (message: string): MobileLLMError =>
  new MobileLLMError('invalid-option', message, "See the option's documentation for its name, type and range.");

export const closedError = (what: string): MobileLLMError =>
  new MobileLLMError('closed', `${what} is closed`, 'Load the model, or open a session, again.');

export const crashedError = (detail: string, cause?: unknown): MobileLLMError =>
  new MobileLLMError(
    'crashed',
    `the engine's worker stopped: ${detail}`,
    "Load the model again; with device: 'cpu' or a smaller contextLength if it happens again. Please report this message.",
    cause,
  );

export const engineUnavailable = (message: string, cause?: unknown): MobileLLMError =>
  new MobileLLMError(
    'engine-unavailable',
    message,
    'Load in a page or a dedicated worker; serve the folder pkg/wasm/ of the package and name it by the options workerUrl and wasmUrl (docs/bundlers.md).',
    cause,
  );

import { REMEDIES, type EngineError, type ErrorCode } from './generated.js';

export type { ErrorCode } from './generated.js';

/** An error as it crosses the worker boundary. */
export interface WireError extends EngineError {
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

/** An error that is not the engine's; the remedy is that of its code unless the case has a better one. */
const ours = (code: keyof typeof REMEDIES, message: string, cause?: unknown, remedy: string = REMEDIES[code]): MobileLLMError =>
  new MobileLLMError(code, message, remedy, cause);

export const invalidOption = (message: string, cause?: unknown): MobileLLMError => ours('invalid-option', message, cause);

export const busyError = (message: string): MobileLLMError => ours('busy', message);

export const webGpuUnavailable = (message: string): MobileLLMError => ours('webgpu-unavailable', message);

export const closedError = (what: string): MobileLLMError => ours('closed', `${what} is closed`);

export const crashedError = (detail: string, cause?: unknown): MobileLLMError =>
  ours('crashed', `the engine's worker stopped: ${detail}`, cause);

export const engineUnavailable = (message: string, cause?: unknown): MobileLLMError => ours('engine-unavailable', message, cause);

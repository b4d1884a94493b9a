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

/** What a thrown value says, whatever it is. */
export function said(thrown: unknown): string {
  try {
    return thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
  } catch {
    return 'a value that cannot be shown';
  }
}

/** Anything that was thrown, as the form that survives structured cloning. */
export function toWire(thrown: unknown): WireError {
  const { code, message, remedy, cause } = outward(thrown) as MobileLLMError;
  return { code, message, remedy, ...(cause === undefined ? {} : { cause: cloneable(cause) }) };
}

/** A failure as it may leave the package: an error of ours, or the reason of the caller's own abort. */
export function outward(thrown: unknown, signal?: AbortSignal): unknown {
  if (thrown instanceof MobileLLMError || (signal?.aborted && thrown === signal.reason)) return thrown;
  const { code, message, remedy, cause } = Object(thrown) as Partial<WireError>;
  if (typeof code === 'string' && typeof remedy === 'string') return new MobileLLMError(code, String(message), remedy, cause);
  return ours('internal', `internal error: ${said(thrown)}`, thrown);
}

/** Runs what reads a caller's values: whatever a getter, a proxy or an iterator of theirs throws is a fault of the argument. */
export function reading<T>(call: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw error instanceof MobileLLMError ? error : invalidOption(`${call}: an argument could not be read: ${said(error)}`, error);
  }
}

/**
 * Lets the public methods and getters of a class say so when they are called without their object, as after
 * `const { generate } = llm`.
 */
export function bound<T extends object>(type: { readonly prototype: T; readonly name: string }, isOwn: (value: object) => boolean): void {
  const AsyncFunction = (async () => {}).constructor;
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(type.prototype))) {
    for (const part of ['value', 'get'] as const) {
      const inner: unknown = property[part];
      if (name === 'constructor' || typeof inner !== 'function') continue;
      property[part] = function (this: unknown, ...args: unknown[]): unknown {
        if (isOwn(Object(this))) return inner.apply(this, args);
        const error = invalidOption(`${name} was taken from its ${type.name}: call it as a method, or bind it`);
        if (inner instanceof AsyncFunction) return Promise.reject(error);
        throw error;
      };
      Object.defineProperty(type.prototype, name, property);
    }
  }
}

function cloneable(cause: unknown): unknown {
  return cause instanceof Error ? Object.assign(new Error(cause.message), { name: cause.name, stack: cause.stack }) : said(cause);
}

/** An error that is not the engine's; the remedy is that of its code unless the case has a better one. */
const ours = (code: keyof typeof REMEDIES, message: string, cause?: unknown, remedy: string = REMEDIES[code]): MobileLLMError =>
  new MobileLLMError(code, message, remedy, cause);

export const invalidOption = (message: string, cause?: unknown): MobileLLMError => ours('invalid-option', message, cause);

export const busyError = (message: string): MobileLLMError => ours('busy', message);

export const unreadable = (message: string, cause?: unknown): MobileLLMError => ours('io', message, cause);

export const cspBlocked = (what: string, needed: string, cause?: unknown): MobileLLMError =>
  ours('csp-blocked', `${what} is blocked by a Content-Security-Policy: add ${needed} to it`, cause);

export const webGpuUnavailable = (message: string): MobileLLMError => ours('webgpu-unavailable', message);

export const closedError = (what: string): MobileLLMError => ours('closed', `${what} is closed`);

export const crashedError = (detail: string, cause?: unknown): MobileLLMError =>
  ours('crashed', `the engine's worker stopped: ${detail}`, cause);

export const engineUnavailable = (message: string, cause?: unknown): MobileLLMError => ours('engine-unavailable', message, cause);

/** What a Content-Security-Policy forbids. The failures themselves do not tell: an event beside them does. */
import { said } from './errors.js';

interface Violation {
  directive: string;
  /** Or its origin, or its scheme alone, or what else was blocked. */
  blocked: string;
}

/** The last ones. */
const seen: Violation[] = [];
const KEPT = 50;
/** Milliseconds within which the event follows the failure. */
const LATER = 50;

let watching = false;

/** Hears of violations from now on. */
export function watchPolicy(): void {
  if (watching || typeof globalThis.addEventListener !== 'function') return;
  watching = true;
  globalThis.addEventListener('securitypolicyviolation', (event) => {
    const { effectiveDirective: directive, blockedURI: blocked } = event as SecurityPolicyViolationEvent;
    seen.push({ directive, blocked });
    seen.splice(0, seen.length - KEPT);
  });
}

/** What a policy would have to allow, if one of these directives was in the way of `address`; else null. */
export async function forbidden(address: string, directives: readonly string[]): Promise<string | null> {
  if (!watching) return null;
  await new Promise((resolve) => setTimeout(resolve, LATER));
  const url = new URL(address);
  const one = seen.find(
    ({ directive, blocked }) =>
      directives.includes(directive) && (blocked === address || address.startsWith(`${blocked}:`) || originOf(blocked) === url.origin),
  );
  if (!one) return null;
  const whom =
    url.protocol === 'blob:' || url.protocol === 'data:'
      ? url.protocol
      : url.origin === globalThis.location?.origin
        ? "'self'"
        : url.origin;
  return `${one.directive} ${whom}`;
}

const originOf = (address: string): string | null => (URL.canParse(address) ? new URL(address).origin : null);

/** What `new Worker` throws where the page demands TrustedScriptURL; null: something else. */
export const untrusted = (thrown: unknown): string | null =>
  /TrustedScriptURL/.test(said(thrown))
    ? "a default policy of Trusted Types with createScriptURL, or no require-trusted-types-for 'script',"
    : null;

/** What compiling wasm throws where a policy forbids it; null: something else. */
export const noWasm = (thrown: unknown): string | null =>
  /unsafe-eval|Content.Security.Policy|\bCSP\b/i.test(said(thrown)) ? "script-src 'wasm-unsafe-eval'" : null;

/** A request that a policy forbade. */
export class Forbidden extends Error {
  constructor(
    message: string,
    readonly needed: string,
  ) {
    super(message);
  }
}

/** From now on `fetch` fails with {@link Forbidden} where that is the reason: `src/web/fetch.rs` reads it. */
export function installPolicyFetch(): void {
  watchPolicy();
  if (!watching) return;
  const fetchWeb = globalThis.fetch;
  globalThis.fetch = async (input, options) => {
    try {
      return await fetchWeb(input, options);
    } catch (error) {
      const needed = options?.signal?.aborted
        ? null
        : await forbidden(new URL(input instanceof Request ? input.url : input, globalThis.location?.href).href, ['connect-src']);
      throw needed === null ? error : new Forbidden(said(error), needed);
    }
  };
}

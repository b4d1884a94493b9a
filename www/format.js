// @ts-check
/** @param {number} n bytes, decimal units as drives and browsers count them */
export function bytes(n) {
  if (!Number.isFinite(n)) return 'unknown';
  if (n < 1000) return `${n} B`;
  const unit = Math.min(Math.floor(Math.log10(n) / 3), 4);
  const value = n / 1000 ** unit;
  return `${value.toFixed(unit > 1 && value < 100 ? 1 : 0)} ${['B', 'kB', 'MB', 'GB', 'TB'][unit]}`;
}

/** @param {number} s @returns {string} '8 s', '3 min 20 s', '1 h 5 min' */
export function seconds(s) {
  if (!Number.isFinite(s)) return '';
  s = Math.max(0, Math.round(s));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 ? ` ${s % 60} s` : ''}`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}

/** @param {number} s @returns {string} a count-down: '1:05', '1:00:00' */
export function countdown(s) {
  s = Math.max(0, Math.ceil(s));
  const pad = (/** @type {number} */ n) => String(n).padStart(2, '0');
  const hours = Math.floor(s / 3600);
  return `${hours ? `${hours}:` : ''}${hours ? pad(Math.floor((s % 3600) / 60)) : Math.floor(s / 60)}:${pad(s % 60)}`;
}

/** @param {number} n @returns {string} '125 M', '13.8 M', '1.5 B' */
export function parameters(n) {
  const [value, unit] = n >= 1e9 ? [n / 1e9, 'B'] : [n / 1e6, 'M'];
  return `${value < 100 ? Number(value.toFixed(1)) : Math.round(value)} ${unit}`;
}

/** @param {number} n */
export const rate = (n) => (n >= 100 ? Math.round(n).toLocaleString('en') : n.toFixed(1));

/** What happened when a chain of runs answered one message. @param {{ usage?: any, timings?: any }[]} runs @returns {string[]} short facts */
export function runFacts(runs) {
  const sum = (/** @type {(r: any) => number | undefined} */ f) => runs.reduce((total, r) => total + (f(r) ?? 0), 0);
  const completion = sum((r) => r.usage?.completionTokens);
  // The rate counts tokens after the first of each run, over the time they took.
  const decodeSeconds = sum((r) =>
    r.timings?.decodeTokensPerSecond > 0 ? (r.usage.completionTokens - 1) / r.timings.decodeTokensPerSecond : 0,
  );
  const decoded = sum((r) => (r.timings?.decodeTokensPerSecond > 0 ? r.usage.completionTokens - 1 : 0));
  const first = runs[0]?.timings?.ttftMs;
  const cached = sum((r) => r.usage?.cachedTokens);
  const prompt = sum((r) => r.usage?.promptTokens);
  return [
    decodeSeconds > 0 && `${rate(decoded / decodeSeconds)} tokens/s`,
    completion > 0 && `${completion} token${completion === 1 ? '' : 's'}`,
    first > 0 && `first after ${first < 1000 ? `${Math.round(first)} ms` : `${(first / 1000).toFixed(1)} s`}`,
    prompt > 0 && `${cached} of ${prompt} prompt tokens from cache`,
  ].filter((f) => typeof f === 'string');
}

/** @param {unknown} error @returns {{ message: string, remedy: string, code: string }} */
export function explain(error) {
  const e = /** @type {any} */ (error);
  return { message: e?.message || String(error), remedy: e?.remedy ?? '', code: e?.code && typeof e.code === 'string' ? e.code : '' };
}

/** @param {unknown} error */
export const isAbort = (error) => /** @type {any} */ (error)?.name === 'AbortError';

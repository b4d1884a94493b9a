/**
 * Takes tool calls out of an answer. Two notations are known: `<|call|>{json}`, one marker before each call until the next
 * marker or the end, and `<tool_call>{json}</tool_call>` (Hermes, SmolLM2, Qwen). The JSON is `{"name": ..., "arguments": {...}}`.
 */
import type { ToolCall } from './types.js';

const OPEN = ['<|call|>', '<tool_call>'] as const;
const CLOSE = '</tool_call>';

export interface Split {
  /** Everything outside calls, and what looked like a call but is none. */
  text: string;
  toolCalls: ToolCall[];
}

export function splitToolCalls(raw: string): Split {
  const parts = raw.split(new RegExp(`(${OPEN.map((m) => m.replaceAll('|', '\\|')).join('|')})`));
  const plain = parts[0]!;
  let rest = '';
  const toolCalls: ToolCall[] = [];
  for (let i = 1; i < parts.length; i += 2) {
    const body = parts[i + 1]!;
    const end = parts[i] === '<tool_call>' ? body.indexOf(CLOSE) : -1;
    const call = parseCall(end < 0 ? body : body.slice(0, end));
    if (call) toolCalls.push(call);
    else rest += body;
    if (call && end >= 0) rest += body.slice(end + CLOSE.length);
  }
  // Line breaks between calls are no text.
  return { text: rest.trim() === '' ? plain : plain + rest, toolCalls };
}

function parseCall(json: string): ToolCall | null {
  let call: unknown;
  try {
    call = JSON.parse(json);
  } catch {
    return null;
  }
  const { name, arguments: args = {} } = (call ?? {}) as Partial<ToolCall>;
  return typeof name === 'string' && typeof args === 'object' && args !== null && !Array.isArray(args) ? { name, arguments: args } : null;
}

/** Length of the text that surely precedes any call: up to the first marker, or to what may be the beginning of one. */
export function plainLength(raw: string): number {
  const found = OPEN.map((marker) => raw.indexOf(marker)).filter((at) => at >= 0);
  if (found.length > 0) return Math.min(...found);
  const held = OPEN.map((marker) => {
    for (let n = Math.min(marker.length - 1, raw.length); n > 0; n--) if (raw.endsWith(marker.slice(0, n))) return n;
    return 0;
  });
  return raw.length - Math.max(...held);
}

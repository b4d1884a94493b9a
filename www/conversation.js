// @ts-check
/**
 * One message of the user with all that answered it. A step is one run of the model: text, or calls that the page did before the next step.
 * @typedef {{ text: string, calls: import('./cards.js').CallState[] }} Step
 * @typedef {{ user: string, steps: Step[], runs: any[], finish?: string, error?: ReturnType<typeof import('./format.js').explain>, warmth?: number, tokens?: number, dropped?: number, next?: string[] }} Turn
 *   tokens: of the context that it took, where known; dropped: how many turns were left out of the context for it;
 *   next: what to try after it
 */

/** @param {Turn[]} turns @returns {any[]} the conversation as the library takes it */
export function toMessages(turns) {
  // A message that failed was never said: it may be what did not fit.
  return turns
    .filter((t) => !t.error || t.steps.length)
    .flatMap(({ user, steps }) => [
      { role: 'user', content: user },
      ...steps.flatMap(({ text, calls }) =>
        calls.length
          ? [
              { role: 'assistant', content: text, toolCalls: calls.map((c) => ({ name: c.name, arguments: c.arguments })) },
              ...toolMessages(calls),
            ]
          : text
            ? [{ role: 'assistant', content: text }]
            : [],
      ),
    ]);
}

/** The results, in the calls' order. */
export const toolMessages = (/** @type {import('./cards.js').CallState[]} */ calls) =>
  calls.map((c) => ({ role: 'tool', content: JSON.stringify(c.result ?? { ok: false, error: 'stopped' }) }));

/** At least this share of the context is free after turns were left out, or the next message would leave out another and have all computed again. */
const FREE = 0.25;

/**
 * Where the conversation that the model sees begins: whole turns are left out, oldest first, until the next one fits.
 * @param {number[]} tokens of each turn so far @param {number} from where it began until now @param {number} capacity @param {number} need tokens of the next turn
 */
export function firstSeen(tokens, from, capacity, need) {
  let sum = tokens.slice(from).reduce((a, b) => a + b, 0);
  // Nothing is gained by leaving out turns for one that is too long by itself.
  if (sum + need <= capacity || need > capacity) return from;
  while (from < tokens.length && sum > capacity - Math.max(need, FREE * capacity)) sum -= tokens[from++];
  return from;
}

/** Whether an answer holds a call that could not be read: cut, or no JSON. @param {{ rawText: string, toolCalls: unknown[] }} result */
export const hasBrokenCall = ({ rawText, toolCalls }) => rawText.split(/<\|call\|>|<tool_call>/).length - 1 > toolCalls.length;

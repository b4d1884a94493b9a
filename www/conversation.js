// @ts-check
/**
 * One message of the user with all that answered it. A step is one run of the model: text, or calls that the page did before the next step.
 * @typedef {{ text: string, calls: import('./cards.js').CallState[] }} Step
 * @typedef {{ user: string, steps: Step[], runs: any[], finish?: string, error?: ReturnType<typeof import('./format.js').explain>, warmth?: number }} Turn
 */

/** @param {Turn[]} turns @returns {any[]} the conversation as the library takes it */
export function toMessages(turns) {
  return turns.flatMap(({ user, steps }) => [
    { role: 'user', content: user },
    ...steps.flatMap(({ text, calls }) => (calls.length
      ? [{ role: 'assistant', content: text, toolCalls: calls.map((c) => ({ name: c.name, arguments: c.arguments })) }, ...toolMessages(calls)]
      : text ? [{ role: 'assistant', content: text }] : [])),
  ]);
}

/** The results, in the calls' order. */
export const toolMessages = (/** @type {import('./cards.js').CallState[]} */ calls) =>
  calls.map((c) => ({ role: 'tool', content: JSON.stringify(c.result ?? { ok: false, error: 'stopped' }) }));

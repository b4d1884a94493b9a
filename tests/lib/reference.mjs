// The recorded answers of PyTorch, and how a conversation of the fixtures is put to the public API.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';

const fixture = (name) => readFileSync(join(root, 'tests/fixtures/demo', name), 'utf8');
const lines = (name) =>
  fixture(name)
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

/** Messages as the package spells them. */
const messages = (turns) =>
  turns.map(({ role, content = '', tool_calls }) => ({ role, content, ...(tool_calls ? { toolCalls: tool_calls } : {}) }));

/** Which of the last messages are said now: results of tools belong together. */
function split(turns) {
  const all = messages(turns);
  let last = all.length - 1;
  while (all[last].role === 'tool' && all[last - 1]?.role === 'tool') last--;
  const [head, ...rest] = all;
  const system = head.role === 'system' ? head.content : undefined;
  return { system, before: (system === undefined ? all : rest).slice(0, system === undefined ? last : last - 1), input: all.slice(last) };
}

/** The 20 prompts of reference.json. */
export const references = JSON.parse(fixture('reference.json')).prompts.map((prompt) => ({
  ...split(prompt.turns),
  promptTokens: prompt.token_ids.length,
  ids: prompt.greedy_ids,
  // What a reader sees: special tokens gone.
  text: prompt.greedy_text.replaceAll(/<\|\w+\|>/g, ''),
  toolCalls: Array.isArray(prompt.parsed) ? prompt.parsed : [],
}));

/** The first `count` dialogues of test-api-calls.jsonl with the calls that are wanted, what PyTorch answered, and how that scored. */
export function dialogues(count) {
  const expected = new Map(lines('expected-greedy.jsonl').map((line) => [line.id, line]));
  return lines('test-api-calls.jsonl')
    .slice(0, count)
    .map(({ id, messages: turns, expected: { tool_calls: wanted = [] } }) => {
      const { greedy_ids: ids, prompt_tokens: promptTokens, intent, exact } = expected.get(id);
      return { ...split(turns), ids, promptTokens, wanted, intent, exact };
    });
}

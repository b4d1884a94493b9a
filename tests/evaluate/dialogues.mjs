// How much function calling loses in 8 bits: the dialogues of test-api-calls.jsonl through the public API in Node, scored as
// tests/reference/README.md says. Fails if a score is off PyTorch's (float32 on f16 weights) by more than 0.5 points, or, with
// f16, by more than 0.3 or if less than 99% of the answers have its ids.
//   node tests/evaluate/dialogues.mjs [f16|q8|q4] [number of dialogues]     default: q8, all 1,561
import { isDeepStrictEqual } from 'node:util';
import { join } from 'node:path';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';
import { dialogues } from '../lib/reference.mjs';

const [dtype = 'q8', count = '1561'] = process.argv.slice(2);
const cases = dialogues(Number(count));
const llm = await MobileLLM.load(join(root, 'www/models/demo'), { device: 'cpu', dtype, threads: 1 });

/** The calls of an answer; null if one is not JSON. */
function calls(rawText) {
  try {
    return rawText
      .split('<|call|>')
      .slice(1)
      .map((call) => JSON.parse(call.split('<|end|>')[0]));
  } catch {
    return null;
  }
}

const sums = { ids: 0, intent: 0, structure: 0, intentPyTorch: 0, structurePyTorch: 0 };
for (const [i, { system, before, input, ids, wanted, intent, exact }] of cases.entries()) {
  const chat = await llm.session({ system, messages: before });
  const { tokenIds, rawText } = await chat.send(input, { maxTokens: 160 }).result;
  chat.close();
  const got = calls(rawText);
  const names = (list) => list.map(({ name }) => name);
  sums.ids += isDeepStrictEqual(tokenIds, ids);
  sums.intent += got !== null && isDeepStrictEqual(names(got), names(wanted));
  sums.structure += isDeepStrictEqual(got, wanted);
  sums.intentPyTorch += intent;
  sums.structurePyTorch += exact;
  if ((i + 1) % 100 === 0) console.error(`${i + 1} of ${cases.length}`);
}
await llm.close();

const percent = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, (100 * sum) / cases.length]));
const { ids, intent, structure, intentPyTorch, structurePyTorch } = percent;
console.log(
  `${dtype}, ${cases.length} dialogues: ids as PyTorch's ${ids.toFixed(2)}%; EM_intent ${intent.toFixed(2)} (PyTorch ` +
    `${intentPyTorch.toFixed(2)}); EM_structure ${structure.toFixed(2)} (PyTorch ${structurePyTorch.toFixed(2)})`,
);
const points = dtype === 'q8' ? 0.5 : 0.3;
const sound =
  Math.abs(intent - intentPyTorch) <= points && Math.abs(structure - structurePyTorch) <= points && (dtype === 'q8' || ids >= 99);
if (!sound) process.exitCode = 1;

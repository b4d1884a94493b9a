// A long prompt on the CPU can be given up: the pass under way ends, the rest of the prompt is not read.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { MobileLLM } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';

for (const threads of [1, 2])
  test(`an abort acts within a chunk of the prompt, threads: ${threads}`, async () => {
    const llm = await MobileLLM.load(join(root, 'www/models/demo'), { device: 'cpu', threads });
    assert.equal(llm.info.threads, threads);
    // Begins differently each time, so that no cache helps.
    const prompt = (i) => `${i} ${'Remind me to water the plants. '.repeat(130)}`;
    const read = async (i, signal) => {
      const start = performance.now();
      const usage = await llm.generate(prompt(i), { maxTokens: 1, signal }).result.then(
        (r) => r.usage,
        (error) => error,
      );
      return { usage, ms: performance.now() - start };
    };
    try {
      await read(0);
      const whole = await read(1);
      assert.ok(whole.usage.promptTokens > 5 * 128, `several chunks: ${whole.usage.promptTokens} tokens`);
      // The shortest of three, since other programs share the machine.
      const times = [];
      for (let i = 2; i < 5; i++) {
        const controller = new AbortController();
        const run = read(i, controller.signal);
        await sleep(whole.ms / 5);
        const asked = performance.now();
        controller.abort(new Error('enough'));
        const { usage } = await run;
        assert.match(String(usage), /enough/);
        // The worker is free again, not merely the promise settled.
        await llm.generate('hi', { maxTokens: 1 }).result;
        times.push(performance.now() - asked);
      }
      assert.ok(Math.min(...times) < whole.ms * 0.5, `whole prompt ${whole.ms} ms; free ${times} ms after the abort`);
      console.log(`whole ${whole.usage.promptTokens} tokens ${whole.ms.toFixed(0)} ms; free after ${times.map((t) => t.toFixed(0))} ms`);
    } finally {
      await llm.close();
    }
  });

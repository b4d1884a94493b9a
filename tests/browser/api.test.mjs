// The public API's promises. What the tiers could do differently is checked on both; WebGPU in software is slow.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { open } from '../lib/browser.mjs';

for (const device of ['cpu', 'webgpu']) {
  describe(device, () => {
    let session;
    const onCpu = device === 'cpu' ? test : () => {};
    const inPage = (work, argument) => session.page.evaluate(work, argument);
    before(async () => {
      session = await open({ webgpu: 'software' });
      await inPage(async (device) => {
        globalThis.phases = [];
        globalThis.llm = await MobileLLM.load('/models/demo/', { device, onProgress: (p) => phases.push(p) });
      }, device);
    });
    after(() => session?.end());

    test('info describes the demo model', async () => {
      const info = await inPage(() => llm.info);
      const { parameters, storedBlocks, executedLayers, hiddenSize, vocabSize, contextLength, dtype, chat } = info;
      assert.deepEqual(
        { parameters, storedBlocks, executedLayers, hiddenSize, vocabSize, contextLength, dtype, chat },
        {
          parameters: 13_769_088,
          storedBlocks: 8,
          executedLayers: 16,
          hiddenSize: 384,
          vocabSize: 6144,
          contextLength: 2048,
          dtype: 'f16',
          chat: true,
        },
      );
      assert.equal(info.device, device);
      assert.match(info.reason, /\w+ \w+/);
      assert.ok(info.timings.loadMs > 0 && info.timings.initMs >= 0);
    });

    onCpu('progress goes from check to ready and counts every byte', async () => {
      const phases = await inPage(() => phases);
      assert.equal(phases[0].phase, 'check');
      const last = phases.at(-1);
      assert.equal(last.phase, 'ready');
      assert.ok(last.totalBytes > 27_500_000, `${last.totalBytes}`);
      assert.equal(last.loadedBytes, last.totalBytes);
      const loaded = phases.map((p) => p.loadedBytes);
      assert.deepEqual(
        loaded,
        [...loaded].sort((a, b) => a - b),
      );
    });

    test('a second turn computes only what is new, also after a stop', async () => {
      const { first, second, third, stopped, usage } = await inPage(async () => {
        const chat = await llm.session();
        const first = await chat.send('what can you do?').result;
        const run = chat.send('what time is it in Tokyo?');
        let seen = 0;
        for await (const chunk of run) if (chunk.tokenIds.length > 0 && ++seen === 3) break;
        const stopped = await run.result;
        const second = stopped;
        const third = await chat.send('dark mode please').result;
        return { first, second, third, stopped, usage: chat.contextUsage };
      });
      assert.equal(first.usage.cachedTokens, 0);
      // All of the first turn but what the closing of the answer may change.
      const turn = first.usage.promptTokens + first.usage.completionTokens;
      assert.ok(second.usage.cachedTokens >= turn - 2, `${second.usage.cachedTokens} of ${turn}`);
      assert.equal(stopped.finishReason, 'abort');
      assert.ok(stopped.tokenIds.length >= 3 && stopped.tokenIds.length <= 5, `${stopped.tokenIds}`);
      assert.ok(third.usage.cachedTokens >= second.usage.promptTokens, `${third.usage.cachedTokens}`);
      assert.equal(usage.capacity, 2048);
      assert.ok(usage.used >= third.usage.promptTokens, `${usage.used}`);
    });

    test('messages, regenerate, truncate and clone', async () => {
      const got = await inPage(async () => {
        const chat = await llm.session({ system: 'You are a helpful offline assistant.' });
        const first = await chat.send('hi').result;
        const again = await chat.regenerate().result;
        const copy = await chat.clone();
        const inCopy = await copy.send('dark mode please').result;
        const length = chat.messages.length;
        chat.truncate(1);
        const truncated = chat.messages;
        const edited = await chat.send('what can you do?').result;
        return { first, again, inCopy, length, truncated, edited, messages: chat.messages, copied: copy.messages };
      });
      assert.equal(got.again.text, got.first.text);
      assert.equal(got.length, 3);
      assert.deepEqual(got.truncated, [{ role: 'system', content: 'You are a helpful offline assistant.' }]);
      assert.deepEqual(
        got.messages.map((m) => m.role),
        ['system', 'user', 'assistant'],
      );
      assert.equal(got.messages[2].content, got.edited.text);
      assert.equal(got.copied.length, 5);
      assert.ok(got.inCopy.usage.cachedTokens >= got.again.usage.promptTokens, 'the copy has the cache');
    });

    onCpu('two sessions at once: each as if it were alone', async () => {
      const { together, alone, order } = await inPage(async () => {
        const ask = async (chat, texts, order) => {
          const out = [];
          for (const text of texts) out.push((await chat.send(text).result).text);
          order?.push(texts[0]);
          return out;
        };
        const [a, b, c, d] = await Promise.all([llm.session(), llm.session(), llm.session(), llm.session()]);
        const [x, y] = [
          ['hi', 'what can you do?'],
          ['set an alarm', 'quarter past 6 tomorrow'],
        ];
        const together = await Promise.all([ask(a, x), ask(b, y)]);
        const alone = [await ask(c, x), await ask(d, y)];
        const order = [];
        const runs = ['hi', 'what can you do?', 'dark mode please'].map((text, i) =>
          llm.generate(text, { maxTokens: 3 }).result.then(() => order.push(i)),
        );
        await Promise.all(runs);
        return { together, alone, order };
      });
      assert.deepEqual(together, alone);
      assert.deepEqual(order, [0, 1, 2]);
    });

    test('an abort rejects with the reason of the signal, in the queue and under way', async () => {
      const got = await inPage(async () => {
        const chat = await llm.session();
        const running = new AbortController();
        const queued = new AbortController();
        const run = chat.send('what can you do?', { signal: running.signal });
        const waiting = llm.generate('hi', { signal: queued.signal });
        queued.abort(new Error('not any more'));
        const inQueue = await rejection(waiting.result);
        let chunks = 0;
        let thrown;
        try {
          for await (const chunk of run) if (chunk.tokenIds.length > 0 && ++chunks === 2) running.abort();
        } catch (error) {
          thrown = describe(error);
        }
        const messages = chat.messages;
        const already = await rejection(llm.generate('hi', { signal: AbortSignal.abort() }).result);
        const after = (await chat.send('hi').result).text;
        return { inQueue, thrown, messages, already, after };
      });
      assert.equal(got.inQueue.message, 'not any more');
      assert.equal(got.thrown.name, 'AbortError');
      assert.equal(got.already.name, 'AbortError');
      assert.deepEqual(
        got.messages.map((m) => m.role),
        ['user', 'assistant'],
      );
      assert.ok(got.messages[1].content.length > 0);
      assert.ok(got.after.length > 0);
    });

    onCpu('stop strings that span tokens, stop ids and maxTokens end an answer', async () => {
      const got = await inPage(async () => {
        const text = async (options) => {
          const chat = await llm.session();
          const run = chat.send('what can you do?', options);
          let streamed = '';
          for await (const chunk of run) streamed += chunk.text;
          return { ...(await run.result), streamed };
        };
        const whole = await text();
        return {
          whole,
          stop: await text({ stop: ['no such thing', 'ms and ti'] }),
          one: await text({ stop: 'timers' }),
          length: await text({ maxTokens: 4 }),
          id: await text({ stopTokenIds: [whole.tokenIds[2]] }),
        };
      });
      const { text } = got.whole;
      for (const [result, stop] of [
        [got.stop, 'ms and ti'],
        [got.one, 'timers'],
      ]) {
        assert.equal(result.text, text.slice(0, text.indexOf(stop)));
        assert.equal(result.streamed, result.text);
        assert.equal(result.finishReason, 'stop');
      }
      assert.equal(got.length.finishReason, 'length');
      assert.deepEqual(got.length.tokenIds, got.whole.tokenIds.slice(0, 4));
      assert.equal(got.id.finishReason, 'stop');
      assert.deepEqual(got.id.tokenIds, got.whole.tokenIds.slice(0, 3));
    });

    test('a seed determines a sampled text', async () => {
      const { same, other, drawn, replayed } = await inPage(async () => {
        const sample = (seed) => llm.generate('set a', { temperature: 1.5, maxTokens: 12, seed, ignoreEos: true }).result;
        const drawn = await sample(undefined);
        return {
          same: [(await sample(7)).text, (await sample(7)).text],
          other: (await sample(8)).text,
          drawn: drawn.text,
          replayed: (await sample(drawn.seed)).text,
        };
      });
      assert.equal(same[0], same[1]);
      assert.notEqual(same[0], other);
      assert.equal(replayed, drawn);
    });

    onCpu('the context fills up to the last token', async () => {
      const { result, overflow } = await inPage(async () => ({
        result: await llm.generate(' alarm'.repeat(2000), { ignoreEos: true }).result,
        overflow: await rejection(llm.generate(' alarm'.repeat(2100)).result),
      }));
      assert.equal(result.finishReason, 'context');
      assert.equal(result.usage.promptTokens + result.usage.completionTokens, 2048);
      assert.equal(overflow.code, 'context-overflow');
      assert.match(overflow.message, /2102 tokens.*2047/);
    });

    test('log-probabilities', async () => {
      const { tokenIds, logprobs } = await inPage(() => llm.generate('set an', { maxTokens: 5, logprobs: 3 }).result);
      assert.equal(logprobs.length, tokenIds.length);
      for (const [i, { tokenId, logprob, top }] of logprobs.entries()) {
        assert.equal(tokenId, tokenIds[i]);
        assert.equal(top.length, 3);
        // Greedy: the most probable one was taken.
        assert.deepEqual(top[0], { tokenId, logprob });
        assert.ok(logprob <= 0 && top[1].logprob <= logprob);
      }
    });

    onCpu('score agrees with generate', async () => {
      const { run, scores } = await inPage(async () => {
        const run = await llm.generate('set an', { maxTokens: 1, logprobs: 1 }).result;
        return { run, scores: await llm.score('set an', [run.text, ' zebra crossing']) };
      });
      assert.equal(scores[0].isGreedy, true);
      assert.equal(scores[1].isGreedy, false);
      assert.ok(Math.abs(scores[0].logprob - run.logprobs[0].logprob) < 0.02, `${scores[0].logprob} ${run.logprobs[0].logprob}`);
      assert.ok(scores[1].logprob < scores[0].logprob);
      const sum = scores[1].tokens.reduce((sum, { logprob }) => sum + logprob, 0);
      assert.ok(Math.abs(sum - scores[1].logprob) < 1e-3);
    });

    onCpu('tokens and back', async () => {
      const text = 'naïve café 日本 😀  two spaces <|end|>';
      const { ids, back } = await inPage(async (text) => {
        const ids = await llm.tokenize(text);
        return { ids, back: await llm.detokenize(ids) };
      }, text);
      assert.equal(back, text);
      assert.ok(!ids.includes(8), 'a control token in a text is plain text');
    });
  });
}

describe('errors', () => {
  let session;
  const inPage = (work, argument) => session.page.evaluate(work, argument);
  before(async () => {
    session = await open({ webgpu: 'none' });
  });
  after(() => session?.end());

  test('unknown and ill-typed options are refused by name, with a guess', async () => {
    const got = await inPage(async () => {
      globalThis.llm = await MobileLLM.load('/models/demo/', { device: 'cpu' });
      const thrown = (work) => {
        try {
          work();
        } catch (error) {
          return describe(error);
        }
      };
      return [
        await rejection(MobileLLM.load('/models/demo/', { contextLenght: 5 })),
        await rejection(MobileLLM.load('/models/demo/', { device: 'gpu' })),
        thrown(() => llm.generate('x', { max_tokens: 3 })),
        thrown(() => llm.generate('x', { temperature: '1' })),
        thrown(() => llm.generate('x', { stop: [''] })),
        thrown(() => llm.generate(5)),
        await rejection(llm.session({ system: 5 })),
        await rejection(llm.session({ messages: [{ role: 'robot', content: '' }] })),
        await rejection(MobileLLM.load('/models/demo/', { verify: 'never' })),
        await rejection(MobileLLM.load('/models/demo/', { persist: 'yes' })),
        await rejection(MobileLLM.load('/models/demo/', { onWarning: 5 })),
        await rejection(MobileLLM.load('org/name@../elsewhere')),
      ];
    });
    for (const error of got) assert.equal(error?.code, 'invalid-option', JSON.stringify(got));
    assert.match(got[0].message, /contextLenght.*contextLength/);
    assert.match(got[1].message, /device.*gpu.*'webgpu'/);
    assert.match(got[2].message, /max_tokens.*maxTokens/);
    assert.match(got[3].message, /temperature/);
    assert.match(got[8].message, /verify.*'always' or 'first'/);
    assert.match(got.at(-1).message, /revision.*elsewhere/);
  });

  const folders = {
    missing: ['file-not-found', /faults\/missing/],
    html: ['web-page', /faults\/html/],
    'broken-config': ['invalid-config', /config\.json/],
    'no-config': ['file-not-found', /config\.json/],
    'no-tokenizer': ['file-not-found', /tokenizer/],
    'rope-scaling': ['unsupported-model', /rope_scaling/],
    gated: ['gated-model', /401/],
  };
  for (const [folder, [code, message]] of Object.entries(folders)) {
    test(`a folder that is ${folder}: ${code}`, async () => {
      const error = await inPage((folder) => rejection(MobileLLM.load(`/faults/${folder}/`, { cache: 'none' })), folder);
      assert.equal(error?.code, code, JSON.stringify(error));
      assert.match(error.message, message);
      assert.equal(error.instance && error.isError, true);
      assert.equal(error.name, 'MobileLLMError');
      assert.ok(error.remedy.length > 10);
    });
  }

  test('a model without a chat template completes text and refuses a session', async () => {
    const { chat, text, error } = await inPage(async () => {
      const plain = await MobileLLM.load('/faults/no-template/', { device: 'cpu', cache: 'none' });
      const error = await rejection(plain.session());
      const { text } = await plain.generate('set an', { maxTokens: 3 }).result;
      await plain.close();
      return { chat: plain.info.chat, text, error };
    });
    assert.equal(chat, false);
    assert.equal(error.code, 'no-chat-template');
    assert.ok(text.length > 0);
  });

  test('an abort ends a load that hangs, with the reason', async () => {
    const got = await inPage(async () => {
      const abort = (work, reason) => {
        const controller = new AbortController();
        setTimeout(() => controller.abort(reason), 200);
        return rejection(work(controller.signal));
      };
      return [
        await abort((signal) => MobileLLM.load('/faults/stalled/', { signal })),
        await abort((signal) => MobileLLM.load('/faults/stalled/', { signal }), new Error('enough')),
        await rejection(MobileLLM.load('/models/demo/', { signal: AbortSignal.abort() })),
      ];
    });
    assert.deepEqual([got[0].name, got[1].message, got[2].name], ['AbortError', 'enough', 'AbortError']);
  });

  test('after close, and for what was pending, the error is closed', async () => {
    const got = await inPage(async () => {
      const model = await MobileLLM.load('/models/demo/', { device: 'cpu' });
      const chat = await model.session();
      const pending = [chat.send('hi').result, model.tokenize('x'), model.generate('x').result].map(rejection);
      await model.close();
      const session = await llm.session();
      session.close();
      let sent;
      try {
        session.send('hi');
      } catch (error) {
        sent = describe(error);
      }
      return [...(await Promise.all(pending)), await rejection(model.tokenize('x')), sent];
    });
    assert.deepEqual(
      got.map((error) => error?.code),
      Array(5).fill('closed'),
    );
  });

  test('an error in a turn leaves the conversation as it was', async () => {
    const { error, messages, text } = await inPage(async () => {
      const chat = await llm.session();
      const error = await rejection(chat.send('alarm '.repeat(2100)).result);
      const messages = chat.messages;
      return { error, messages, text: (await chat.send('hi').result).text };
    });
    assert.equal(error.code, 'context-overflow');
    assert.deepEqual(messages, []);
    assert.ok(text.length > 0);
  });

  test('a worker that dies rejects what is pending', async () => {
    const { page } = session;
    const crashing = await session.browser.newPage();
    try {
      // The next generation throws outside of every promise, as a trap in WebAssembly does.
      await crashing.route('**/worker.js', async (route) => {
        const response = await route.fetch();
        const boom = ";{const go = onmessage; onmessage = (e) => { if (e.data.call === 'generate') throw new Error('boom'); go(e); };}";
        await route.fulfill({ response, body: (await response.text()) + boom });
      });
      await crashing.goto(page.url());
      await crashing.waitForFunction('globalThis.ready');
      const got = await crashing.evaluate(async () => {
        const model = await MobileLLM.load('/models/demo/', { device: 'cpu' });
        const pending = [model.generate('x').result, model.tokenize('x')].map(rejection);
        return [...(await Promise.all(pending)), await rejection(model.generate('x').result)];
      });
      assert.deepEqual(
        got.map((error) => error?.code),
        Array(3).fill('crashed'),
      );
      assert.match(got[0].message, /boom/);
    } finally {
      await crashing.close();
    }
  });
});

// Every public entry with values that no caller means: what comes back is an error of the package, which names the argument.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { MobileLLM, MobileLLMError } from '../../pkg/index.js';
import { root } from '../../scripts/lib.mjs';

const throwing = () => {
  throw new RangeError('from the caller');
};
const revoked = Proxy.revocable([], {});
revoked.revoke();
const circle = {};
circle.self = circle;

/** Of no use for anything, one of each kind. */
const HOSTILE = {
  undefined: undefined,
  null: null,
  true: true,
  NaN,
  'minus one': -1,
  bigint: 10n,
  symbol: Symbol('s'),
  function: throwing,
  date: new Date(NaN),
  circle,
  'no prototype': Object.create(null),
  'revoked proxy': revoked.proxy,
  'array with a hole': new Array(2),
  'array of itself': [circle, circle],
  'getter that throws': {
    get temperature() {
      throw new RangeError('from the caller');
    },
    get length() {
      throw new RangeError('from the caller');
    },
  },
  'proxy that throws': new Proxy({}, { ownKeys: throwing, get: throwing, has: throwing, getPrototypeOf: throwing }),
  'iterator that throws': { [Symbol.iterator]: throwing },
  'text that throws': { toString: throwing, [Symbol.toPrimitive]: throwing, toJSON: throwing },
  'signal that is none': { signal: Object.create(AbortSignal.prototype) },
  'bigint within': { messages: [{ role: 'user', content: 'x', toolCalls: [] }], tools: [{ name: 'f', parameters: { n: 1n } }] },
  'function within': { tools: [{ name: 'f', parameters: { f: throwing } }] },
  promise: Promise.resolve('x'),
  'typed array': new Float64Array(3),
  map: new Map([[1, 2]]),
  'lone surrogate': '\ud800',
  'zero byte': 'a\0b',
};

/** Awaits whatever a call gives; a run is ended early. */
async function settle(call) {
  const value = await call();
  value?.stop?.();
  await value?.result;
}

/** Calls with each value; those that are fine there are no fault. */
async function every(entry, call, fine = []) {
  for (const [name, value] of Object.entries(HOSTILE)) {
    const error = await settle(() => call(value)).then(
      () => null,
      (error) => error,
    );
    if (error === null) assert.ok(fine.includes(name), `${entry} takes ${name}`);
    else {
      assert.ok(error instanceof MobileLLMError, `${entry} with ${name}: ${error?.stack ?? error}`);
      assert.notEqual(error.code, 'internal', `${entry} with ${name}: ${error.message}`);
      assert.ok(error.message.length > 10 && error.remedy.length > 10, `${entry} with ${name}: ${error.message}`);
    }
  }
}

// What counts as not given, as options without anything in them.
const NO_OPTIONS = ['undefined', 'no prototype', 'date', 'map', 'promise', 'iterator that throws'];

describe('hostile values', () => {
  let llm, chat;
  before(async () => {
    // One thread: a machine with other work on it is slow with more.
    llm = await MobileLLM.load(join(root, 'www/models/demo'), { threads: 1 });
    chat = await llm.session();
  });
  after(() => llm?.close());

  test('sources', async () => {
    for (const entry of ['load', 'availability', 'estimate']) {
      // What a text may be, a folder that is not there, is unavailable.
      await every(entry, (value) => MobileLLM[entry](value), entry === 'availability' ? ['lone surrogate'] : []);
    }
    await every('models.delete', (value) => MobileLLM.models.delete(value), ['lone surrogate']);
  });

  test('options', async () => {
    const demo = join(root, 'www/models/demo');
    for (const entry of ['availability', 'estimate']) await every(entry, (value) => MobileLLM[entry](demo, value), NO_OPTIONS);
    await every('load', async (value) => (await MobileLLM.load(demo, value)).close(), NO_OPTIONS);
    await every('session', async (value) => (await llm.session(value)).close(), NO_OPTIONS);
    await every('generate', (value) => llm.generate('set', value && typeof value === 'object' ? value : { maxTokens: value }), NO_OPTIONS);
    // What a callback itself throws is the caller's, as of any event listener.
    await every(
      'load.onProgress',
      async (value) => (await MobileLLM.load(demo, { onProgress: value === throwing ? () => {} : value })).close(),
      ['undefined', 'function'],
    );
    for (const name of ['signal', 'mirrors', 'token', 'threads', 'contextLength', 'device', 'cache']) {
      const fine = name === 'token' ? ['lone surrogate', 'zero byte'] : [];
      await every(`load.${name}`, async (value) => (await MobileLLM.load(demo, { [name]: value })).close(), ['undefined', ...fine]);
    }
  });

  test('arguments', async () => {
    await every('generate', (value) => llm.generate(value, { maxTokens: 1 }), ['lone surrogate', 'zero byte']);
    await every('tokenize', (value) => llm.tokenize(value), ['lone surrogate', 'zero byte']);
    await every('detokenize', (value) => llm.detokenize(value));
    await every('detokenize', (value) => llm.detokenize([value]));
    await every('score', (value) => llm.score(value, ['x']), ['lone surrogate', 'zero byte']);
    await every('score', (value) => llm.score('x', value));
    await every('score', (value) => llm.score('x', [value]), ['lone surrogate', 'zero byte']);
    await every('addEventListener', async (value) => llm.addEventListener('warning', value), [
      'undefined',
      'null',
      'function',
      'date',
      'circle',
      'no prototype',
      'array with a hole',
      'array of itself',
      'getter that throws',
      'iterator that throws',
      'text that throws',
      'signal that is none',
      'bigint within',
      'function within',
      'promise',
      'typed array',
      'map',
      'revoked proxy',
      'proxy that throws',
    ]);
  });

  test('a conversation', async () => {
    await every('send', (value) => chat.send(value, { maxTokens: 1 }), ['lone surrogate', 'zero byte']);
    await every('send', (value) => chat.send([{ role: 'user', content: value }], { maxTokens: 1 }), ['lone surrogate', 'zero byte']);
    await every('send', (value) => chat.send({ role: value, content: 'x' }, { maxTokens: 1 }));
    await every('session.messages', async (value) => (await llm.session({ messages: value })).close(), ['undefined']);
    await every('session.tools', async (value) => (await llm.session({ tools: [value] })).close());
    await every('truncate', async (value) => chat.truncate(value));
    await every('regenerate', (value) => chat.regenerate(value), NO_OPTIONS);
  });

  test('a method without its object says so', async () => {
    const { tokenize, generate, session } = llm;
    const { send, truncate, clone } = chat;
    const without = (name) => (error) =>
      error instanceof MobileLLMError && error.code === 'invalid-option' && error.message.startsWith(`${name} was taken from its `);
    await assert.rejects(tokenize('x'), without('tokenize'));
    await assert.rejects(session(), without('session'));
    await assert.rejects(clone(), without('clone'));
    assert.throws(() => generate('x'), without('generate'));
    assert.throws(() => send('x'), without('send'));
    assert.throws(() => truncate(0), without('truncate'));
    assert.throws(
      () => new MobileLLM(),
      (error) => error.code === 'invalid-option',
    );
    const { load } = MobileLLM;
    await (await load(join(root, 'www/models/demo'))).close();
  });

  test('an abort rejects with its reason, whatever that is', async () => {
    for (const reason of ['a text', Symbol('s'), new TypeError("the caller's own"), null]) {
      const is = (error) => Object.is(error, reason);
      await MobileLLM.load(join(root, 'www/models/demo'), { signal: AbortSignal.abort(reason) }).then(assert.fail, (error) =>
        assert.ok(is(error)),
      );
      await llm.generate('set', { signal: AbortSignal.abort(reason) }).result.then(assert.fail, (error) => assert.ok(is(error)));
    }
  });
});

describe('a source that is one file', () => {
  const refused = async (bytes, message) => {
    for (const source of [
      new Blob([bytes]),
      new Uint8Array(bytes).buffer,
      new Uint8Array(bytes),
      new File([bytes], 'model.bin'),
      [new File([bytes], 'model.bin')],
    ]) {
      await assert.rejects(
        MobileLLM.load(source),
        (error) => error instanceof MobileLLMError && error.code === 'invalid-option' && message.test(error.message),
        `${message}`,
      );
    }
  };
  test('what is missing beside it is told', async () => {
    const safetensors = Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}')]);
    await refused(safetensors, /only the weights \(safetensors\).*config\.json/);
    await refused(Buffer.from('PK\x03\x04....'), /zip.*PyTorch.*config\.json/);
    await refused(Buffer.from('<!doctype html>'), /a web page/);
    await refused(Buffer.from('{"model_type": "llama"}'), /JSON, without weights/);
    await refused(Buffer.from('\x1f\x8b\x08\x00', 'latin1'), /gzip/);
    await refused(Buffer.alloc(0), /empty/);
    await refused(Buffer.from('anything else at all'), /no GGUF/);
  });

  test('a folder that cannot be read is named', async () => {
    const handle = {
      kind: 'directory',
      name: 'models',
      entries: () => {
        throw new DOMException('no', 'NotAllowedError');
      },
    };
    await assert.rejects(
      MobileLLM.load(handle),
      (error) => error instanceof MobileLLMError && error.code === 'io' && /models.*NotAllowedError/.test(error.message),
    );
  });
});

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bytes, countdown, explain, parameters, runFacts, seconds } from '../../www/format.js';

test('bytes', () =>
  assert.deepEqual([0, 999, 1000, 27_538_176, 249e6, 2.5e9, NaN].map(bytes), [
    '0 B',
    '999 B',
    '1 kB',
    '27.5 MB',
    '249 MB',
    '2.5 GB',
    'unknown',
  ]));
test('seconds', () =>
  assert.deepEqual([0.2, 59, 60, 200, 3600, 4000, NaN].map(seconds), ['0 s', '59 s', '1 min', '3 min 20 s', '1 h 0 min', '1 h 6 min', '']));
test('countdown', () =>
  assert.deepEqual([-3, 0, 0.4, 65, 3600, 3661].map(countdown), ['0:00', '0:00', '0:01', '1:05', '1:00:00', '1:01:01']));
test('parameters', () => assert.deepEqual([13_769_088, 124_600_000, 1.5e9].map(parameters), ['13.8 M', '125 M', '1.5 B']));

test('facts of a chain of runs', () => {
  const run = (completionTokens, rate, cachedTokens) => ({
    usage: { promptTokens: 100, cachedTokens, completionTokens },
    timings: { ttftMs: 40, decodeTokensPerSecond: rate },
  });
  assert.deepEqual(runFacts([run(21, 20, 0), run(11, 10, 90)]), [
    '15.0 tokens/s',
    '32 tokens',
    'first after 40 ms',
    '90 of 200 prompt tokens from cache',
  ]);
  assert.deepEqual(runFacts([]), []);
});

test('errors of the library and others', () => {
  assert.deepEqual(explain(Object.assign(new Error('gone'), { code: 'network', remedy: 'Check.' })), {
    message: 'gone',
    remedy: 'Check.',
    code: 'network',
  });
  // A DOMException's code is a number and says nothing.
  assert.deepEqual(explain(new DOMException('no', 'NotAllowedError')), { message: 'no', remedy: '', code: '' });
  assert.deepEqual(explain('text'), { message: 'text', remedy: '', code: '' });
});

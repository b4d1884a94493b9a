import assert from 'node:assert/strict';
import { test } from 'node:test';
import { calculate } from '../../www/tools/calculator.js';

for (const [expression, value] of [
  ['15/100*240', 36],
  ['1+2*3', 7],
  ['(1+2)*3', 9],
  ['2^3^2', 512],
  ['-2^2', -4],
  ['2^-1', 0.5],
  ['sqrt(2^4)', 4],
  ['sqrt 9', 3],
  ['0.1+0.2', 0.3],
  ['8 - 3 - 2', 3],
  ['64/4/2', 8],
  ['.5*4', 2],
  ['--3', 3],
  ['+4', 4],
  ['92^2', 8464],
  ['2*(3+(4-1))/2', 6],
])
  test(`${expression} = ${value}`, () => assert.equal(calculate(expression), value));

for (const [expression, error] of [
  ['1/0', /division by zero/],
  ['1/(2-2)', /division by zero/],
  ['sqrt(-1)', /negative/],
  ['9^9^9', /too large/],
  ['', /incomplete/],
  ['1+', /incomplete/],
  ['(1+2', /missing \)/],
  ['1 2', /unexpected 2/],
  ['alert(1)', /unexpected a/],
  ['2**3', /unexpected \*/],
  ['()', /unexpected \)/],
  [`${'1+'.repeat(400)}1`, /too long/],
])
  test(`refuses ${expression.slice(0, 12) || 'nothing'}`, () => assert.throws(() => calculate(expression), error));

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { convert, round } from '../../www/tools/units.js';

for (const [value, from, to, result] of [
  [5, 'km', 'mi', 3.11],
  [100, 'ft', 'm', 30.48],
  [96, 'm', 'in', 3779.53],
  [17, 'oz', 'g', 481.94],
  [19, 'celsius', 'kelvin', 292.15],
  [-40, 'celsius', 'fahrenheit', -40],
  [212, 'fahrenheit', 'celsius', 100],
  [0, 'kelvin', 'celsius', -273.15],
  [1, 'gal', 'l', 3.79],
  [1, 'cup', 'l', 0.2366],
  [3, 'tsp', 'tbsp', 1],
  [60, 'mph', 'km/h', 96.56],
  [2, 'weeks', 'days', 14],
  [90, 'minutes', 'hours', 1.5],
  [1, 'stone', 'lb', 14],
  [1, 'mm', 'mi', 6.21e-7],
  [1, 'yd', 'ft', 3],
])
  test(`${value} ${from} = ${result} ${to}`, () => assert.equal(convert(value, from, to), result));

test('refuses another dimension and unknown units', () => {
  assert.throws(() => convert(1, 'km', 'kg'), /cannot convert km to kg/);
  assert.throws(() => convert(1, 'parsec', 'km'), /unknown unit parsec/);
  assert.throws(() => convert(1, 'km', 'parsec'), /unknown unit parsec/);
});

test('zero stays zero', () => assert.equal(round(0), 0));

test('every unit of the schema converts to itself', async () => {
  const tools = JSON.parse(await readFile(new URL('../../www/models/demo/tools.json', import.meta.url), 'utf8'));
  const units = tools.find((t) => t.function.name === 'convert_units').function.parameters.properties.from.enum;
  assert.equal(units.length, 31);
  for (const unit of units) assert.equal(convert(7, unit, unit), 7, unit);
});

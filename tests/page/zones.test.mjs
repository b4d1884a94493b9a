import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { before, test } from 'node:test';
import { timeIn, zoneIndex } from '../../www/tools/zones.js';

let find;
before(async () => {
  find = zoneIndex(JSON.parse(await readFile(new URL('../../www/vendor/zones.json', import.meta.url), 'utf8')));
});

test('cities, countries, zone names, other spellings', () => {
  for (const [place, zone] of [
    ['Tokyo', 'Asia/Tokyo'],
    ['japan', 'Asia/Tokyo'],
    ['Sofia', 'Europe/Sofia'],
    ['auckland', 'Pacific/Auckland'],
    ['NYC', 'America/New_York'],
    ['São Paulo', 'America/Sao_Paulo'],
    ['the UK', 'Europe/London'],
    ['Paris, France', 'Europe/Paris'],
    ['usa', 'America/New_York'],
    ['Australia', 'Australia/Sydney'],
    ['Pacific Time', 'America/Los_Angeles'],
    ['comoro', 'Indian/Comoro'],
    ['nauru', 'Pacific/Nauru'],
    ['mumbai', 'Asia/Kolkata'],
    ['china', 'Asia/Shanghai'],
    ['UTC', 'UTC'],
    ['Kathmandu', 'Asia/Kathmandu'],
  ])
    assert.equal(find(place), zone, place);
});

test('an unknown place is unknown', () => {
  for (const place of ['iconoclast', 'disco', '', 'a', 'san']) assert.equal(find(place), undefined, place);
});

test('every zone found can be formatted', async () => {
  const zones = JSON.parse(await readFile(new URL('../../www/vendor/zones.json', import.meta.url), 'utf8'));
  for (const { countryName } of zones) assert.match(timeIn(new Date(), find(countryName)), /^\d{1,2}:\d\d [AP]M$/, countryName);
});

test('time in a zone', () => assert.equal(timeIn(new Date(Date.UTC(2026, 0, 1, 12)), 'Asia/Kolkata'), '5:30 PM'));

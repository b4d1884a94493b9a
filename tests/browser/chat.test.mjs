// The chat page with the embedded model, as a person uses it: tools done for real, stop, regenerate, edit, undo, reload, offline.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, serveTests } from '../lib/browser.mjs';

let browser, context, page, server, url;
const complaints = [];

before(async () => {
  ({ server, url } = await serveTests());
  browser = await launch({ webgpu: 'none' });
  context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ['clipboard-read', 'clipboard-write'] });
  page = await context.newPage();
  page.setDefaultTimeout(60_000);
  page.on('pageerror', (error) => complaints.push(error.message));
  page.on(
    'console',
    (message) => message.type() === 'error' && /Content Security Policy|Uncaught/.test(message.text()) && complaints.push(message.text()),
  );
  context.on(
    'request',
    (request) => /^(https?|wss?):/.test(request.url()) && !request.url().startsWith(url) && complaints.push(`request to ${request.url()}`),
  );
  await page.goto(url);
});

after(async () => {
  await browser.close();
  server.closeAllConnections();
  server.close();
});

const ready = () => page.waitForSelector('#model-button[data-state=ready]');
const settled = () =>
  page.waitForFunction(
    () => document.querySelector('#stop').hidden && document.querySelector('#log').getAttribute('aria-busy') === 'false',
  );
const send = (text) => page.fill('#prompt', text).then(() => page.press('#prompt', 'Enter'));
const say = async (text) => {
  await send(text);
  await settled();
};
const texts = (selector) => page.locator(selector).allInnerTexts();
const last = '.turn:last-child';
const things = () => page.locator('#things-body').innerText();

test('a message typed while the model loads is sent once it is ready', async () => {
  await send('what can you do?');
  await page.getByText('I can set alarms and timers').first().waitFor();
  await settled();
  assert.match((await texts(`${last} .facts`))[0], /tokens\/s · \d+ tokens · first after .* prompt tokens from cache/);
  assert.match(await page.textContent('#announcer'), /I can set alarms/);
});

test('the device is shown, with the reason for it', async () => {
  assert.equal(await page.innerText('#device-chip'), 'CPU');
  await page.click('#model-button');
  const info = await page.innerText('#model-info');
  for (const fact of ['13.8 M parameters, 8 blocks run as 16 layers', 'Runs on\nCPU', 'Why', 'context of 2,048 tokens'])
    assert.ok(info.includes(fact), `${fact} in ${info}`);
  await page.keyboard.press('Escape');
});

test('a timer is started and counts down', async () => {
  await say('set a timer for 12 minutes');
  assert.deepEqual(await texts(`${last} .card .status`), ['Done']);
  assert.match((await texts(`${last} .card .running`))[0], /^11:5\d$|^12:00$/);
  assert.match((await texts(`${last} .prose`))[0], /12 minutes/);
});

test('two calls in one answer, and a result read back', async () => {
  await say('add oat milk and eggs to my shopping list');
  assert.equal(await page.locator(`${last} .card.done`).count(), 2);
  await say("what's on my shopping list?");
  assert.deepEqual(await texts(`${last} .items li`), ['oat milk', 'eggs']);
  assert.match((await texts(`${last} .prose`))[0], /oat milk and eggs/);
  assert.match((await texts(`${last} .facts`))[0], /\b[1-9]\d* of \d+ prompt tokens from cache/);
});

test('a suggestion of several turns: its edit is one change with one undo', async () => {
  await page.click('#clear-button');
  await page.click('.suggestion:has-text("wake me at 6:30 tomorrow")');
  await settled();
  await page.click('.try-next button:has-text("make it 7 instead")');
  await settled();
  assert.deepEqual(await texts(`${last} .card h3`), ['Alarm changed']);
  assert.match((await texts(`${last} .change`))[0], /6:30 AM tomorrow[\s\S]*7:00 AM tomorrow/);
  assert.match((await texts(`${last} .prose`))[0], /7:00 AM tomorrow/);
  await page.click('#things-button');
  assert.match(await things(), /7:00 AM/);
  assert.doesNotMatch(await things(), /6:30 AM/);
  await page.click(`${last} .card button:has-text("Undo")`);
  assert.deepEqual(await texts(`${last} .card .status`), ['Undone']);
  assert.match(await things(), /6:30 AM/);
  assert.doesNotMatch(await things(), /7:00 AM/);
  await page.click('#things-button');
  await page.waitForFunction((turn) => document.querySelector(`${turn} .try-next`)?.textContent.includes('and on friday too'), last);
});

test('two requests at once: a card each, in order', async () => {
  await page.click('#clear-button');
  await page.click('.suggestion:has-text("and add tape to the hardware list")');
  await settled();
  assert.deepEqual(await texts(`${last} .card h3`), ['Create reminder', 'Add to list']);
  assert.deepEqual(await texts(`${last} .card .status`), ['Done', 'Done']);
  assert.equal(await page.locator(`${last} .card button:has-text("Undo")`).count(), 2);
  assert.match((await texts(`${last} .prose`))[0], /plumber tomorrow at 10:00 AM.*tape/);
});

test('a call that does not fit its schema is told and not run', async () => {
  await say('set an alarm for 25:00');
  assert.deepEqual(await texts(`${last} .card .status`), ['Failed']);
  assert.match((await texts(`${last} .prose`))[0], /did not work: .*“time” cannot be "25:00"/);
  await page.click('#things-button');
  assert.doesNotMatch(await things(), /3:00 PM|1:00 AM/);
  await page.click('#things-button');
});

test('the theme is put back by an undo', async () => {
  const theme = () => page.evaluate(() => getComputedStyle(document.documentElement).colorScheme);
  await say('dark mode please');
  assert.equal(await theme(), 'dark');
  await page.click(`${last} .card button:has-text("Undo")`);
  assert.equal(await theme(), 'light dark');
});

test('a call is undone from its card, and redone without doubling by regenerating', async () => {
  await say('Help me set an alarm at 7:30AM');
  await page.click('#things-button');
  assert.match(await things(), /7:30 AM/);
  await page.hover(last);
  await page.click(`${last} [aria-label=Regenerate]`);
  await settled();
  await page.click(`${last} .card button:has-text("Undo")`);
  assert.deepEqual(await texts(`${last} .card .status`), ['Undone']);
  assert.doesNotMatch(await things(), /7:30 AM/);
});

test('stop keeps what was said; the arrow key edits the last message', async () => {
  await send('what can you do?');
  await page.waitForFunction((turn) => document.querySelector(`${turn} .prose`)?.textContent.length > 5, last);
  await page.keyboard.press('Escape');
  await settled();
  assert.ok((await texts(`${last} .hint`)).includes('Stopped.'));
  const turns = await page.locator('.turn').count();
  await page.press('#prompt', 'ArrowUp');
  await page.keyboard.press('Control+A');
  await page.keyboard.type("what's 15% of 240");
  await page.keyboard.press('Enter');
  await page.waitForFunction((turn) => document.querySelector(`${turn} .bubble`)?.textContent.startsWith('what'), last);
  await settled();
  assert.equal(await page.locator('.turn').count(), turns);
  assert.deepEqual(await texts(`${last} .card .value`), ['36']);
});

test('a failure that the model was not trained on is told by the page', async () => {
  await say("what's 5 divided by 0");
  assert.deepEqual(await texts(`${last} .card .status`), ['Failed']);
  assert.deepEqual(await texts(`${last} .prose`), ['Sorry, that did not work: division by zero.']);
  await say('show my gift list');
  assert.match((await texts(`${last} .prose`))[0], /gift list/);
});

test('a timer rings', async () => {
  await say('set a timer for 2 seconds');
  await page.waitForSelector('.toast.ring');
  await page.click('.toast.ring [aria-label=Dismiss]');
});

test('conversation, timer and list are there after a reload, with cross-origin isolation', async () => {
  const turns = await page.locator('.turn').count();
  // Under the service worker from here on.
  await page.evaluate(() => navigator.serviceWorker.ready);
  await page.reload();
  await ready();
  await page.waitForSelector('.turn');
  assert.equal(await page.locator('.turn').count(), turns);
  assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  await page.click('#things-button');
  assert.match(await things(), /\d+:\d\d[\s\S]*oat milk[\s\S]*eggs/);
  await say('thanks');
  assert.ok((await texts(`${last} .prose`))[0].length > 3);
});

test('a conversation that is longer than the context goes on without its oldest turns, and says so', async () => {
  const contextLength = async (tokens) => {
    await page.click('#model-button');
    await page.evaluate(() => (document.querySelector('#models details').open = true));
    await page.fill('#context-length', tokens);
    await page.press('#context-length', 'Enter');
    await page.waitForFunction(
      (total) => document.querySelector('#context-text').textContent.includes(`/ ${total} tokens`),
      tokens || '2,048',
    );
    await page.keyboard.press('Escape');
  };
  await page.click('#clear-button');
  await contextLength('400');
  const dropped = () => page.locator('.turn .hint', { hasText: 'The context was full' }).allInnerTexts();
  for (let i = 0; (await dropped()).length === 0; i += 1) {
    assert.ok(i < 8, 'it never was full');
    await say(`remind me to water plant ${i} on friday`);
    assert.deepEqual(await texts(`${last} .card .status`), ['Done'], `message ${i}`);
  }
  assert.match((await dropped())[0], /no longer saw the oldest (message|\d messages)\./);
  assert.equal(await page.locator('.forgotten').count(), 1);
  assert.match(await page.textContent('#announcer'), /context was full/);
  await say('word '.repeat(500));
  assert.match((await texts(`${last} .error-box`))[0], /takes 399/);
  await say('what can you do?');
  assert.match((await texts(`${last} .prose`))[0], /I can set alarms and timers/);
  await contextLength('');
});

test('with the network off, page and model load and chat', async () => {
  await context.setOffline(true);
  await page.reload();
  await ready();
  await say('how many miles is 5 km');
  assert.deepEqual(await texts(`${last} .card .value`), ['3.11']);
  await context.setOffline(false);
});

test('markdown of the model is shown safely', async () => {
  const html = await page.evaluate(async () => {
    const { markdown } = await import('/markdown.js');
    const text =
      '**bold** <img src=x onerror=alert(1)> ![i](https://example.org/i.png) [bad](javascript:alert(1)) [good](https://example.org)\n\n<script>alert(1)</script>\n\n```js\n<b>\n```';
    const box = document.createElement('div');
    box.append(markdown(text, () => {}));
    return box.innerHTML;
  });
  assert.match(html, /<strong>bold<\/strong> &lt;img src=x onerror=alert\(1\)&gt;/);
  assert.match(html, /<a [^>]*href="https:\/\/example.org"[^>]*>good<\/a>/);
  assert.match(html, /<code>&lt;b&gt;\n<\/code>/);
  assert.doesNotMatch(html, /<img|<script|javascript:/);
});

test('no error, no violation of the content security policy, no other origin', () => assert.deepEqual(complaints, []));

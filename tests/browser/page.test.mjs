// The page at / as a visitor meets it: it opens with no complaint, loads the embedded model and answers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firstVisit } from '../../scripts/first-visit.mjs';
import { launch, serveTests } from '../lib/browser.mjs';

test('the page loads the model and chats', async () => {
  const { server, url } = await serveTests();
  const browser = await launch({ webgpu: 'none' });
  try {
    // The service worker asks for the same files and a few more, whenever the browser has time.
    const page = await browser.newPage({ serviceWorkers: 'block' });
    const downloaded = new Set();
    page.on(
      'response',
      (response) =>
        response.ok() && response.url().startsWith(url) && downloaded.add(new URL(response.url()).pathname.slice(1) || 'index.html'),
    );
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('console', (message) => message.type() === 'error' && complaints.push(message.text()));
    await page.goto(url);
    const box = page.getByRole('textbox').first();
    await box.waitFor();
    await page.waitForFunction(() => document.querySelector('textarea:not(:disabled)'), null, { timeout: 60_000 });
    await box.fill('what can you do?');
    await box.press('Enter');
    await page.getByText('I can set alarms and timers').first().waitFor({ timeout: 60_000 });
    assert.deepEqual(complaints, []);
    const { engine, page: files, model } = firstVisit('relaxed');
    assert.deepEqual(
      [...downloaded].sort(),
      [...engine, ...files, ...model].sort(),
      'what scripts/first-visit.mjs counts is what is downloaded',
    );
    assert.match(await page.textContent('#first-visit'), /A first visit downloads \d+\.\d MB \(engine .*, page .*, model 28\.\d MB\)/);
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
});

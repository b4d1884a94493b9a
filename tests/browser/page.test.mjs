// The page at / as a visitor meets it: it opens with no complaint, loads the embedded model and answers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { launch, serveTests } from '../lib/browser.mjs';

test('the page loads the model and chats', async () => {
  const { server, url } = await serveTests();
  const browser = await launch({ webgpu: 'none' });
  try {
    const page = await browser.newPage();
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
  } finally {
    await browser.close();
    server.closeAllConnections();
    server.close();
  }
});

// Draws the PNG icons of www/icons/ from their SVG sources with the Chromium that the browser tests use; run by hand after a change.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { root } from './lib.mjs';

const icons = join(root, 'www/icons');
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
for (const [source, size, target] of [
  ['icon.svg', 192, 'icon-192.png'],
  ['icon.svg', 512, 'icon-512.png'],
  ['icon-maskable.svg', 180, 'icon-180.png'],
  ['icon-maskable.svg', 512, 'icon-maskable-512.png'],
]) {
  const page = await browser.newPage({ viewport: { width: size, height: size } });
  await page.setContent(
    `<style>body{margin:0}svg{display:block;width:100vw;height:100vh}</style>${await readFile(join(icons, source), 'utf8')}`,
  );
  await page.screenshot({ path: join(icons, target), omitBackground: true });
  await page.close();
}
await browser.close();

// The WebGPU backend alone: opens bench/gpu.html in Chromium on the machine's own GPU and prints what it measures.
//   npm run bench:gpu [-- --software | --serve] [-- SHAPE ...]     --serve: only print the address, to open it by hand
import { join } from 'node:path';
import { root } from '../scripts/lib.mjs';
import { serve } from '../scripts/serve.mjs';
import { launch } from '../tests/lib/browser.mjs';

const words = process.argv.slice(2).filter((word) => word !== '--');
const shapes = words.filter((word) => !word.startsWith('--'));
const software = words.includes('--software');

await import('../scripts/build.mjs');
const rows = [];
let end;
const ended = new Promise((resolve) => (end = resolve));
const { server, url } = await serve(
  { '/': join(root, 'bench'), '/wasm/': join(root, 'target/bindgen/simd128') },
  {
    intercept(request, response) {
      if (request.method !== 'POST') return false;
      const chunks = [];
      request.on('data', (chunk) => chunks.push(chunk)).on('end', () => {
        const value = JSON.parse(Buffer.concat(chunks));
        if (request.url === '/result') end(value);
        else rows.push(value);
        response.writeHead(204).end();
      });
      return true;
    },
  },
);
if (words.includes('--serve')) {
  console.log(`The benchmark is at ${url}gpu.html`);
} else {
  const browser = await launch({ webgpu: software ? 'software' : 'own' });
  const query = new URLSearchParams({ post: '', ...(software && { quick: '' }), ...((shapes.length > 0 || software) && { shapes: shapes.join(',') || 'demo model' }) });
  const page = await browser.newPage();
  await page.goto(`${url}gpu.html?${query}`);
  const result = await ended;
  await browser.close();
  server.close();
  server.closeAllConnections();
  console.table(rows.map((row) => Object.fromEntries(Object.entries(row).map(([k, v]) => [k, typeof v === 'number' ? Number(v.toPrecision(4)) : v]))));
  if (result !== 'end') {
    console.error(result);
    process.exitCode = 1;
  }
}

// The WebGPU backend alone: opens bench/gpu.html in Chromium on the machine's own GPU and prints what it measures.
//   npm run bench -- --gpu [--software | --serve] [SHAPE ...]       --serve: only print the address, to open it by hand
//   npm run bench -- --gpu --frames [--software]                    a page's own frames while a model answers: bench/frames.html
//   PEERBENCH=FOLDER npm run bench -- --gpu --peers [CASE ...]       next to other runtimes, in one page: bench/peers/webgpu.js
//   --f16: with shader-f16 where Chromium keeps it from an NVIDIA GPU (wllama does not run without)
import { join } from 'node:path';
import { root, show } from '../scripts/lib.mjs';
import { serve } from '../scripts/serve.mjs';
import { launch } from '../tests/lib/browser.mjs';

const words = process.argv.slice(2);
const shapes = words.filter((word) => !word.startsWith('--'));
const software = words.includes('--software');
const frames = words.includes('--frames');
const unknown = words.filter(
  (word) => word.startsWith('--') && !['--software', '--serve', '--frames', '--peers', '--f16', '--q8', '--q4', '--plain'].includes(word),
);
if (unknown.length > 0) throw new Error(`unknown: ${unknown.join(' ')}`);
const peers = words.includes('--peers') && process.env.PEERBENCH;
if (words.includes('--peers') && !peers) throw new Error('PEERBENCH must name the folder that the peer benchmark set up');

const rows = [];
let end;
const ended = new Promise((resolve) => (end = resolve));
const { server, url } = await serve(
  {
    '/': join(root, 'bench'),
    '/wasm/': join(root, 'target/bindgen/bench'),
    '/mobilellm-web/': join(root, 'pkg'),
    '/model/': join(root, 'www/models/demo'),
    ...(peers && { '/js/': join(peers, 'js/node_modules'), '/models/': join(peers, 'models'), '/ref/': join(peers, 'ref') }),
  },
  {
    intercept(request, response) {
      if (request.method !== 'POST') return false;
      const chunks = [];
      request
        .on('data', (chunk) => chunks.push(chunk))
        .on('end', () => {
          const value = JSON.parse(Buffer.concat(chunks));
          if (request.url === '/result') end(value);
          else rows.push(value);
          response.writeHead(204).end();
        });
      return true;
    },
  },
);
const path = frames ? 'frames.html' : peers ? 'peers/webgpu.html' : 'gpu.html';
if (words.includes('--serve')) {
  console.log(`The benchmark is at ${url}${path}`);
} else {
  const browser = await launch({
    webgpu: software ? 'software' : 'own',
    args: words.includes('--f16') ? ['--enable-dawn-features=vulkan_enable_f16_on_nvidia'] : [],
  });
  const chosen = shapes.join(',') || (software && !peers && 'demo model');
  const query = new URLSearchParams({
    post: '',
    ...(software && { quick: '' }),
    ...(chosen && { [peers ? 'cases' : 'shapes']: chosen }),
    ...(words.includes('--q8') && { q8: '' }),
    ...(words.includes('--q4') && { q4: '' }),
    ...(words.includes('--plain') && { plain: '' }),
  });
  const page = await browser.newPage();
  await page.goto(`${url}${path}?${query}`);
  const result = await ended;
  await browser.close();
  server.close();
  server.closeAllConnections();
  show(rows);
  if (result !== 'end') {
    console.error(result);
    process.exitCode = 1;
  }
}

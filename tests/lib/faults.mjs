// Folders that are no models, under /faults/: what a load must report in a way that helps.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';

const demo = (name) => readFileSync(join(root, 'www/models/demo', name));

/** Of the demo model with some files replaced: contents by file name; null: not there. */
const altered = (changes) => (name) => (Object.hasOwn(changes, name) ? changes[name] : demo(name));

const config = JSON.parse(demo('config.json'));
const folders = {
  // A single-page host: every address is the page.
  html: () => '<!doctype html><title>App</title><p>Welcome',
  'broken-config': altered({ 'config.json': '{"model_type": "mobilellm", ' }),
  'no-config': altered({ 'config.json': null }),
  'no-tokenizer': altered({ 'tokenizer.json': null, 'tokenizer.model': null }),
  'rope-scaling': altered({ 'config.json': JSON.stringify({ ...config, rope_scaling: { type: 'linear', factor: 2 } }) }),
  'no-template': altered({ 'tokenizer_config.json': JSON.stringify({ bos_token: '<s>', eos_token: '<|end|>' }) }),
};

/** Answers requests below /faults/; true if it did. */
export function faults(request, response) {
  const [, area, folder, name] = request.url.split('?')[0].split('/');
  if (area !== 'faults') return false;
  const answer = (status, type, body) => response.writeHead(status, { 'Content-Type': type, 'Cross-Origin-Resource-Policy': 'same-origin' }).end(body);
  if (folder === 'gated') return answer(401, 'text/plain', 'Access to this model is restricted'), true;
  // Never answers: for aborts.
  if (folder === 'stalled') return true;
  let body = null;
  try {
    body = folders[folder]?.(name) ?? null;
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
  if (body === null) answer(404, 'text/plain', 'not found');
  else answer(200, folder === 'html' ? 'text/html' : name.endsWith('.json') ? 'application/json' : 'application/octet-stream', body);
  return true;
}

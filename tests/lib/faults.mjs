// Folders that are no models, under /faults/: what a load must report in a way that helps.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
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
  'rope-scaling': altered({
    'config.json': JSON.stringify({ ...config, rope_scaling: { type: 'longrope', short_factor: [1], long_factor: [2] } }),
  }),
  'no-template': altered({ 'tokenizer_config.json': JSON.stringify({ bos_token: '<s>', eos_token: '<|end|>' }) }),
};

/** Answers requests below /faults/; true if it did. */
export function faults(request, response) {
  const [, area, folder, name] = request.url.split('?')[0].split('/');
  if (area !== 'faults') return false;
  const answer = (status, type, body) =>
    response.writeHead(status, { 'Content-Type': type, 'Cross-Origin-Resource-Policy': 'same-origin' }).end(body);
  if (folder === 'gated') return (answer(401, 'text/plain', 'Access to this model is restricted'), true);
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

/**
 * Folders of files in memory below /host/, served with ranges and ETags as a static host does, or with a fault.
 * A fault is `{ kind, at?, ms?, to? }`: `cut` (the connection breaks after `at` bytes), `ends` (too few bytes, told as such), `flip` (byte `at` is
 * wrong), `length` (Content-Length of `at` bytes more), `whole` (200 to a range), `status` (`at`, with Retry-After of `ms`), `stall` (nothing after
 * `at` bytes), `etag` (of another file), `anonymous` (no ETag), `redirect` (to the origin `to`), `gzip` (compressed as a whole), `short` (at most `at`
 * bytes of a range), `type` (Content-Type `to`), `page` (a web page in its place).
 */
export class Host {
  /** @type {Map<string, Buffer>} contents by path below /host/ */
  files = new Map();
  /** Of each request: path, headers, status, and the bytes of its body that were written. */
  log = [];
  /** Chooses the fault of a request. @type {(path: string, request: import('node:http').IncomingMessage) => object | null} */
  fault = () => null;
  /** Awaited in the middle of each answer. @type {(path: string) => Promise<void>} */
  pace = async () => {};
  /** How it answers what it does not have. */
  absent = { status: 404, body: 'not found' };
  /** Headers of every answer. */
  headers = { 'Cross-Origin-Resource-Policy': 'same-origin' };

  /** @param {string} folder ends with a slash @param {Map<string, Buffer>} files */
  put(folder, files) {
    for (const [name, bytes] of files) this.files.set(folder + name, bytes);
  }

  /** Answers requests below /host/; true if it did. */
  answer = (request, response) => {
    let path = request.url.split('?')[0];
    try {
      path = decodeURIComponent(path);
    } catch {
      // A percent sign that begins no escape: as it stands.
    }
    if (!path.startsWith('/host/')) return false;
    void this.#answer(path.slice('/host/'.length), request, response);
    return true;
  };

  /** Bytes of bodies written for paths that begin so and satisfy `wanted`. */
  sent(prefix, wanted = () => true) {
    return this.log.filter(({ path }) => path.startsWith(prefix) && wanted(path)).reduce((sum, { bytes }) => sum + bytes, 0);
  }

  async #answer(path, request, response) {
    const entry = { path, headers: request.headers, method: request.method, status: 200, bytes: 0 };
    this.log.push(entry);
    const file = this.files.get(path);
    const fault = file && request.method !== 'OPTIONS' ? (this.fault(path, request) ?? {}) : {};
    const head = { ...this.headers };
    const end = (status, body = '') => {
      entry.status = status;
      response.writeHead(status, head).end(body);
    };
    if (request.method === 'OPTIONS') return end(204);
    if (!file) return end(this.absent.status, this.absent.body);
    if (fault.kind === 'page') {
      head['Content-Type'] = 'text/html; charset=utf-8';
      return end(200, '<!doctype html><title>Log in</title><p>Please log in');
    }
    if (fault.kind === 'status') {
      if (fault.ms !== undefined) head['Retry-After'] = String(fault.ms / 1000);
      return end(fault.at, 'fault');
    }
    if (fault.kind === 'redirect') {
      head.Location = `${fault.to}host/${path}`;
      return end(302);
    }
    head['Content-Type'] = path.endsWith('.json') ? 'application/json' : 'application/octet-stream';
    if (fault.kind === 'type') head['Content-Type'] = fault.to;
    if (fault.kind !== 'anonymous') head.ETag = `"${file.length}-${fault.kind === 'etag' ? 'other' : 'v1'}"`;
    let body = file;
    let status = 200;
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    if (fault.kind === 'gzip') {
      body = gzipSync(file);
      head['Content-Encoding'] = 'gzip';
    } else if (range && fault.kind !== 'whole' && (request.headers['if-range'] ?? head.ETag) === head.ETag) {
      const start = Number(range[1]);
      if (start >= file.length) return end(416);
      const most = fault.kind === 'short' ? start + fault.at - 1 : Infinity;
      const last = Math.min(range[2] ? Number(range[2]) : Infinity, file.length - 1, most);
      body = file.subarray(start, last + 1);
      head['Content-Range'] = `bytes ${start}-${last}/${file.length}`;
      status = 206;
    }
    const at = (fault.at ?? 0) % (body.length || 1);
    if (fault.kind === 'flip') {
      body = Buffer.from(body);
      body[at] ^= 0x10;
    }
    head['Content-Length'] = body.length + (fault.kind === 'length' ? fault.at : 0);
    if (fault.kind === 'ends') head['Content-Length'] = at;
    entry.status = status;
    response.writeHead(status, head);
    if (request.method === 'HEAD') return response.end();
    const send = (bytes) => {
      entry.bytes += bytes.length;
      response.write(bytes);
    };
    const cut = ['cut', 'ends', 'stall'].includes(fault.kind) ? at : body.length;
    send(body.subarray(0, cut >> 1));
    await this.pace(path);
    send(body.subarray(cut >> 1, cut));
    if (fault.kind === 'stall') return;
    if (fault.kind === 'cut') setTimeout(() => response.destroy(), 5);
    else response.end();
  }
}

/** What a caller names a model by -> where the worker finds its files. */
import { invalidOption, MobileLLMError, said, unreadable } from './errors.js';
import { show } from './options.js';
import type { ResolvedSource } from './protocol.js';
import type { Source } from './types.js';
import { base, node } from './platform.js';

/** `org/name`, `org/name/file.gguf` or, as stored models are listed, either with `@revision`. */
const HUB_ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(?:(?:\/[\w.-]+)+\.gguf)?)(?:@([\w./-]+))?$/;
const GGUF = /[^/]\.gguf$/;

/** @throws MobileLLMError whatever the source is, and whatever reading it throws. */
export async function resolveSource(source: Source): Promise<ResolvedSource> {
  try {
    return await resolve(source);
  } catch (error) {
    if (error instanceof MobileLLMError) throw error;
    throw invalidOption(`source could not be read: ${said(error)}`, error);
  }
}

async function resolve(source: Source): Promise<ResolvedSource> {
  if (source instanceof URL) return address(source);
  if (typeof source === 'string') return resolveText(source);
  if (source instanceof Blob) return resolveFile(source);
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) return resolveFile(new Blob([source as BlobPart]));
  if (isDirectory(source)) {
    const { name } = source;
    const files = await filesOf(source, '').catch((error: unknown) => {
      throw unreadable(`the folder ${name} could not be read: ${said(error)}`, error);
    });
    return { kind: 'files', name, files };
  }
  const files = typeof source === 'object' && source !== null && Symbol.iterator in source ? [...source] : [];
  if (files.length === 0 || !files.every((file) => file instanceof File)) {
    throw invalidOption(
      `source: ${show(source)} is no URL, 'org/name' on the hub, File objects, a directory handle, or the bytes of a GGUF`,
    );
  }
  if (files.length === 1) return resolveFile(files[0]!);
  // A folder picker gives paths that begin with the folder's own name.
  const paths = files.map((file) => file.webkitRelativePath || file.name);
  const [first] = paths[0]!.split('/');
  const shared = paths.every((path) => path.startsWith(`${first}/`));
  return {
    kind: 'files',
    name: shared ? first! : 'files',
    files: files.map((file, i) => ({ path: shared ? paths[i]!.slice(first!.length + 1) : paths[i]!, file })),
  };
}

/** One file is a whole model only where it is a GGUF: what else it is, and what is missing, is told by its first bytes. */
async function resolveFile(file: Blob): Promise<ResolvedSource> {
  const name = file instanceof File ? file.name : '';
  const shown = name || 'the source';
  const first = await file
    .slice(0, 16)
    .arrayBuffer()
    .catch((error: unknown) => {
      throw unreadable(`${shown} could not be read: ${said(error)}`, error);
    });
  const bytes = new Uint8Array(first);
  const text = String.fromCharCode(...bytes);
  if (text.startsWith('GGUF')) {
    const path = GGUF.test(name) ? name : 'model.gguf';
    return { kind: 'files', name: path, files: [{ path, file }] };
  }
  const beside =
    'hand it over together with the rest of its folder: load([...files]) with config.json and the tokenizer beside the weights';
  const kinds: [boolean, string][] = [
    [bytes.length === 0, 'is empty'],
    // A length of eight bytes, then the header, which is JSON.
    [
      bytes.slice(4, 8).every((byte) => byte === 0) && text.slice(8).trimStart().startsWith('{'),
      `holds only the weights (safetensors): ${beside}`,
    ],
    [text.startsWith('PK\x03\x04'), `is a zip or holds only the weights (PyTorch): unpack it, or ${beside}`],
    [text.startsWith('\x1f\x8b'), 'is compressed (gzip): unpack it first'],
    [/^\s*[[{]/.test(text), `is JSON, without weights: ${beside}`],
    [/^\s*</.test(text), 'is a web page, not a model'],
  ];
  throw invalidOption(
    `source: ${shown} ${kinds.find(([is]) => is)?.[1] ?? `is no GGUF, the one format that is a whole model in a file; anything else, ${beside}`}`,
  );
}

function resolveText(source: string): ResolvedSource {
  if (source === '') throw invalidOption('source is empty');
  if (node) {
    const found = node.fs.statSync(source, { throwIfNoEntry: false });
    if (found?.isDirectory() || (found && GGUF.test(source))) return address(node.url.pathToFileURL(source));
  }
  const [, id, revision] = HUB_ID.exec(source) ?? [];
  if (id) return { kind: 'hub', id, revision: revision ?? null };
  if (URL.canParse(source)) return address(new URL(source));
  if (node) return address(node.url.pathToFileURL(source));
  if (!URL.canParse(source, base())) throw invalidOption(`source: ${show(source)} is no address below ${base()}`);
  return address(new URL(source, base()));
}

/** A folder's address ends with a slash, so that file names resolve within it; a query is kept (signed URLs). */
function address(url: URL): ResolvedSource {
  // Whatever `fetch` can do is fine (http, an extension's or an app's own scheme), as long as there is such a thing as a file below it.
  if (!URL.canParse('config.json', url)) throw invalidOption(`source: a ${url.protocol} address is no folder`);
  if (url.username || url.password)
    throw invalidOption('source: an address with a user name or password cannot be fetched; use the option token');
  const result = new URL(url);
  if (!result.pathname.endsWith('/') && !GGUF.test(result.pathname)) result.pathname += '/';
  result.hash = '';
  return { kind: 'url', url: result.href };
}

const isDirectory = (source: unknown): source is FileSystemDirectoryHandle =>
  typeof source === 'object' && source !== null && (source as FileSystemDirectoryHandle).kind === 'directory';

async function filesOf(directory: FileSystemDirectoryHandle, prefix: string): Promise<{ path: string; file: File }[]> {
  const found: { path: string; file: File }[] = [];
  for await (const [name, handle] of directory.entries()) {
    if (handle.kind === 'file') found.push({ path: prefix + name, file: await (handle as FileSystemFileHandle).getFile() });
    else found.push(...(await filesOf(handle as FileSystemDirectoryHandle, `${prefix}${name}/`)));
  }
  return found;
}

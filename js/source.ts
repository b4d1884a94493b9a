/** What a caller names a model by -> where the worker finds its files. */
import { invalidOption } from './errors.js';
import type { ResolvedSource } from './protocol.js';
import type { Source } from './types.js';
import { node } from './platform.js';

/** `org/name`, `org/name/file.gguf` or, as stored models are listed, either with `@revision`. */
const HUB_ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(?:(?:\/[\w.-]+)+\.gguf)?)(?:@([\w.\/-]+))?$/;
const GGUF = /[^\/]\.gguf$/;

export async function resolveSource(source: Source): Promise<ResolvedSource> {
  if (source instanceof URL) return address(source);
  if (typeof source === 'string') return resolveText(source);
  if (source instanceof Blob) return resolveBlob(source);
  if (isDirectory(source)) {
    return { kind: 'files', name: source.name, files: await filesOf(source, '') };
  }
  const files = [...(source ?? [])];
  if (files.length === 0 || !files.every((file) => file instanceof File)) {
    throw invalidOption("source must be a URL, 'org/name' on the hub, File objects, a directory handle or a GGUF as Blob");
  }
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
  return address(new URL(source, document.baseURI));
}

/** A GGUF by its content, since a Blob has no name and a File may have any. */
async function resolveBlob(file: Blob): Promise<ResolvedSource> {
  if ((await file.slice(0, 4).text()) !== 'GGUF') {
    throw invalidOption('source: this file is not a GGUF; for a model in Hugging Face layout give all its files');
  }
  const given = file instanceof File ? file.name : '';
  const name = GGUF.test(given) ? given : 'model.gguf';
  return { kind: 'files', name, files: [{ path: name, file }] };
}

/** A folder's address ends with a slash, so that file names resolve within it; a query is kept (signed URLs). */
function address(url: URL): ResolvedSource {
  // Whatever `fetch` can do is fine (http, an extension's or an app's own scheme), as long as there is such a thing as a file below it.
  if (!URL.canParse('config.json', url)) throw invalidOption(`source: a ${url.protocol} address is no folder`);
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

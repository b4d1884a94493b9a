/** What a caller names a model by -> where the worker finds its files. */
import { invalidOption } from './errors.js';
import type { ResolvedSource } from './protocol.js';
import type { Source } from './types.js';
import { node } from './platform.js';

/** `org/name` or, as stored models are listed, `org/name@revision`. */
const HUB_ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:@([\w.\/-]+))?$/;

export async function resolveSource(source: Source): Promise<ResolvedSource> {
  if (source instanceof URL) return folder(source);
  if (typeof source === 'string') return resolveText(source);
  if (isDirectory(source)) {
    return { kind: 'files', name: source.name, files: await filesOf(source, '') };
  }
  const files = [...(source ?? [])];
  if (files.length === 0 || !files.every((file) => file instanceof File)) {
    throw invalidOption("source must be a URL, 'org/name' on the hub, File objects or a directory handle");
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
    const { statSync } = node.fs;
    if (statSync(source, { throwIfNoEntry: false })?.isDirectory()) return folder(node.url.pathToFileURL(source));
  }
  const [, id, revision] = HUB_ID.exec(source) ?? [];
  if (id) return { kind: 'hub', id, revision: revision ?? null };
  if (URL.canParse(source)) return folder(new URL(source));
  if (node) return folder(node.url.pathToFileURL(source));
  return folder(new URL(source, document.baseURI));
}

/** A folder's address ends with a slash, so that file names resolve within it; a query is kept (signed URLs). */
function folder(url: URL): ResolvedSource {
  // Whatever `fetch` can do is fine (http, an extension's or an app's own scheme), as long as there is such a thing as a file below it.
  if (!URL.canParse('config.json', url)) throw invalidOption(`source: a ${url.protocol} address is no folder`);
  const address = new URL(url);
  if (!address.pathname.endsWith('/')) address.pathname += '/';
  address.hash = '';
  return { kind: 'url', url: address.href };
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

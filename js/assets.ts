/**
 * The files of the package that an app does not import: workers and wasm. Everything that has to find one asks here; a new file is one
 * more entry of {@link FILES} (the build makes the copy in `pkg/embedded/`).
 *
 * Bundlers know a file by `new URL('./literal', import.meta.url)` and copy it as it is. Where one does not, or the copy cannot be had (a
 * page on `file://`, a frame without an origin), the same bytes come from a module with the file in it.
 */
import { engineUnavailable, invalidOption, type MobileLLMError } from './errors.js';
import { base, node } from './platform.js';
import type { AssetOptions } from './types.js';
import { witness } from './wasm/witness.js';

/** The wasm is built for each; see `TIERS` of `scripts/lib.mjs`. */
export type Tier = 'relaxed' | 'simd128';

/** What the worker needs besides its script, each an absolute address or the bytes. */
export interface Assets {
  /** The engine's wasm. */
  engine: string | Blob;
  /** The wasm for chat templates, which completions do without. */
  templates: string | Blob;
  /** The wasm for tokenizers of unusual make. */
  splitter: string | Blob;
}

/** Where a worker starts. */
export interface Script {
  url: string;
  /** A frame without an origin can start a Blob only as `classic`. */
  type: WorkerType;
}

/** A worker's script with what it needs. */
export interface Kit {
  /** For the worker and for the workers that it starts. */
  script: Script;
  assets: Assets;
  /** Where the script comes from, for messages. */
  from: string;
  /** Gives back what `script` holds, when no more workers will be started from it. */
  release(): void;
}

interface FileOf {
  /** In `pkg/wasm/`. */
  path: string;
  url(): URL;
  /** The file's bytes, compressed by gzip, in base64. */
  embedded(): Promise<{ default: string }>;
}

/** The same for every tier. */
const COMMON = {
  templates: {
    path: 'templates_bg.wasm',
    url: () => new URL('./wasm/templates_bg.wasm', import.meta.url),
    embedded: () => import('./embedded/templates_bg.wasm.js'),
  },
  splitter: {
    path: 'splitter_bg.wasm',
    url: () => new URL('./wasm/splitter_bg.wasm', import.meta.url),
    embedded: () => import('./embedded/splitter_bg.wasm.js'),
  },
};

const FILES = {
  relaxed: {
    ...COMMON,
    worker: {
      path: 'relaxed/worker.js',
      url: () => new URL('./wasm/relaxed/worker.js', import.meta.url),
      embedded: () => import('./embedded/relaxed/worker.js'),
    },
    engine: {
      path: 'relaxed/mobilellm_web_bg.wasm',
      url: () => new URL('./wasm/relaxed/mobilellm_web_bg.wasm', import.meta.url),
      embedded: () => import('./embedded/relaxed/mobilellm_web_bg.wasm.js'),
    },
  },
  simd128: {
    ...COMMON,
    worker: {
      path: 'simd128/worker.js',
      url: () => new URL('./wasm/simd128/worker.js', import.meta.url),
      embedded: () => import('./embedded/simd128/worker.js'),
    },
    engine: {
      path: 'simd128/mobilellm_web_bg.wasm',
      url: () => new URL('./wasm/simd128/mobilellm_web_bg.wasm', import.meta.url),
      embedded: () => import('./embedded/simd128/mobilellm_web_bg.wasm.js'),
    },
  },
} satisfies Record<Tier, Record<'worker' | keyof Assets, FileOf>>;

/**
 * Whether the files are where they are looked for. A bundler that knows the form gives both modules the same address, and so does the
 * package's own folder; one that does not puts both modules into one file and leaves what each says of itself as it was.
 */
function placed(): boolean {
  return FILES.relaxed.worker.url().href === witness().href;
}

/** Where the file is; null where nobody put it anywhere. */
function located({ url }: FileOf): string | null {
  try {
    // Some bundlers give a relative address.
    const { href, protocol } = new URL(url().href, base());
    if (node) return protocol === 'file:' && node.fs.existsSync(new URL(href)) ? href : null;
    // The second: a path of the machine that built the app.
    return placed() && (protocol !== 'file:' || location.protocol === 'file:') ? href : null;
  } catch {
    // A classic script has no address.
    return null;
  }
}

async function embedded(file: FileOf, type: string): Promise<Blob> {
  const base64 = (await file.embedded()).default;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Blob([await new Response(plain).arrayBuffer()], { type });
}

const SCRIPT = 'text/javascript';
const WASM = 'application/wasm';

/** An option's address: a folder with a copy of `pkg/wasm/`, or the file itself. */
function chosen(option: 'workerUrl' | 'wasmUrl', value: string | URL, path: string): string {
  if (!URL.canParse(value, base())) throw invalidOption(`option ${option}: ${String(value)} is not an address`);
  const url = new URL(value, base());
  return url.pathname.endsWith('/') ? new URL(path, url).href : url.href;
}

async function assetsOf(tier: Tier, { workerUrl, wasmUrl }: AssetOptions, copied: boolean): Promise<Assets> {
  const { worker, engine, templates, splitter } = FILES[tier];
  // The others lie in the folder above the engine's, as in the package.
  const above = ({ path }: FileOf, engine: string) => new URL(`../${path}`, engine).href;
  const beside = (engine: string) => ({ engine, templates: above(templates, engine), splitter: above(splitter, engine) });
  if (wasmUrl !== undefined) return beside(chosen('wasmUrl', wasmUrl, engine.path));
  // Beside the worker.
  if (workerUrl !== undefined) return beside(new URL('mobilellm_web_bg.wasm', chosen('workerUrl', workerUrl, worker.path)).href);
  const find = async (file: FileOf) => (copied && located(file)) || (await embedded(file, WASM));
  return { engine: await find(engine), templates: await find(templates), splitter: await find(splitter) };
}

/** A worker may be started from its page's origin alone; a module may be imported from any that allows it. */
function sameOrigin(address: string): boolean {
  const { origin, protocol, host } = new URL(address);
  return origin === 'null' ? protocol === location.protocol && host === location.host : origin === self.origin;
}

type Start = Omit<Kit, 'assets'>;

function scriptAt(url: string): Start {
  if (node || sameOrigin(url)) return { script: { url, type: 'module' }, from: url, release: () => {} };
  return { ...scriptOf(new Blob([`import ${JSON.stringify(url)};`], { type: SCRIPT }), 'module'), from: url };
}

function scriptOf(blob: Blob, type: WorkerType): Start {
  const url = URL.createObjectURL(blob);
  return { script: { url, type }, from: 'the copy in the bundle', release: () => URL.revokeObjectURL(url) };
}

/** The ways to have a worker, the best first; the next is for where one could not be started. */
export async function* kits(tier: Tier, options: AssetOptions): AsyncGenerator<Kit, void> {
  const { worker } = FILES[tier];
  const url = options.workerUrl !== undefined ? chosen('workerUrl', options.workerUrl, worker.path) : located(worker);
  if (url !== null) yield { ...scriptAt(url), assets: await assetsOf(tier, options, true) };
  if (options.workerUrl !== undefined) return;
  const script = await embedded(worker, SCRIPT);
  const assets = await assetsOf(tier, options, false);
  // Node starts no worker from a Blob.
  yield node
    ? { ...scriptAt(`data:${SCRIPT};base64,${btoa(await script.text())}`), from: 'the copy in the bundle', assets }
    : { ...scriptOf(script, 'classic'), assets };
}

/** Why no worker could be started. */
export function unavailable(tried: string[], cause?: unknown): MobileLLMError {
  return engineUnavailable(`no worker could be started from ${tried.join(', nor from ')}`, cause);
}

// Compiles the crates to WebAssembly with the JavaScript glue of each, into target/bindgen/: both tiers of the engine at once, and the
// parts of crates/text. Nothing is run for what was made of the same sources.
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { isAbsolute, join, relative } from 'node:path';
import { filesUnder, fingerprint, output, root, target, TIERS, WASM_FLAGS } from './lib.mjs';
import { setupRust } from './setup.mjs';
import { start } from './steps.mjs';

const at = (...path) => join(root, ...path);
const release = join(target, 'wasm32-unknown-unknown/release');
const program = (name) => join(target, 'debug', name + (process.platform === 'win32' ? '.exe' : ''));
const cargo = (args, env) => start('cargo', [...args, '--locked', '--target-dir', target], { env, live: true });

/** Features of crates/text: each a module that is fetched when something needs it. */
export const PARTS = ['templates', 'splitter'];

/**
 * What cargo compiles: a crate with features; `made`: by folder of target/bindgen/, where rustc leaves the module (tools/tiers says why
 * the relaxed tier is there) and what its glue is called.
 */
const ENGINE = {
  crate: 'mobilellm_web',
  features: [],
  made: {
    simd128: { wasm: join(release, 'deps/mobilellm_web.wasm'), name: 'mobilellm_web' },
    relaxed: { wasm: join(release, 'deps/relaxed/mobilellm_web.wasm'), name: 'mobilellm_web' },
  },
  env: { RUSTC_WORKSPACE_WRAPPER: program('tiers'), TIERS_FLAGS: `-C target-feature=${TIERS.relaxed}` },
};
const TEXT = PARTS.map((name) => ({
  crate: 'mobilellm_text',
  features: ['--no-default-features', '--features', name],
  made: { [name]: { wasm: join(release, 'deps/mobilellm_text.wasm'), name } },
}));
/** The engine with what benchmarks and the conformance test call. */
const BENCH = {
  crate: 'mobilellm_web',
  features: ['--features', 'bench'],
  made: { bench: { wasm: join(release, 'deps/mobilellm_web.wasm'), name: 'mobilellm_web' } },
};

/** What a build depends on besides the crate's own sources. */
const SETTINGS = ['Cargo.toml', 'Cargo.lock', 'scripts/wasm.mjs', ...filesUnder(at('tools')).map((path) => relative(root, path))];
const hashOf = (files) => fingerprint([...files, ...SETTINGS].map((path) => at(path)));
const stampOf = ({ made }) => at('target/bindgen', Object.keys(made)[0], 'inputs.json');

function isFresh(module, rustc) {
  const stamp = stampOf(module);
  const glue = Object.entries(module.made).flatMap(([folder, { name }]) =>
    [`${name}.js`, `${name}.d.ts`, `${name}_bg.wasm`].map((file) => at('target/bindgen', folder, file)),
  );
  if (![stamp, ...glue].every((path) => existsSync(path))) return false;
  const last = JSON.parse(readFileSync(stamp, 'utf8'));
  return last.rustc === rustc && last.files.every((path) => existsSync(at(path))) && last.hash === hashOf(last.files);
}

/** The sources that rustc read, as its dependency file lists them: those of the native parts and of tests are not among them. */
function sources(crate) {
  const [, list] = readFileSync(join(release, `${crate}.d`), 'utf8').split(/:\s/, 2);
  return list
    .trim()
    .split(/(?<!\\)\s+/)
    .map((path) => path.replaceAll('\\ ', ' '))
    .map((path) => (isAbsolute(path) ? relative(root, path) : path))
    .sort();
}

async function compile(module, rustc, tools) {
  const { crate, features, made, env } = module;
  console.log(`wasm: ${Object.keys(made).join(', ')}`);
  const began = Date.now();
  // Several builds have a file of this name: cargo compiles anew what is not there.
  for (const { wasm } of Object.values(made)) rmSync(wasm, { force: true });
  await cargo(
    [
      'rustc',
      '--package',
      crate.replace('_', '-'),
      '--lib',
      '--crate-type',
      'cdylib',
      '--release',
      '--target',
      'wasm32-unknown-unknown',
      ...features,
    ],
    {
      RUSTFLAGS: WASM_FLAGS,
      // Not stripped: a section says which features of WebAssembly are used, and wasm-bindgen goes by it.
      CARGO_PROFILE_RELEASE_STRIP: 'none',
      ...env,
    },
  );
  await tools;
  await Promise.all(
    Object.entries(made).map(([folder, { wasm, name }]) => {
      mkdirSync(at('target/bindgen', folder), { recursive: true });
      return start(program('bindgen'), [wasm, at('target/bindgen', folder), name]);
    }),
  );
  // No wasm-opt: -O3 took off 0.8% of the compressed size, for minutes.
  const files = sources(crate);
  // What was saved in the meantime may not have been read: then the next build asks cargo again.
  if (files.some((path) => statSync(at(path)).mtimeMs >= began)) rmSync(stampOf(module), { force: true });
  else writeFileSync(stampOf(module), JSON.stringify({ rustc, hash: hashOf(files), files }, null, 1));
}

/** Compiles what is stale; with `bench` also the engine that benchmarks use. */
export async function buildWasm({ bench = false } = {}) {
  const rustc = output('rustc', ['--version']);
  const stale = [ENGINE, ...TEXT, ...(bench ? [BENCH] : [])].filter((module) => !isFresh(module, rustc));
  if (stale.length === 0) return;
  await setupRust();
  await cargo(['build', '--package', 'tiers']);
  const tools = cargo(['build', '--package', 'bindgen']);
  // A failure is told where the tool is needed.
  tools.catch(() => {});
  for (const module of stale) await compile(module, rustc, tools);
}

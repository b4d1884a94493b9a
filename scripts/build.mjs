// Builds the npm package into pkg/: the crate once for each level of SIMD, the TypeScript, the types. Only what is stale.
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { filesUnder, fingerprint, root, run, target, TIERS } from './lib.mjs';
import { bindgen, setup } from './setup.mjs';
import { writeFirstVisit } from './first-visit.mjs';
import { writeShell } from './shell.mjs';

setup();
const at = (...path) => join(root, ...path);
const sources = (...folders) => fingerprint([
  ...folders.flatMap((folder) => filesUnder(at(folder))).filter((path) => !path.includes('/bin/')),
  ...['Cargo.toml', 'Cargo.lock', 'scripts/build.mjs'].map((path) => at(path)),
]);
const engine = sources('src', 'shaders');

/** Compiles a crate to wasm with its glue, into a folder of target/bindgen/, unless that was made of the same sources. */
function compile(folder, inputs, { crate, features = [], tier = '', name = crate.replace('-', '_') }) {
  const out = at('target/bindgen', folder);
  const stamp = join(out, 'inputs');
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === inputs) return;
  console.log(`wasm: ${folder}`);
  // The dependencies are the same for all and built once.
  run(
    'cargo',
    [
      'rustc', '--package', crate, '--lib', '--crate-type', 'cdylib', '--release', '--locked', '--target', 'wasm32-unknown-unknown',
      '--target-dir', target, ...features,
      '--', ...(tier ? ['-C', `target-feature=${tier}`] : []),
    ],
    // Not stripped: a section says which features of WebAssembly are used, and wasm-bindgen goes by it.
    { env: { RUSTFLAGS: '-C target-feature=+simd128', CARGO_PROFILE_RELEASE_STRIP: 'none' } },
  );
  const wasm = join(target, `wasm32-unknown-unknown/release/${crate.replace('-', '_')}.wasm`);
  const flags = ['--omit-default-module-path', '--remove-name-section', '--remove-producers-section'];
  run(bindgen(), ['--target', 'web', '--out-name', name, ...flags, '--out-dir', out, wasm]);
  // No wasm-opt: -O3 took off 0.8% of the compressed size, for minutes.
  writeFileSync(stamp, inputs);
}

for (const [tier, flags] of Object.entries(TIERS)) compile(tier, engine, { crate: 'mobilellm-web', tier: flags });
/** Features of crates/text: each a module that is fetched when something needs it. */
const PARTS = ['templates', 'splitter'];
const text = sources('crates/text');
for (const name of PARTS) compile(name, text, { name, crate: 'mobilellm-text', features: ['--no-default-features', '--features', name] });
// The engine with what benchmarks and the conformance test call.
if (process.argv.includes('--bench')) compile('bench', engine, { crate: 'mobilellm-web', features: ['--features', 'bench'] });

for (const tier of Object.keys(TIERS)) {
  const out = at('pkg/wasm', tier);
  mkdirSync(out, { recursive: true });
  writeIfChanged(join(out, 'mobilellm_web_bg.wasm'), readFileSync(at('target/bindgen', tier, 'mobilellm_web_bg.wasm')));
}
for (const name of PARTS) writeIfChanged(at(`pkg/wasm/${name}_bg.wasm`), readFileSync(at(`target/bindgen/${name}/${name}_bg.wasm`)));

const { build } = await import('esbuild');
const bundle = (entry, outfile, options = {}) =>
  build({
    entryPoints: [at('js', entry)], outfile: at('pkg', outfile), bundle: true, format: 'esm', target: 'es2022', sourcemap: 'linked',
    logLevel: 'warning', absWorkingDir: root, ...options,
  });
/** The modules that an app can import, by name in `exports` of package.json. */
const ENTRIES = ['index', 'sw-helper'];
const APART = ['./wasm/witness.js', './embedded/*'];
await Promise.all([
  // What an app bundles stays readable in its stack traces; the app's bundler makes it small. Nothing does that for the workers.
  ...ENTRIES.map((name) => bundle(`${name}.ts`, `${name}.js`, { external: APART })),
  bundle('wasm/witness.ts', 'wasm/witness.js'),
  // For require() where it takes no modules: Node before 20.19, Jest.
  ...ENTRIES.map((name) =>
    bundle(`${name}.ts`, `${name}.cjs`, {
      external: APART.slice(1), format: 'cjs', platform: 'node', define: { 'import.meta.url': 'moduleUrl' },
      // Undefined in a browser, where a bundler that takes this form has put the files nowhere.
      banner: { js: "const moduleUrl = globalThis.process?.getBuiltinModule?.('node:url').pathToFileURL(__filename).href;" },
    }),
  ),
  // A script: a module worker of it runs wherever its bytes come from.
  ...Object.keys(TIERS).map((tier) =>
    bundle('worker.ts', `wasm/${tier}/worker.js`, {
      alias: {
        'wasm-glue': at('target/bindgen', tier, 'mobilellm_web.js'),
        ...Object.fromEntries(PARTS.map((name) => [`${name}-glue`, at(`target/bindgen/${name}/${name}.js`)])),
      },
      format: 'iife',
      minify: true,
    }),
  ),
]);
run(process.execPath, [at('node_modules/typescript/bin/tsc'), '-p', root]);
for (const path of filesUnder(at('pkg')).filter((path) => path.endsWith('.d.ts'))) {
  writeFileSync(path.replace(/\.ts$/, '.cts'), readFileSync(path, 'utf8').replace(/(['"]\.\/[\w-]+)\.js(?=['"])/g, '$1.cjs'));
}

// Each file that `js/assets.ts` may look for, as a module: `relaxed/worker.js` keeps its name, `x.wasm` becomes `x.wasm.js`.
rmSync(at('pkg/embedded'), { recursive: true, force: true });
for (const path of filesUnder(at('pkg/wasm')).filter((path) => /(worker\.js|\.wasm)$/.test(path))) {
  const out = join(at('pkg/embedded'), relative(at('pkg/wasm'), path).replace(/\.wasm$/, '.wasm.js'));
  mkdirSync(dirname(out), { recursive: true });
  // The link to a source map leads nowhere from there.
  const bytes = path.endsWith('.js') ? readFileSync(path, 'utf8').replace(/^\/\/# sourceMappingURL=.*$/m, '') : readFileSync(path);
  writeFileSync(out, `export default '${gzipSync(bytes, { level: 9 }).toString('base64')}';\n`);
}

// The page: third-party modules, then the list of all that it needs offline.
await (await import('./vendor.mjs')).vendor();
writeFirstVisit();
writeShell(at('www'), at('pkg'));

console.log('size            raw   gzip brotli (KB)');
for (const path of filesUnder(at('pkg')).filter((path) => /\.(js|wasm)$/.test(path))) {
  const bytes = readFileSync(path);
  const sizes = [bytes.length, gzipSync(bytes).length, brotli(bytes)].map((n) => (n / 1000).toFixed(0).padStart(6));
  console.log(`${sizes.join(' ')}  ${path.slice(at('pkg').length + 1)}`);
}

function brotli(bytes) {
  // Quality 9: what 11 gives within 2%, in a fraction of the time.
  return brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } }).length;
}

function writeIfChanged(path, bytes) {
  if (!existsSync(path) || statSync(path).size !== bytes.length || !readFileSync(path).equals(bytes)) writeFileSync(path, bytes);
}

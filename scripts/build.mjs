// Builds the npm package into pkg/: the crate once for each level of SIMD, the TypeScript, the types; and what the page needs besides.
// Only what is stale.
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';
import { filesUnder, fingerprint, root, TIERS } from './lib.mjs';
import { writeFirstVisit } from './first-visit.mjs';
import { setupNode } from './setup.mjs';
import { writeShell } from './shell.mjs';
import { start } from './steps.mjs';
import { buildWasm, PARTS } from './wasm.mjs';

const at = (...path) => join(root, ...path);
const tiers = Object.keys(TIERS);
/** The modules that an app can import, by name in `exports` of package.json. */
const ENTRIES = ['index', 'sw-helper'];
/** What those import and is not bundled into them. */
const APART = ['./wasm/witness.js', './embedded/*'];

/** @param {{ bench?: boolean }} options with `bench` also the engine for benchmarks @returns {Promise<boolean>} whether anything of the package was built */
export async function build(options = {}) {
  await Promise.all([setupNode(), buildWasm(options)]);
  const built = await buildPackage();
  // The page: third-party modules, then the list of all that it needs offline.
  const { vendor } = await import('./vendor.mjs');
  await vendor();
  writeFirstVisit();
  writeShell(at('www'), at('pkg'));
  return built;
}

/** The TypeScript around the wasm. @returns {Promise<boolean>} whether anything was built */
async function buildPackage() {
  const stamp = at('target/bindgen/package');
  const inputs = fingerprint([
    ...filesUnder(at('js')),
    ...[...tiers, ...PARTS].flatMap((folder) => filesUnder(at('target/bindgen', folder))),
    ...['tsconfig.json', 'package-lock.json', 'scripts/build.mjs'].map((name) => at(name)),
  ]);
  const outputs = [
    ...ENTRIES.flatMap((name) => [`${name}.js`, `${name}.cjs`, `${name}.d.ts`]),
    ...tiers.flatMap((tier) => [`wasm/${tier}/worker.js`, `embedded/${tier}/worker.js`]),
    ...PARTS.map((name) => `wasm/${name}_bg.wasm`),
  ];
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === inputs && outputs.every((name) => existsSync(at('pkg', name)))) return false;

  for (const tier of tiers) {
    mkdirSync(at('pkg/wasm', tier), { recursive: true });
    copyFileSync(at('target/bindgen', tier, 'mobilellm_web_bg.wasm'), at('pkg/wasm', tier, 'mobilellm_web_bg.wasm'));
  }
  for (const name of PARTS) copyFileSync(at(`target/bindgen/${name}/${name}_bg.wasm`), at(`pkg/wasm/${name}_bg.wasm`));
  const { build } = await import('esbuild');
  const bundle = (entry, outfile, options = {}) =>
    build({
      entryPoints: [at('js', entry)],
      outfile: at('pkg', outfile),
      bundle: true,
      format: 'esm',
      target: 'es2022',
      sourcemap: 'linked',
      logLevel: 'warning',
      absWorkingDir: root,
      ...options,
    });
  await Promise.all([
    // What an app bundles stays readable in its stack traces; the app's bundler makes it small. Nothing does that for the workers.
    ...ENTRIES.map((name) => bundle(`${name}.ts`, `${name}.js`, { external: APART })),
    bundle('wasm/witness.ts', 'wasm/witness.js'),
    // For require() where it takes no modules: Node before 20.19, Jest.
    ...ENTRIES.map((name) =>
      bundle(`${name}.ts`, `${name}.cjs`, {
        external: APART.slice(1),
        format: 'cjs',
        platform: 'node',
        define: { 'import.meta.url': 'moduleUrl' },
        // Undefined in a browser, where a bundler that takes this form has put the files nowhere.
        banner: { js: "const moduleUrl = globalThis.process?.getBuiltinModule?.('node:url').pathToFileURL(__filename).href;" },
      }),
    ),
    // A script: a module worker of it runs wherever its bytes come from.
    ...tiers.map((tier) =>
      bundle('worker.ts', `wasm/${tier}/worker.js`, {
        alias: {
          'wasm-glue': at('target/bindgen', tier, 'mobilellm_web.js'),
          ...Object.fromEntries(PARTS.map((name) => [`${name}-glue`, at(`target/bindgen/${name}/${name}.js`)])),
        },
        format: 'iife',
        minify: true,
      }),
    ),
    start(process.execPath, [at('node_modules/typescript/bin/tsc'), '-p', root]),
  ]);
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
  writeFileSync(stamp, inputs);
  return true;
}

if (import.meta.filename === process.argv[1]) {
  try {
    if (await build({ bench: process.argv.includes('--bench') })) {
      const { printSizes } = await import('./size.mjs');
      printSizes();
    }
  } catch (error) {
    console.error(error.message);
    process.exit(1);
  }
}

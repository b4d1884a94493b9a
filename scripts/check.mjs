// `npm run check`: everything that can be said about the sources without running the package: formats, lints, types, documentation,
// shaders. Words after `--` choose steps.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { root, WASM_FLAGS } from './lib.mjs';
import { start, runSteps } from './steps.mjs';

const cargo = (args, env) => start('cargo', args, { env });
const wasm = { RUSTFLAGS: WASM_FLAGS };
const tsc = (config) => start(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', config]);

/** `built`: the names of steps after which the package's types are there. @returns {import('./steps.mjs').Step[]} */
export function checks(built = []) {
  // Cargo runs one command at a time in a folder of target/; the wasm32 ones have a folder of their own.
  const native = { keeps: ['target/debug'] };
  const web = { keeps: ['target/wasm32-unknown-unknown/debug'] };
  const steps = [
    { name: 'fmt', run: () => cargo(['fmt', '--all', '--check']) },
    {
      name: 'biome',
      run: () =>
        start(process.execPath, [join(root, 'node_modules/@biomejs/biome/bin/biome'), 'ci', '--error-on-warnings', '--colors=off']),
    },
    {
      name: 'types',
      needs: built,
      run: async () => {
        if (!existsSync(join(root, 'target/bindgen/simd128/mobilellm_web.d.ts')) || !existsSync(join(root, 'www/vendor'))) {
          throw new Error('js/ and www/ are checked against the types of the built package: npm run build');
        }
        await tsc('.');
        await tsc('tsconfig.www.json');
      },
    },
    { name: 'clippy', ...native, run: () => cargo(['clippy', '--workspace', '--all-targets', '--locked', '--', '-D', 'warnings']) },
    {
      name: 'clippy wasm32',
      ...web,
      // The second time with what only the `relaxed` tier compiles.
      run: async () => {
        const lint = ['clippy', '--lib', '--features', 'bench', '--locked', '--target', 'wasm32-unknown-unknown', '--', '-D', 'warnings'];
        await cargo(lint, wasm);
        await cargo([...lint, '-C', 'target-feature=+relaxed-simd'], wasm);
      },
    },
    { name: 'shaders', ...native, run: () => cargo(['test', '--locked', '--test', 'shaders']) },
    {
      name: 'rustdoc',
      ...native,
      run: () => cargo(['doc', '--locked', '--no-deps', '--document-private-items'], { RUSTDOCFLAGS: '-D warnings' }),
    },
    {
      name: 'rustdoc wasm32',
      ...web,
      run: () =>
        cargo(['doc', '--lib', '--locked', '--no-deps', '--document-private-items', '--target', 'wasm32-unknown-unknown'], {
          ...wasm,
          RUSTDOCFLAGS: `-D warnings ${WASM_FLAGS}`,
        }),
    },
  ];
  return steps.map((step) => ({ ...step, alone: `npm run check -- '${step.name}'` }));
}

if (import.meta.filename === process.argv[1]) {
  const chosen = process.argv.slice(2).filter((word) => word !== '--');
  const all = checks();
  const unknown = chosen.filter((word) => !all.some(({ name }) => name === word));
  if (unknown.length > 0) {
    console.error(`unknown step ${unknown.join(', ')}: ${all.map(({ name }) => `'${name}'`).join(', ')} can be chosen`);
    process.exit(1);
  }
  await runSteps(all.filter(({ name }) => chosen.length === 0 || chosen.includes(name)));
}

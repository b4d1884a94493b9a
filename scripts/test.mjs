// `npm test`: the checks of the sources, the crate natively, its CPU lanes in wasm, the built package in Node and in Chromium. What does
// not depend on each other runs side by side. Words after `--` choose parts (check, rust, wasm, size, page, node, browser) or files of
// tests (tests/browser/api.test.mjs, tests/golden.rs); only what those need is built.
import { existsSync } from 'node:fs';
import { join, relative } from 'node:path';
import { build } from './build.mjs';
import { checks } from './check.mjs';
import { filesUnder, root, target, TIERS, WASM_FLAGS } from './lib.mjs';
import { addTarget, setupNode } from './setup.mjs';
import { runSteps, start, StepError } from './steps.mjs';

/** A file that hangs fails after so long; the longest takes three minutes. */
const TEST_TIMEOUT_MS = 600_000;

// Nothing is compiled twice on a machine that is thrown away afterwards.
if (process.env.CI) process.env.CARGO_INCREMENTAL ??= '0';

const cargo = (args, env) => start('cargo', args, { env });
// Cargo does one thing at a time in target/debug. The package is built in target/release.
const debug = { keeps: ['target/debug'] };

/** Tests of the crate; `--no-fail-fast`, so that one run names all that fail. @param {string[]} chosen names of integration tests */
function rust(chosen) {
  const which = chosen.flatMap((name) => ['--test', name]);
  const needs = [`rust build${chosen.map((name) => ` ${name}`).join('')}`];
  return [
    { name: needs[0], ...debug, run: () => cargo(['test', '--locked', '--no-run', ...which]) },
    {
      name: `rust${chosen.map((name) => ` ${name}`).join('')}`,
      needs,
      alone: ['npm test -- ', ...(chosen.length > 0 ? chosen.map((name) => `tests/${name}.rs`) : ['rust'])].join(''),
      run: async () => {
        let output;
        try {
          output = await cargo(['test', '--locked', '--no-fail-fast', ...which]);
        } catch (error) {
          if (error instanceof StepError) error.message += rustHints(error.message);
          throw error;
        }
        // What each binary took, since they run one after the other.
        const lines = output.split('\n').filter((line) => /^\s+(Running|Doc-tests)|^test result/.test(line));
        console.log(lines.map((line) => `  ${line.trim()}`).join('\n'));
      },
    },
  ];
}

/** A command for each Rust test that failed. */
function rustHints(output) {
  let which = '--lib';
  const commands = [];
  for (const line of output.split('\n')) {
    const [, file] = /^\s+Running (?:unittests )?(\S+)/.exec(line) ?? [];
    if (file)
      which = file.startsWith('tests/')
        ? `--test ${file.slice('tests/'.length, -'.rs'.length)}`
        : file === 'src/lib.rs'
          ? '--lib'
          : '--bins';
    const [, name] = /^test (\S+) \.\.\. FAILED/.exec(line) ?? [];
    if (name) commands.push(`\nAlone: cargo test ${which} -- --exact ${name}`);
  }
  return commands.join('');
}

/** The CPU backend's own tests in each level of SIMD that is shipped, in Node through WASI. */
const lanes = Object.entries(TIERS).map(([tier, features]) => ({
  name: `lanes ${tier}`,
  part: 'wasm',
  ...debug,
  alone: 'npm test -- wasm',
  run: async () => {
    await addTarget('wasm32-wasip1');
    const built = await cargo(
      [
        'rustc',
        '--lib',
        '--profile',
        'test',
        '--no-default-features',
        '--locked',
        '--target',
        'wasm32-wasip1',
        '--target-dir',
        target,
        '--message-format',
        'json-render-diagnostics',
        '--config',
        'profile.dev.package."*".opt-level=0',
        '--',
        ...(features ? ['-C', `target-feature=${features}`] : []),
      ],
      { RUSTFLAGS: WASM_FLAGS },
    );
    const program = built
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line).executable)
      .find(Boolean);
    if (!program) throw new Error('cargo made no test program');
    await start(process.execPath, ['--no-warnings', 'tests/lib/wasi.mjs', program, 'backend::cpu', 'conformance', 'sampler', 'stop']);
  },
}));

/** Files of tests below a folder of tests/. Node's own runner does not take folders or patterns in version 20. */
const files = (folder) =>
  filesUnder(join(root, 'tests', folder))
    .map((path) => relative(root, path))
    .filter((path) => path.endsWith('.test.mjs'));

/** Runs files of tests in a Node process of their own. */
async function nodeTests(paths, env = {}) {
  try {
    await start(
      process.execPath,
      ['--test', '--test-concurrency=1', `--test-timeout=${TEST_TIMEOUT_MS}`, '--test-reporter=spec', ...paths],
      { env },
    );
  } catch (error) {
    if (error instanceof StepError) error.message += nodeHints(error.message);
    throw error;
  }
}

/** A command for each test that failed: the end of the report names them with the file that each stands in. */
function nodeHints(output) {
  const [, failed = ''] = output.split('failing tests:');
  return [...failed.matchAll(/test at (\S+?):\d+:\d+\n\S+ (.+) \([\d.]+ms\)/g)]
    .map(
      ([, file, name]) =>
        `\nAlone: npm run build && node --test --test-name-pattern '${name.replaceAll(/[^\w ]/g, '.')}' ${relative(root, join(root, file))}`,
    )
    .join('');
}

/** One browser for all files that ask for the same kind, started when the first does. tests/lib/browser.mjs connects to it. */
const browsers = new Map();
async function sharedBrowsers() {
  if (browsers.size === 0) {
    const { launchServer } = await import('../tests/lib/browser.mjs');
    for (const webgpu of ['none', 'software']) browsers.set(`BROWSER_${webgpu.toUpperCase()}`, launchServer({ webgpu }));
  }
  return Object.fromEntries(await Promise.all([...browsers].map(async ([name, server]) => [name, (await server).wsEndpoint()])));
}

const ofFile = (part, path) => ({
  name: path,
  part,
  needs: ['package'],
  alone: `npm test -- ${path}`,
  run: async () => nodeTests([path], part === 'browser' ? await sharedBrowsers() : {}),
});

/** The longest of the browser's files first, so that none is left for the end. */
const LONGEST = ['api', 'faults', 'reference', 'fallback'].map((name) => `tests/browser/${name}.test.mjs`);
const byLength = (paths) => [...LONGEST.filter((path) => paths.includes(path)), ...paths.filter((path) => !LONGEST.includes(path))];

const chosen = process.argv.slice(2).filter((word) => word !== '--');
const rustFiles = chosen
  .filter((word) => /^tests\/\w+\.rs$/.test(word) && existsSync(join(root, word)))
  .map((path) => path.slice('tests/'.length, -'.rs'.length));
const wantsRust = chosen.length === 0 || chosen.includes('rust');
const rustSteps = wantsRust || rustFiles.length > 0 ? rust(wantsRust ? [] : rustFiles) : [];

/** In the order in which they are begun. The first two are what the others wait for. */
const all = [
  {
    name: 'package',
    run: async () => {
      await build();
    },
  },
  ...rustSteps.map((step) => ({ ...step, part: 'rust' })),
  ...byLength(files('browser')).map((path) => ofFile('browser', path)),
  ...files('node').map((path) => ofFile('node', path)),
  {
    name: 'page',
    part: 'page',
    alone: 'npm test -- page',
    run: async () => {
      await setupNode();
      await (await import('./vendor.mjs')).vendor();
      await nodeTests(files('page'));
    },
  },
  {
    name: 'size',
    part: 'size',
    needs: ['package'],
    alone: 'npm run size',
    run: async () => {
      const { printSizes } = await import('./size.mjs');
      if (!printSizes()) throw new Error('over the budget');
    },
  },
  // `rust` runs the tests of the shaders.
  ...checks(['package'])
    .filter(({ name }) => name !== 'shaders' || chosen.includes('check'))
    .map((step) => ({ ...step, part: 'check' })),
  ...lanes,
];

const parts = new Set(all.map(({ part }) => part).filter(Boolean));
parts.add('rust');
const isKnown = (word) =>
  parts.has(word) || all.some(({ name }) => name === word) || (/^tests\/\w+\.rs$/.test(word) && existsSync(join(root, word)));
const unknown = chosen.filter((word) => !isKnown(word));
if (unknown.length > 0) {
  console.error(`unknown: ${unknown.join(', ')}. Parts are ${[...parts].join(', ')}; or name a file of tests.`);
  process.exit(1);
}
const wanted = all.filter(
  ({ name, part }) => chosen.length === 0 || chosen.includes(part) || chosen.includes(name) || (part === 'rust' && rustFiles.length > 0),
);
const needed = new Set(wanted.flatMap(({ needs = [] }) => needs));
const steps = all.filter((step) => wanted.includes(step) || needed.has(step.name));

if (steps.some(({ part }) => part !== 'rust' && part !== 'wasm')) await setupNode();
try {
  await runSteps(steps);
} finally {
  for (const server of browsers.values()) await (await server).close();
}

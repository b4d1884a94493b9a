// Everything that `npm test` checks: the crate natively, its CPU lanes in wasm, the built package in Node and in Chromium. Words
// after `--` choose stages: rust, wasm, node, browser.
import { spawn, spawnSync } from 'node:child_process';
import { join, relative } from 'node:path';
import { filesUnder, root, run, target, TIERS } from './lib.mjs';
import { addTarget, setup } from './setup.mjs';

const CLIPPY = ['clippy', '--all-targets', '--', '-D', 'warnings'];

const stages = {
  rust() {
    run('cargo', ['fmt', '--check']);
    run('cargo', CLIPPY);
    run('cargo', ['test']);
  },
  /** The CPU backend's own tests in each level of SIMD that is shipped, in Node through WASI. */
  wasm() {
    addTarget('wasm32-wasip1');
    for (const [tier, features] of Object.entries(TIERS)) {
      const built = spawnSync(
        'cargo',
        [
          'rustc', '--lib', '--profile', 'test', '--no-default-features', '--locked', '--target', 'wasm32-wasip1', '--target-dir', target,
          '--message-format', 'json-render-diagnostics', '--config', 'profile.dev.package."*".opt-level=0', '--', ...(features ? ['-C', `target-feature=${features}`] : []),
        ],
        { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, RUSTFLAGS: '-C target-feature=+simd128' } },
      );
      const program = built.stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line).executable).find(Boolean);
      if (built.status !== 0 || !program) process.exit(built.status || 1);
      console.log(`lanes: ${tier}`);
      run(process.execPath, ['--no-warnings', 'tests/lib/wasi.mjs', program, 'backend::cpu', 'conformance', 'sampler', 'stop']);
    }
  },
  node() {
    nodeTests('tests/node');
    nodeTests('tests/page');
  },
  browser: () => nodeTests('tests/browser'),
};

/** Node's own runner does not take folders or patterns in version 20. */
function nodeTests(folder) {
  const files = filesUnder(join(root, folder)).filter((path) => path.endsWith('.test.mjs')).map((path) => relative(root, path));
  // One file at a time: each has a browser of its own, and timings and memory are shared. A file that hangs (the longest takes three
  // minutes) fails after ten, and the rest are still run.
  run(process.execPath, ['--test', '--test-concurrency=1', '--test-timeout=600000', ...files]);
}

const chosen = process.argv.slice(2).filter((word) => word !== '--');
const unknown = chosen.filter((word) => !Object.hasOwn(stages, word));
if (unknown.length > 0) {
  console.error(`unknown stage ${unknown.join(', ')}: ${Object.keys(stages).join(', ')} can be chosen`);
  process.exit(1);
}
const wanted = chosen.length > 0 ? chosen : Object.keys(stages);
setup();
// Beside the build, whose linking keeps one core busy; what fails here is told by the stage.
const before = `cargo test --no-run && cargo ${CLIPPY.join(' ')}`;
if (wanted.includes('rust')) spawn(before, { cwd: root, stdio: 'ignore', shell: true }).unref();
await import('./build.mjs');
for (const stage of wanted) {
  console.log(`\n== ${stage}`);
  stages[stage]();
}

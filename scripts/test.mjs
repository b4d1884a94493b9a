// Everything that `npm test` checks: the crate natively, the built package in Node and in Chromium. Words after `--` choose
// stages: rust, node, browser.
import { filesUnder, root, run } from './lib.mjs';
import { join, relative } from 'node:path';

const stages = {
  rust() {
    run('cargo', ['fmt', '--check']);
    run('cargo', ['clippy', '--all-targets', '--', '-D', 'warnings']);
    run('cargo', ['test']);
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
  // One file at a time: each has a browser of its own, and timings and memory are shared.
  run(process.execPath, ['--test', '--test-concurrency=1', ...files]);
}

const chosen = process.argv.slice(2).filter((word) => word !== '--');
const unknown = chosen.filter((word) => !Object.hasOwn(stages, word));
if (unknown.length > 0) {
  console.error(`unknown stage ${unknown.join(', ')}: ${Object.keys(stages).join(', ')} can be chosen`);
  process.exit(1);
}
const wanted = chosen.length > 0 ? chosen : Object.keys(stages);
await import('./build.mjs');
for (const stage of wanted) {
  console.log(`\n== ${stage}`);
  stages[stage]();
}

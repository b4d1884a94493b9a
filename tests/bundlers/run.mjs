// The matrix: installs the packed package in every app and runtime of apps.mjs and tries it there. `npm run evaluate` runs all of it, which
// takes some twenty minutes and writes docs/bundlers.md; `node tests/bundlers/run.mjs [part of a name ...]` tries some and writes nothing.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from '../../scripts/lib.mjs';
import { launch } from '../lib/browser.mjs';
import { APPS, RUNTIMES } from './apps.mjs';
import { install, prepare, tryBuild, tryDev, tryRun } from './lab.mjs';

const parts = process.argv.slice(2).map((part) => part.toLowerCase());
const chosen = (apps) =>
  Object.entries(apps).filter(([name]) => parts.length === 0 || parts.some((part) => name.toLowerCase().includes(part)));

const tarball = prepare();
const browser = await launch({ webgpu: 'none' });
let failed = false;

/** @param {() => string[] | Promise<string[]>} attempt @returns {Promise<string>} for the table */
async function tell(name, what, attempt) {
  let problems;
  try {
    problems = await attempt();
  } catch (error) {
    problems = [error.message];
  }
  console.log(`${name}, ${what}: ${problems.length > 0 ? `\n  ${problems.join('\n  ')}` : 'holds'}`);
  failed ||= problems.length > 0;
  return problems.length > 0 ? 'fails' : 'holds';
}

/** Rows of a table: a name with its versions, then what `columns` makes of the app. */
async function table(apps, columns) {
  const rows = [];
  for (const [name, app] of chosen(apps)) {
    let installed;
    try {
      installed = install(name, app, tarball);
    } catch (error) {
      await tell(name, 'install', () => [error.message]);
      rows.push([name, 'cannot be installed']);
      continue;
    }
    const versions = Object.entries(installed.versions)
      .map(([dependency, version]) => `${dependency} ${version}`)
      .join(', ');
    rows.push([name, versions || `node ${process.versions.node}`, ...(await columns(name, app, installed.folder))]);
  }
  return rows;
}

const bundlers = await table(APPS, async (name, app, folder) => [
  await tell(name, 'build', () => tryBuild(browser, folder, app)),
  app.dev ? await tell(name, 'development', () => tryDev(browser, folder, app)) : 'has none',
]);
const runtimes = await table(RUNTIMES, async (name, { runs }, folder) => {
  const results = [];
  for (const [what, command] of Object.entries(runs)) results.push(`${what} ${await tell(name, what, () => tryRun(folder, command))}`);
  return [results.join(', ')];
});
const browserVersion = browser.version();
await browser.close();

if (parts.length === 0) {
  const lines = (head, rows) => [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  const text = `mobilellm-web ${version}, ${new Date().toISOString().slice(0, 10)}, Chromium ${browserVersion}.

${lines(['Bundler or framework', 'Versions', 'Build', 'Development'], bundlers)}

${lines(['Runtime', 'Versions', 'Result'], runtimes)}`;
  const path = join(root, 'docs/bundlers.md');
  const between = /(<!-- matrix -->\n)[\s\S]*?(\n<!-- \/matrix -->)/;
  writeFileSync(
    path,
    readFileSync(path, 'utf8').replace(between, (_, before, after) => before + text + after),
  );
}
process.exit(failed ? 1 : 0);

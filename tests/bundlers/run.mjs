// The matrix of docs/bundlers.md: every app, built and in development. `node tests/bundlers/run.mjs [part of a name ...]` runs some.
import { launch } from '../lib/browser.mjs';
import { APPS } from './apps.mjs';
import { install, prepare, tryBuild, tryDev } from './lab.mjs';

const parts = process.argv.slice(2);
const wanted = Object.entries(APPS).filter(([name]) => parts.length === 0 || parts.some((part) => name.toLowerCase().includes(part.toLowerCase())));
const tarball = prepare();
const browser = await launch({ webgpu: 'none' });
for (const [name, app] of wanted) {
  const attempt = (what, work) => work().then((problems) => console.log(`${name} ${what}: ${problems.length ? `\n  ${problems.join('\n  ')}` : 'holds'}`), (error) => console.log(`${name} ${what}: ${error.message}`));
  const started = Date.now();
  let folder, versions;
  try {
    ({ folder, versions } = install(name, app, tarball));
  } catch (error) {
    console.log(`${name}: ${error.message}`);
    continue;
  }
  console.log(name, JSON.stringify(versions), `installed in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  await attempt('build', () => tryBuild(browser, folder, app));
  if (app.dev) await attempt('dev', () => tryDev(browser, folder, app));
  console.log(`  ${((Date.now() - started) / 1000).toFixed(0)} s`);
}
await browser.close();

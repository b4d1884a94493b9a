// Runs steps that do not need each other side by side, and tells how long each took.
import { spawn } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { root } from './lib.mjs';

/**
 * @typedef {object} Step
 * @property {string} name
 * @property {() => Promise<void>} run rejects if it fails
 * @property {string[]} [needs] names of steps that must have passed before
 * @property {string[]} [keeps] what only one step may use at a time, by name
 * @property {string} [alone] the command that runs this step and nothing else
 */

/** @param {number} ms */
const seconds = (ms) => `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;

/**
 * Runs all steps, as many at a time as there are cores, the first of the list first. Those that need one that failed are not run.
 * Prints a table of times; the process fails if a step did.
 * @param {Step[]} steps
 */
export async function runSteps(steps, width = Math.max(2, availableParallelism())) {
  /** @type {Map<string, string>} how steps ended */
  const ended = new Map();
  const took = new Map();
  const waiting = [...steps];
  /** @type {Map<Step, Promise<void>>} */
  const running = new Map();
  const start = performance.now();
  const names = new Set(steps.map(({ name }) => name));

  const one = async (/** @type {Step} */ step) => {
    const began = performance.now();
    try {
      await step.run();
      ended.set(step.name, 'ok');
    } catch (error) {
      ended.set(step.name, 'FAILED');
      console.error(
        `\n== ${step.name} failed\n${error instanceof StepError ? error.message : /** @type {Error} */ (error.stack ?? error)}`,
      );
      if (step.alone) console.error(`Alone: ${step.alone}`);
    }
    took.set(step.name, performance.now() - began);
    console.log(`${ended.get(step.name)?.padEnd(6)} ${step.name}, ${seconds(took.get(step.name))}`);
    running.delete(step);
  };
  const isReady = (/** @type {Step} */ { needs = [], keeps = [] }) =>
    needs.every((name) => !names.has(name) || ended.get(name) === 'ok') &&
    ![...running.keys()].some((other) => other.keeps?.some((name) => keeps.includes(name)));

  while (waiting.length > 0 || running.size > 0) {
    for (const step of [...waiting]) {
      if (step.needs?.some((name) => names.has(name) && ended.has(name) && ended.get(name) !== 'ok')) {
        ended.set(step.name, 'not run');
        waiting.splice(waiting.indexOf(step), 1);
      } else if (running.size < width && isReady(step)) {
        waiting.splice(waiting.indexOf(step), 1);
        running.set(step, one(step));
      }
    }
    if (running.size > 0) await Promise.race(running.values());
    else if (waiting.length > 0 && !waiting.some(isReady)) throw new Error(`steps wait for each other: ${waiting.map(({ name }) => name)}`);
  }

  const bad = steps.filter(({ name }) => ended.get(name) !== 'ok');
  console.log(`\n${steps.length - bad.length} of ${steps.length} steps passed in ${seconds(performance.now() - start)}`);
  for (const step of [...steps].sort((a, b) => (took.get(b.name) ?? 0) - (took.get(a.name) ?? 0))) {
    console.log(
      `${(took.has(step.name) ? seconds(took.get(step.name)) : '').padStart(7)}  ${ended.get(step.name)?.padEnd(7)}  ${step.name}`,
    );
  }
  for (const { name, alone } of bad) if (ended.get(name) === 'FAILED' && alone) console.log(`run ${name} alone: ${alone}`);
  if (bad.length > 0) process.exitCode = 1;
}

/** A program failed: what it had printed, and how it was started. */
export class StepError extends Error {}

/** Runs a program in the project's folder and gives its output; `live` shows that as it comes instead. */
export function start(program, args, { env = {}, live = false } = {}) {
  return new Promise((resolve, reject) => {
    const stdio = live ? 'inherit' : 'pipe';
    const child = spawn(program, args, { cwd: root, env: { ...process.env, ...env }, stdio: ['ignore', stdio, stdio] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (text) => (output += text));
    child.once('error', (error) => reject(new StepError(`${program}: ${error.message}`)));
    child.once('close', (status, signal) => {
      if (status === 0) return resolve(output);
      const settings = Object.entries(env).map(([name, value]) => `${name}='${value}' `);
      reject(new StepError(`${output}\n${settings.join('')}${program} ${args.join(' ')}: ${signal ?? `exit status ${status}`}`));
    });
  });
}

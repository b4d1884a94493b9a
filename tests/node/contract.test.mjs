// What the engine's JavaScript side and the TypeScript around it tell each other, as far as src/protocol.rs and tsc do not see it.
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { root, TIERS } from '../../scripts/lib.mjs';

const read = (path) => readFileSync(join(root, path), 'utf8');

test('the glue has a type for everything that passes through the worker', () => {
  for (const tier of Object.keys(TIERS)) {
    const path = `target/bindgen/${tier}/mobilellm_web.d.ts`;
    const glue = read(path);
    const imported = [...glue.matchAll(/^} ?from '(.+)';|^import type .* from '(.+)';/gm)].map(([, a, b]) => a ?? b);
    assert.ok(imported.includes('../../../js/generated.js'), `${path} imports ${imported}`);
    // A type that is not found counts as any, without a word: tsc skips what is wrong in declarations.
    for (const module of imported) assert.ok(existsSync(join(root, dirname(path), module.replace(/\.js$/, '.ts'))), module);
    // The two lists of what the benchmark and the tests alone call are beside it.
    const engine = glue.slice(glue.indexOf('export class Engine'), glue.indexOf('\n}', glue.indexOf('export class Engine')));
    const untyped = [...engine.matchAll(/^ {4}(\w+)\(.*\bany\b.*$/gm)].map(([line]) => line);
    const functions = ['availability', 'estimate', 'deleteModel', 'listModels', 'follow'];
    for (const name of functions) untyped.push(...(glue.match(new RegExp(`^export function ${name}\\(.*\\bany\\b.*$`, 'gm')) ?? []));
    assert.deepEqual(untyped, [], path);
  }
});

test('what Rust calls of a TypeScript class is there', () => {
  const called = {
    JsExchange: ['src/web/exchange.rs', 'js/threads.ts'],
    PieceReader: ['src/web/store.rs', 'js/pieces.ts'],
    FoundPiece: ['src/web/store.rs', 'js/pieces.ts'],
  };
  for (const [type, [rust, typescript]] of Object.entries(called)) {
    const names = [...read(rust).matchAll(new RegExp(`fn (\\w+)\\(this: &${type}\\b`, 'g'))].map(([, name]) => name);
    assert.ok(names.length > 1, type);
    const text = read(typescript);
    const name = type.replace('Js', '');
    const start = text.search(new RegExp(`(class|interface) ${name}\\b`));
    const body = text.slice(start, text.indexOf('\n}', start));
    for (const member of names) assert.match(body, new RegExp(`^  (readonly )?${member}[(:]`, 'm'), `${name}.${member}`);
  }
});

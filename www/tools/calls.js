// @ts-check
import { Validator } from '../vendor/json-schema/index.js';

/**
 * @typedef {{ name: string, arguments: Record<string, unknown> }} Call
 * @typedef {{ type: 'function', function: { name: string, description: string, parameters: object }, 'x-result'?: string[] }} Tool  x-result: results the model was trained on, as JSON
 */

/** @param {Tool[]} tools @returns {(call: Call) => string | null} what is wrong with a call, null if nothing */
export function callChecker(tools) {
  const validators = new Map(tools.map((t) => [t.function.name, new Validator(/** @type {any} */ (t.function.parameters), '2020-12')]));
  return function check({ name, arguments: args }) {
    const validator = validators.get(name);
    if (!validator) return `there is no function ${name}`;
    const { valid, errors } = validator.validate(args);
    // The last error is the innermost: the field itself, not "some property failed".
    return valid ? null : (errors.at(-1)?.error ?? 'arguments do not fit the schema');
  };
}

/**
 * The failures that the model was trained to explain. To any other it may well answer "Sure! Your alarm is set", so the page has to speak.
 * @param {Tool[]} tools @returns {(name: string, error: string) => boolean}
 */
export function trainedErrors(tools) {
  const known = new Set(tools.flatMap((t) => (t['x-result'] ?? []).map((r) => `${t.function.name}: ${JSON.parse(r).error}`)));
  // In the schema, but the demo model answers "That's 5." to 5/0.
  known.delete('calculate: division by zero');
  return (name, error) => known.has(`${name}: ${error}`);
}

// @ts-check
import { Validator } from '../vendor/json-schema/index.js';

/**
 * @typedef {{ name: string, arguments: Record<string, unknown> }} Call
 * @typedef {{ type: 'function', function: { name: string, description: string, parameters: object } }} Tool
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

// @ts-check
import { Validator } from '../vendor/json-schema/index.js';

/**
 * @typedef {{ name: string, arguments: Record<string, unknown> }} Call
 * @typedef {{ type: 'function', function: { name: string, description: string, parameters: object }, 'x-result'?: string[] }} Tool  x-result: results the model was trained on, as JSON
 */

/** @param {Tool[]} tools @returns {(call: Call) => string | null} what is wrong with a call, null if nothing */
export function callChecker(tools) {
  const known = new Map(
    tools.map(({ function: f }) => [
      f.name,
      { schema: /** @type {any} */ (f.parameters), validator: new Validator(/** @type {any} */ (f.parameters), '2020-12') },
    ]),
  );
  return function check({ name, arguments: args }) {
    const found = known.get(name);
    if (!found) return `there is no function ${name}`;
    const { valid, errors } = found.validator.validate(args);
    return valid ? null : inWords(found.schema, args, errors.at(-1));
  };
}

/** The last error is the innermost: the field itself, not "some property failed". @param {any} schema @param {any} args @param {{ keyword: string, instanceLocation: string, error: string } | undefined} error */
function inWords(schema, args, error) {
  if (!error) return 'arguments do not fit the schema';
  const field = error.instanceLocation.slice(2);
  if (error.keyword === 'required')
    return `“${schema.required.find((/** @type {string} */ name) => !Object.hasOwn(args, name))}” is missing`;
  if (error.keyword === 'false') return `there is no “${field}”`;
  if (!field) return error.error;
  const { description, enum: choices = [], minimum, maximum } = schema.properties[field] ?? {};
  const says = description ?? (maximum !== undefined ? `${minimum} to ${maximum}` : choices.length < 10 && choices.join(' or '));
  return `“${field}” cannot be ${JSON.stringify(args[field])}${says ? `: ${says}` : ''}`;
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

// @ts-check
/** Arithmetic with + - * / ^ ( ) and sqrt(), by recursive descent: the page's CSP forbids eval, and model output must never reach it. */

/** @param {string} expression @returns {number} @throws {Error} with a message short enough to hand to the model */
export function calculate(expression) {
  const tokens = expression.match(/\d+\.?\d*|\.\d+|sqrt|[-+*/^()]|\S/g) ?? [];
  let at = 0;
  const eat = (/** @type {string} */ t) => tokens[at] === t && ++at > 0;

  /** @returns {number} */
  function sum() {
    let v = product();
    for (;;) {
      if (eat('+')) v += product();
      else if (eat('-')) v -= product();
      else return v;
    }
  }
  function product() {
    let v = unary();
    for (;;) {
      if (eat('*')) v *= unary();
      else if (eat('/')) {
        const d = unary();
        if (d === 0) throw new Error('division by zero');
        v /= d;
      } else return v;
    }
  }
  /** Binds looser than ^, so that -2^2 is -4. @returns {number} */
  function unary() {
    if (eat('-')) return -unary();
    if (eat('+')) return unary();
    return power();
  }
  function power() {
    const base = atom();
    return eat('^') ? base ** unary() : base;
  }
  /** @returns {number} */
  function atom() {
    if (eat('(')) {
      const v = sum();
      if (!eat(')')) throw new Error('missing )');
      return v;
    }
    if (eat('sqrt')) {
      const v = atom();
      if (v < 0) throw new Error('square root of a negative number');
      return Math.sqrt(v);
    }
    const token = tokens[at];
    if (token === undefined || !/^[\d.]/.test(token)) throw new Error(token ? `unexpected ${token}` : 'incomplete expression');
    at += 1;
    return Number(token);
  }

  if (tokens.length > 500) throw new Error('expression too long');
  const value = sum();
  if (at < tokens.length) throw new Error(`unexpected ${tokens[at]}`);
  if (!Number.isFinite(value)) throw new Error('number too large');
  return Number(value.toPrecision(12));
}

// @ts-check
/** @typedef {{ dimension: string, scale: number, offset?: number }} Unit value in base unit = (value + offset) * scale */

/** US customary measures, as the demo model was trained. @type {Record<string, Unit>} */
const UNITS = Object.fromEntries(
  Object.entries({
    length: { m: 1, km: 1000, cm: 0.01, mm: 0.001, mi: 1609.344, ft: 0.3048, in: 0.0254, yd: 0.9144 },
    mass: { kg: 1, g: 0.001, lb: 0.45359237, oz: 0.028349523125, stone: 6.35029318 },
    volume: {
      l: 1,
      ml: 0.001,
      gal: 3.785411784,
      quart: 0.946352946,
      pint: 0.473176473,
      cup: 0.2365882365,
      tbsp: 0.01478676478125,
      tsp: 0.00492892159375,
    },
    speed: { 'km/h': 1, mph: 1.609344 },
    time: { seconds: 1, minutes: 60, hours: 3600, days: 86400, weeks: 604800 },
  }).flatMap(([dimension, units]) => Object.entries(units).map(([name, scale]) => [name, { dimension, scale }])),
);
UNITS.kelvin = { dimension: 'temperature', scale: 1 };
UNITS.celsius = { dimension: 'temperature', scale: 1, offset: 273.15 };
UNITS.fahrenheit = { dimension: 'temperature', scale: 5 / 9, offset: 459.67 };

/** @param {number} value @param {string} from @param {string} to @returns {number} rounded for reading aloud @throws {Error} */
export function convert(value, from, to) {
  const a = UNITS[from];
  const b = UNITS[to];
  if (!a || !b) throw new Error(`unknown unit ${a ? to : from}`);
  if (a.dimension !== b.dimension) throw new Error(`cannot convert ${from} to ${to}`);
  const result = ((value + (a.offset ?? 0)) * a.scale) / b.scale - (b.offset ?? 0);
  return round(result);
}

/** Two decimals, or four below 1, or three significant digits where those would show nothing. @param {number} x */
export function round(x) {
  const fixed = Number(x.toFixed(Math.abs(x) < 1 ? 4 : 2));
  return Math.abs(fixed) < 0.0005 ? Number(x.toPrecision(3)) : fixed;
}

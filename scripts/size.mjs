// `npm run size`: how large each file of the package is, and whether what a visitor loads before the first token is within the budget.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import { filesUnder, root, TIERS } from './lib.mjs';

/** Bytes, gzip, of one tier with the code around it. Lower it whenever the package became smaller; never raise it without a reason. */
export const BUDGET = 1_000_000;

const pkg = join(root, 'pkg');

/** @param {string} path in pkg/ */
function sizesOf(path) {
  const bytes = readFileSync(join(pkg, path));
  // Brotli of quality 9: what 11 gives within 2%, in a fraction of the time.
  const brotli = brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 9 } });
  return { raw: bytes.length, gzip: gzipSync(bytes).length, brotli: brotli.length };
}

/** Prints the tables. @returns {boolean} whether the package is within its budget */
export function printSizes() {
  const files = filesUnder(pkg)
    .map((path) => path.slice(pkg.length + 1))
    // Copies for bundlers hold the same bytes once more; a page loads them only where the files themselves cannot be had.
    .filter((path) => /\.(js|wasm)$/.test(path) && !path.startsWith('embedded/'));
  const sizes = new Map(files.map((path) => [path, sizesOf(path)]));
  const row = ({ raw, gzip, brotli }, name) => `${[raw, gzip, brotli].map((n) => (n / 1000).toFixed(1).padStart(8)).join('')}  ${name}`;
  console.log('     raw    gzip  brotli  KB');
  for (const [path, size] of sizes) console.log(row(size, path));

  let isWithin = true;
  for (const tier of Object.keys(TIERS)) {
    // An app imports index.js; its worker is the glue and the rest of the code; a browser loads one tier.
    const first = ['index.js', 'wasm/witness.js', `wasm/${tier}/worker.js`, `wasm/${tier}/mobilellm_web_bg.wasm`].map((path) =>
      sizes.get(path),
    );
    const total = first.reduce((a, b) => ({ raw: a.raw + b.raw, gzip: a.gzip + b.gzip, brotli: a.brotli + b.brotli }));
    const over = total.gzip - BUDGET;
    console.log(
      row(
        total,
        `before the first token, ${tier}: ${over > 0 ? `${over} bytes OVER` : `${-over} bytes under`} the budget of ${BUDGET} gzip`,
      ),
    );
    if (over > 0) isWithin = false;
    const templates = sizes.get('wasm/templates_bg.wasm');
    console.log(
      row(
        { raw: total.raw + templates.raw, gzip: total.gzip + templates.gzip, brotli: total.brotli + templates.brotli },
        `the same with chat templates, ${tier}`,
      ),
    );
  }
  return isWithin;
}

if (import.meta.filename === process.argv[1]) {
  const { build } = await import('./build.mjs');
  await build();
  if (!printSizes()) process.exit(1);
}

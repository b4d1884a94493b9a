/** The address of a file of the package as seen from this folder: see {@link placed} in `assets.ts`. This file is built as one of its own. */
export const witness = (): URL => new URL('./relaxed/worker.js', import.meta.url);

/** The address of this file. It is built as a file of its own: see {@link merged} in `assets.ts`. */
export const address: string | undefined = import.meta.url;

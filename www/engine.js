// @ts-check
/** The one door to the package: everything else on the page takes these names from here. */
export { MobileLLM, MobileLLMError } from './pkg/index.js';

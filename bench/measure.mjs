// Runs in a page or in Node. Every figure is the median of `reps` samples after one that is thrown away.

export const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** GB/s at which wasm can merely read 256 MB, 16 bytes at a time:
 *  (loop (v128.xor of four v128.load) (br_if ...)) over the memory, from bench/read.wat. */
export function plainRead(reps) {
  const code =
    'AGFzbQEAAAABCAJgAABgAAF/AwMCAAEFBAEAwh4HGAMGbWVtb3J5AgAEZmlsbAAABHJlYWQAAQpVAg8AQQBBAUGAgIj6APwLAAtDAgF/AXsDQCABIAD9AAQAIAD9AAQQ/VEgAP0ABCAgAP0ABDD9Uf1R/VEhASAAQcAAaiIAQYCAiPoASQ0ACyAB/RsACw==';
  const module = new WebAssembly.Module(Uint8Array.from(atob(code), (c) => c.charCodeAt(0)));
  const { fill, read } = new WebAssembly.Instance(module).exports;
  fill();
  const sample = () => {
    const start = performance.now();
    read();
    return 0.255983616 / ((performance.now() - start) / 1e3);
  };
  for (let i = 0; i < 10; i++) sample();
  return median(Array.from({ length: reps }, sample));
}

/** Some `tokens` that start differently with each `n`, so that no cache helps. */
const prompt = (n, tokens) => 'abcdefghijklmnopqrstuvwxyz'[n % 26] + ' a'.repeat(tokens - 1);

/** Milliseconds a token of several models, decoding by turns so that a slow moment hits all: medians of `reps` times 32 tokens after 32. */
export async function decodeByTurns(MobileLLM, sources, options, reps) {
  const models = [];
  for (const source of sources) models.push(await MobileLLM.load(source, { device: 'cpu', cache: 'none', ...options }));
  const samples = models.map(() => []);
  for (let i = 0; i <= reps; i++) {
    for (const [model, llm] of models.entries()) {
      const { timings } = await llm.generate(prompt(i, 32), { maxTokens: 33, ignoreEos: true, temperature: 0 }).result;
      if (i > 0) samples[model].push(1000 / timings.decodeTokensPerSecond);
    }
  }
  for (const llm of models) await llm.close();
  return samples.map(median);
}

/** Tokens a second of a model through the public API: prefill of 128 and of 512 tokens, decode of 64 after 128. */
export async function measure(MobileLLM, source, options, reps) {
  const llm = await MobileLLM.load(source, { device: 'cpu', cache: 'none', ...options });
  let n = 0;
  const samples = async (tokens, maxTokens, field) => {
    const values = [];
    for (let i = 0; i <= reps; i++) {
      const { timings, usage } = await llm.generate(prompt(n++, tokens), { maxTokens, ignoreEos: true, temperature: 0 }).result;
      if (Math.abs(usage.promptTokens - tokens) > 4) throw new Error(`the prompt has ${usage.promptTokens} tokens, not ${tokens}`);
      if (i > 0) values.push(timings[field]);
    }
    return median(values);
  };
  const prefill128 = await samples(128, 1, 'prefillTokensPerSecond');
  const prefill512 = await samples(512, 1, 'prefillTokensPerSecond');
  const decode = await samples(128, 65, 'decodeTokensPerSecond');
  const { info } = llm;
  await llm.close();
  return { info, prefill128, prefill512, decode };
}

// This package as a runtime of the peer benchmark: one load, one greedy run from an empty cache. opts: { dtype, threads }
export async function load(baseUrl, opts) {
  const { MobileLLM } = await import(`${baseUrl}/mobilellm-web/index.js`);
  const llm = await MobileLLM.load(`${baseUrl}/models/hf/`, { device: 'cpu', cache: 'none', dtype: opts.dtype, threads: opts.threads });
  const run = async (text, n, onToken) => {
    // One other token first drops what the last run left in the cache: no prompt begins like an earlier one.
    await llm.generate('x', { maxTokens: 1, ignoreEos: true, temperature: 0 }).result;
    const ids = [];
    for await (const chunk of llm.generate(text, { maxTokens: n, ignoreEos: true, temperature: 0 })) {
      for (const id of chunk.tokenIds) {
        ids.push(id);
        onToken?.();
      }
    }
    return ids;
  };
  return {
    info: llm.info,
    async generate({ text }, n, onToken) {
      return { ids: await run(text, n, onToken) };
    },
    async check({ text }, n) {
      return { ids: await run(text, n) };
    },
    dispose: () => llm.close(),
  };
}

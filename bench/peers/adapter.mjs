// This package as a runtime of a peer benchmark: one load, one greedy run from an empty cache. opts: of MobileLLM.load
export async function load(baseUrl, opts) {
  const { MobileLLM } = await import(`${baseUrl}/mobilellm-web/index.js`);
  const llm = await MobileLLM.load(`${baseUrl}/models/hf/`, { device: 'cpu', cache: 'none', ...opts });
  const greedy = (text, n, options) => llm.generate(text, { maxTokens: n, ignoreEos: true, temperature: 0, ...options });
  const run = async (text, n, onToken, options) => {
    const ids = [];
    const answer = greedy(text, n, options);
    for await (const chunk of answer) {
      for (const id of chunk.tokenIds) {
        ids.push(id);
        onToken?.();
      }
    }
    const { usage, logprobs } = await answer.result;
    // The token that begins every text may be cached, and no more: no prompt profits from an earlier one.
    if (usage.cachedTokens > 1) throw new Error(`${usage.cachedTokens} prompt tokens came from the cache`);
    await greedy('x', 1).result;
    return { ids, logprobs };
  };
  return {
    info: llm.info,
    generate: async ({ text }, n, onToken) => ({ ids: (await run(text, n, onToken)).ids }),
    async check({ text }, n) {
      const { ids, logprobs } = await run(text, n, undefined, { logprobs: 10 });
      return { ids, top_logprobs: logprobs[0].top.map(({ tokenId, logprob }) => [tokenId, logprob]) };
    },
    dispose: () => llm.close(),
  };
}

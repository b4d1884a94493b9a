// The matrix: an app of a few lines for each bundler and framework, as its documentation begins one. Nothing in them is there for this
// package; where a line is (`needs`), docs/bundlers.md tells it.

/** What every app runs in the browser. */
const APP = `import { MobileLLM } from 'mobilellm-web';

globalThis.outcome = (async () => {
  const llm = await MobileLLM.load('/models/tiny/', { device: 'cpu', threads: 2 });
  const { threads, features } = llm.info;
  const { tokenIds } = await llm.generate('set an alarm', { maxTokens: 4, ignoreEos: true }).result;
  await llm.close();
  return { tokenIds, threads, features };
})();
`;
const page = (script) => `<!doctype html><html><head><meta charset="utf-8"><title>App</title>${script}</head><body></body></html>\n`;
const bundled = page('<script type="module" src="./app.js"></script>');

const vite = (version) => ({
  packages: { vite: version },
  files: { 'app.js': APP, 'index.html': page('<script type="module" src="/app.js"></script>') },
  build: ['vite', 'build'],
  out: 'dist',
  dev: ['vite', '--port', 'PORT', '--strictPort'],
});

/** The entry and the output are where these look for them; the page is not theirs to make. */
const packed = (packages, program) => ({
  packages,
  files: {
    'src/index.js': APP,
    'public/index.html': page('<script defer src="./main.js"></script>'),
    'dist/index.html': page('<script defer src="./main.js"></script>'),
  },
  build: [program, 'build', '--mode', 'production'],
  out: 'dist',
  dev: [program, 'serve', '--mode', 'development', '--port', 'PORT'],
});

/**
 * By name. `packages`: what is installed beside this package, with a newer Node where it wants one; `files`: of the
 * app; `build`: a command, `out`: the folder that it makes;
 * `start` instead: the command of the app's own server; `dev`: the command of the development server, PORT in it replaced; `warm`: it finds
 * out at the first visit what it has to prepare, and loads the page again.
 */
export const APPS = {
  'Vite 8': vite('8'),
  'Vite 7': vite('7'),
  'Vite 6': vite('6'),
  'webpack 5': packed({ webpack: '5', 'webpack-cli': '7', 'webpack-dev-server': '6' }, 'webpack'),
  Rspack: packed({ '@rspack/core': '2', '@rspack/cli': '2', '@rspack/dev-server': '2' }, 'rspack'),
  Rsbuild: {
    packages: { '@rsbuild/core': '2' },
    files: { 'src/index.js': APP },
    build: ['rsbuild', 'build'],
    out: 'dist',
    dev: ['rsbuild', 'dev', '--port', 'PORT'],
  },
  'Parcel 2': {
    packages: { parcel: '2' },
    files: { 'app.js': APP, 'index.html': bundled },
    build: ['parcel', 'build', 'index.html', '--no-cache'],
    out: 'dist',
    dev: ['parcel', 'serve', 'index.html', '--port', 'PORT', '--no-cache', '--dist-dir', 'serve'],
  },
  Rollup: {
    packages: { rollup: '4', '@rollup/plugin-node-resolve': '16' },
    files: { 'app.js': APP, 'dist/index.html': bundled },
    build: ['rollup', 'app.js', '--dir', 'dist', '--format', 'es', '--plugin', 'node-resolve'],
    out: 'dist',
  },
  esbuild: {
    packages: { esbuild: '0.28' },
    files: { 'app.js': APP, 'dist/index.html': bundled },
    build: ['esbuild', 'app.js', '--bundle', '--format=esm', '--splitting', '--minify', '--outdir=dist'],
    out: 'dist',
    dev: ['esbuild', 'app.js', '--bundle', '--format=esm', '--outdir=dist', '--servedir=dist', '--serve=127.0.0.1:PORT'],
  },
  'esbuild, a classic script': {
    packages: { esbuild: '0.28' },
    files: { 'app.js': APP, 'dist/index.html': page('<script defer src="./app.js"></script>') },
    build: ['esbuild', 'app.js', '--bundle', '--minify', '--outfile=dist/app.js'],
    out: 'dist',
  },
  "Bun's bundler": {
    packages: { bun: '1' },
    files: { 'app.js': APP, 'dist/index.html': bundled },
    build: ['bun', 'build', 'app.js', '--outdir', 'dist', '--splitting', '--minify'],
    out: 'dist',
  },
  Rolldown: {
    packages: { rolldown: '1' },
    files: { 'app.js': APP, 'dist/index.html': bundled },
    build: ['rolldown', 'app.js', '--dir', 'dist', '--format', 'es'],
    out: 'dist',
  },
  'Next.js, Turbopack': next([]),
  'Next.js, webpack': next(['--webpack']),
  SvelteKit: {
    packages: {
      '@sveltejs/kit': '3',
      '@sveltejs/vite-plugin-svelte': '7',
      '@sveltejs/adapter-node': '6',
      svelte: '5',
      vite: '8',
      node: '22',
    },
    files: {
      'vite.config.js':
        "import { sveltekit } from '@sveltejs/kit/vite';\nimport adapter from '@sveltejs/adapter-node';\nexport default { plugins: [sveltekit({ adapter: adapter() })] };\n",
      'src/app.html': page('%sveltekit.head%').replace('<body>', '<body><div>%sveltekit.body%</div>'),
      // Imported on the server too, where nothing is loaded.
      'src/routes/+page.svelte': `<script>\nimport { onMount } from 'svelte';\nimport { MobileLLM } from 'mobilellm-web';\nonMount(() => {\n${APP.replace(/^import.*$/m, '')}});\n</script>\n<p>{typeof MobileLLM}</p>\n`,
    },
    build: ['vite', 'build'],
    start: ['node', 'build/index.js'],
    dev: ['vite', 'dev', '--port', 'PORT', '--strictPort'],
  },
  Astro: {
    packages: { astro: '7', node: '22' },
    files: {
      'src/pages/index.astro': `---\nimport { MobileLLM } from 'mobilellm-web';\nconst kind = typeof MobileLLM;\n---\n${page('').replace('<body>', `<body><p>{kind}</p><script>\n${APP}</script>`)}`,
    },
    build: ['astro', 'build'],
    out: 'dist',
    dev: ['astro', 'dev', '--port', 'PORT'],
  },
  Nuxt: {
    packages: { nuxt: '4' },
    files: {
      'app/app.vue': `<script setup>\nimport { onMounted } from 'vue';\nimport { MobileLLM } from 'mobilellm-web';\nonMounted(() => {\n${APP.replace(/^import.*$/m, '')}});\n</script>\n<template><p>{{ typeof MobileLLM }}</p></template>\n`,
    },
    build: ['nuxt', 'build'],
    start: ['node', '.output/server/index.mjs'],
    warm: true,
    dev: ['nuxt', 'dev', '--port', 'PORT', '--host', '127.0.0.1'],
  },
};

/** The same without a browser: `runs` are commands by what they try. */
const ANSWER = `
  const llm = await MobileLLM.load('../models/tiny', { threads: 2 });
  const { threads, features } = llm.info;
  const { tokenIds } = await llm.generate('set an alarm', { maxTokens: 4, ignoreEos: true }).result;
  await llm.close();
`;
const TEST = `
test('an answer', async () => {${ANSWER}  expect([tokenIds.length, threads, features.length]).toEqual([4, 2, 1]);
});
test('an error', async () => {
  await expect(MobileLLM.load('nowhere')).rejects.toBeInstanceOf(MobileLLMError);
});
`;
const PROGRAMS = {
  'import.mjs': `import { MobileLLM } from 'mobilellm-web';\n${ANSWER}  console.log(JSON.stringify({ tokenIds, threads, features }));\n`,
  'require.cjs': `const { MobileLLM } = require('mobilellm-web');\n(async () => {${ANSWER}  console.log(JSON.stringify({ tokenIds, threads, features }));\n})();\n`,
};
const runtime = (packages, ...command) => ({
  packages,
  files: PROGRAMS,
  runs: { import: [...command, 'import.mjs'], 'require()': [...command, 'require.cjs'] },
});

export const RUNTIMES = {
  [`Node ${process.versions.node.split('.')[0]}`]: runtime({}, 'node'),
  'Node 22': runtime({ node: '22' }, 'node'),
  'Node 24': runtime({ node: '24' }, 'node'),
  Bun: runtime({ bun: '1' }, 'bun'),
  Deno: runtime({ deno: '2' }, 'deno', 'run', '--allow-all'),
  Vitest: {
    packages: { vitest: '4' },
    files: { 'app.test.js': `import { expect, test } from 'vitest';\nimport { MobileLLM, MobileLLMError } from 'mobilellm-web';\n${TEST}` },
    runs: { import: ['vitest', 'run'] },
  },
  Jest: {
    packages: { jest: '30', 'jest-environment-jsdom': '30' },
    files: {
      'app.test.cjs': `const { MobileLLM, MobileLLMError } = require('mobilellm-web');\n${TEST}`,
      'jest.config.json': '{ "testMatch": ["**/*.test.cjs"] }',
    },
    runs: { 'require()': ['jest'], 'require() under jsdom': ['jest', '--env', 'jsdom'] },
  },
};

function next(flags) {
  return {
    packages: { next: '16', react: '19', 'react-dom': '19' },
    files: {
      'app/layout.js': 'export default function Layout({ children }) {\n  return <html><body>{children}</body></html>;\n}\n',
      'app/page.js': `'use client';\nimport { useEffect } from 'react';\n${APP.split('\n')[0]}\nexport default function Page() {\n  useEffect(() => {\n${APP.replace(/^import.*$/m, '')}  }, []);\n  return <p>{typeof MobileLLM}</p>;\n}\n`,
    },
    build: ['next', 'build', ...flags],
    start: ['next', 'start', '-p', 'PORT'],
    dev: ['next', 'dev', ...flags, '-p', 'PORT'],
  };
}

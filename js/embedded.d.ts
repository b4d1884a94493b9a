/** Made by the build: a file of `pkg/wasm/`, compressed by gzip, in base64. */
declare module '*/worker.js' {
  const base64: string;
  export default base64;
}
declare module '*.wasm.js' {
  const base64: string;
  export default base64;
}

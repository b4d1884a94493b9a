// @ts-check
/** Alarm beeps without an audio file. Browsers allow sound only after the user touched the page. */

/** @type {AudioContext | undefined} */
let context;
for (const event of ['pointerdown', 'keydown'])
  addEventListener(event, () => void (context ??= new AudioContext()).resume(), { once: true });

const PERIOD_S = 1;
const LASTS_S = 30;

/** @param {number} volume 0 to 100 @returns {() => void} stops it */
export function beep(volume) {
  if (!context || volume === 0) return () => {};
  const gain = context.createGain();
  const tone = context.createOscillator();
  tone.frequency.value = 880;
  gain.gain.value = 0;
  const level = (volume / 100) ** 2 * 0.5;
  for (let t = 0; t < LASTS_S; t += PERIOD_S) {
    for (const at of [t, t + 0.25]) {
      gain.gain.setTargetAtTime(level, context.currentTime + at, 0.01);
      gain.gain.setTargetAtTime(0, context.currentTime + at + 0.12, 0.02);
    }
  }
  tone.connect(gain).connect(context.destination);
  tone.start();
  tone.stop(context.currentTime + LASTS_S);
  return () => tone.stop();
}

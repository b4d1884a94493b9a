// @ts-check
import { toast } from './dom.js';

/** Offline shell and updates. Nothing reloads by itself: a reply in progress must not be lost. */
export async function registerShell() {
  if (!('serviceWorker' in navigator)) return;
  try {
    const hadOne = Boolean(navigator.serviceWorker.controller);
    const registration = await navigator.serviceWorker.register('sw.js', { type: 'module' });
    let asked = false;
    const offer = () => {
      const { waiting } = registration;
      if (waiting && navigator.serviceWorker.controller) {
        toast('A new version is ready', {
          actions: [
            [
              'Update',
              () => {
                asked = true;
                waiting.postMessage('update');
              },
            ],
          ],
        });
      }
    };
    offer();
    registration.addEventListener('updatefound', () => {
      registration.installing?.addEventListener(
        'statechange',
        (e) => /** @type {ServiceWorker} */ (e.target).state === 'installed' && offer(),
      );
    });
    navigator.serviceWorker.addEventListener('controllerchange', () => {
      if (asked) location.reload();
      else if (hadOne) toast('This page was updated in another tab', { actions: [['Reload', () => location.reload()]] });
    });
  } catch (cause) {
    // Without it the page works as before, only not offline: no reason to bother anyone.
    console.warn('No offline shell:', cause);
  }
}

/** Threads need cross-origin isolation, which the service worker brings at the second navigation. */
export async function offerThreads() {
  if (crossOriginIsolated || !('serviceWorker' in navigator) || navigator.hardwareConcurrency < 2) return;
  const { active } = await navigator.serviceWorker.ready;
  if (active)
    toast('Faster after a reload', { detail: 'The CPU version can then use all cores.', actions: [['Reload', () => location.reload()]] });
}

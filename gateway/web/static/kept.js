/* What a person has typed and not saved yet. It outlives a visit to another part of the page, and the browser asks
   before it closes or loads the page again. */
import { useEffect, useLayoutEffect } from './vendor/htm-preact.js';

const unsaved = new Map();

addEventListener('beforeunload', (event) => { if (unsaved.size) event.preventDefault(); });

/** What was kept under the key, if anything. */
export const kept = (key) => unsaved.get(key);
export const forgetAll = () => unsaved.clear();
export const forget = (key) => unsaved.delete(key);
export const keep = (key, value) => unsaved.set(key, value);

/** Keeps `value` under the key while `changed`; `left` is called when the form is left with something in it. */
export function useKept(key, value, changed, left) {
  useLayoutEffect(() => { if (changed) keep(key, value); else forget(key); }); // at once: the form may be left before it is painted
  useEffect(() => () => { if (unsaved.has(key)) left(); }, [key]);
}

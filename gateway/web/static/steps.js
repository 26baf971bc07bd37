/* The way in, for someone who opens this page for the first time. Gone once all is done, or put away. */
import { html, useEffect, useState } from './vendor/htm-preact.js';
import { settlement } from './blocked.js';
import { useStore } from './store.js';

const KEY = 'stockade-steps-away';
const remember = () => { try { localStorage.setItem(KEY, '1'); } catch { /* private window: it comes back */ } };
const isAway = () => { try { return localStorage.getItem(KEY) === '1'; } catch { return false; } };

export function Steps() {
  const store = useStore();
  const { backends, clients, calls, connections, loaded, blocked, everAllowed } = store;
  const [away, setAway] = useState(isAway());
  const used = calls > 0 || connections.length > 0;
  const steps = [
    [backends?.length > 0, 'Add a server', 'Pick one from the catalog.', '#/add'],
    [clients?.length > 0 || used, 'Connect your AI client', 'It gets one address and a token.', '#/clients'],
    [used, 'Ask it to use the server', 'What it tries to reach shows up below.', ''],
    [everAllowed || (blocked || []).some((row) => settlement(store)(row)), 'Allow what it needs', blocked?.length ? 'Press \u201cAllow this host\u201d beside a blocked host.' : 'Blocked hosts get a button for it.', ''],
  ];
  const all = steps.every(([done]) => done);
  useEffect(() => { if (all) remember(); }, [all]);
  if (all || away || !loaded || !backends || !clients) return null;
  const next = steps.findIndex(([done]) => !done);
  const putAway = () => { remember(); setAway(true); };
  return html`<section class="steps" aria-label="Getting started">
    <ol>${steps.map(([done, title, words, link], index) => html`<li key=${title} class=${done ? 'done' : index === next ? 'next' : ''} aria-current=${index === next ? 'step' : undefined}>
      <b>${link && !done ? html`<a href=${link}>${title}</a>` : title}</b><span>${done ? 'Done' : words}</span></li>`)}</ol>
    <button type="button" class="icon" aria-label="Dismiss these steps" title="Dismiss" onClick=${putAway}>\u00d7</button>
  </section>`;
}

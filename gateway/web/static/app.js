/* The page: who is signed in, which part is shown, and what is always in sight. */
import { html, render, useEffect, useState } from './vendor/htm-preact.js';
import { api } from './api.js';
import { Shown, clock, plain } from './text.js';
import { Copy, Problems } from './ui.js';
import { Watch } from './watch.js';
import { Server, Servers } from './servers.js';
import { Registry } from './registry.js';
import { Clients } from './clients.js';
import { AcceptDialog } from './accept.js';
import { undecided } from './blocked.js';
import { start, stop, useStore } from './store.js';

const PARTS = [['watch', 'Watch', '#/'], ['servers', 'Servers', '#/servers'], ['add', 'Add a server', '#/add'], ['clients', 'Clients', '#/clients']];
const THEMES = { auto: 'Theme: system', light: 'Theme: light', dark: 'Theme: dark' };
const NEXT = { auto: 'light', light: 'dark', dark: 'auto' };

function route() {
  const [part = '', name = '', tab = ''] = location.hash.replace(/^#\/?/, '').split('/').map((piece) => { try { return decodeURIComponent(piece); } catch { return ''; } });
  return { part: part || 'watch', name, tab };
}

function useRoute() {
  const [where, setWhere] = useState(route());
  useEffect(() => {
    let last = route();
    const moved = () => {
      const next = route();
      if (next.part !== last.part || next.name !== last.name) scrollTo(0, 0); // another part begins at its top
      last = next;
      setWhere(next);
      document.getElementById('main')?.focus({ preventScroll: true });
    };
    addEventListener('hashchange', moved);
    return () => removeEventListener('hashchange', moved);
  }, []);
  return where;
}

function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme || 'auto');
  const turn = () => {
    const next = NEXT[theme];
    if (next === 'auto') delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
    try { localStorage.setItem('stockade-theme', next); } catch { /* private window: only until it closes */ }
    setTheme(next);
  };
  return html`<button type="button" class="link" id="theme" onClick=${turn}>${THEMES[theme]}</button>`;
}

const LINK = { live: 'Live', lost: 'Connection lost, trying again \u2026', connecting: 'Connecting \u2026' };

function Logo() {
  return html`<svg class="logo" viewBox="0 0 32 32" aria-hidden="true"><g class="posts">
    <circle cx="16" cy="4" r="2.6" /><circle cx="23.5" cy="6.6" r="2.6" /><circle cx="28" cy="16" r="0" /><circle cx="23.5" cy="25.4" r="2.6" /><circle cx="16" cy="28" r="2.6" /><circle cx="8.5" cy="25.4" r="2.6" /><circle cx="4.6" cy="19.2" r="2.6" /><circle cx="4.6" cy="12.8" r="2.6" /><circle cx="8.5" cy="6.6" r="2.6" /></g>
    <path class="way" d="M14 16h15m-4.5-4.5L29 16l-4.5 4.5" /></svg>`;
}

function Chrome({ where, children }) {
  const store = useStore();
  const waiting = undecided(store).length;
  return html`<div class="page">
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById('main').focus(); }}>Skip to the content</a>
    <header class="bar">
      <a class="brand" href="#/"><${Logo} /><span>Stockade</span></a>
      <nav class="parts" aria-label="Parts of the page">${PARTS.map(([key, title, link]) => html`<a key=${key} href=${link} aria-current=${where.part === key ? 'page' : undefined}>${title}${key === 'watch' && waiting ? html`<span class="count bad">${waiting}<span class="sr"> blocked hosts</span></span>` : null}</a>`)}</nav>
      <div class="bar-end"><span class=${`link-state ${store.link}`} role="status"><span class="dot" aria-hidden="true"></span>${LINK[store.link]}</span></div>
    </header>
    <${Notices} store=${store} />
    <main id="main" tabindex="-1">${children}</main>
    <footer class="foot">
      <span>${store.status?.urls?.endpoint ? html`Clients connect to <code>${store.status.urls.endpoint}</code> <${Copy} text=${store.status.urls.endpoint} />` : ''}</span>
      <span class="push">${store.status?.config_path ? html`<code title="The file this page edits"><${Shown} text=${store.status.config_path} /></code> · ` : ''}Stockade ${store.status?.version || ''} · <${Theme} /> · <button type="button" class="link" onClick=${() => api.signOut().catch(() => {}).then(stop)}>Sign out</button></span>
    </footer>
    <div class="said-box" role="status" aria-live="polite">${store.said && html`<p class=${`said ${store.said.tone}`}>${store.said.text}</p>`}</div>
  </div>`;
}

function Notices({ store }) {
  const [away, setAway] = useState(0);
  const [asking, setAsking] = useState(null);
  const loud = store.notices.filter((one) => (one.kind === 'tool' ? one.change === 'changed' || one.change === 'hidden' : one.severity !== 'info' && one.severity)).filter((one) => one.time > away).slice(0, 3);
  const fixed = [...(store.status && store.status.ready === false && store.status.detail ? [store.status.detail] : []), ...(store.status?.warnings || [])];
  const dialog = asking && html`<${AcceptDialog} backend=${asking.backend} tool=${asking.tool} onClose=${() => setAsking(null)} />`;
  if (!loud.length && !fixed.length) return dialog;
  return html`<section class="notices" aria-label="Notices">
    ${fixed.map((text) => html`<p key=${text}><${Shown} text=${text} /></p>`)}
    ${loud.map((one) => html`<p key=${`${one.time}${one.code || one.tool}`}><span class="quiet-text">${clock(one.time)}</span> ${one.backend ? html`<b><${Shown} text=${one.backend} /></b> ` : null}<${Shown} text=${one.kind === 'tool' ? `The tool ${one.tool} is no longer what it was when you first saw it (${one.change}). ${one.detail || ''}` : one.message} />${one.kind === 'tool' && html` <a href=${`#/servers/${encodeURIComponent(one.backend)}/tools`}>Read it</a> <button type="button" class="link" onClick=${() => setAsking(one)}>Accept it</button>`}</p>`)}
    ${loud.length > 0 && html`<button type="button" class="icon" aria-label="Dismiss the notices" title="Dismiss" onClick=${() => setAway(loud[0].time)}>\u00d7</button>`}
    ${dialog}
  </section>`;
}

function SignIn({ unreachable }) {
  const [token, setToken] = useState('');
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const enter = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try { await api.signIn(token.trim()); await start(); } catch (failed) { setError(failed); }
    setBusy(false);
  };
  return html`<main class="sign-in" id="main">
    <form onSubmit=${enter}>
      <div class="brand big"><${Logo} /><h1>Stockade</h1></div>
      <p>This page can open the wall around your servers, so it has a key of its own.</p>
      <label for="token">Admin token</label>
      <input id="token" type="password" autocomplete="current-password" autofocus required value=${token} onInput=${(event) => setToken(event.target.value)} aria-describedby="token-help" />
      <p id="token-help" class="quiet-text">It was printed once, when the gateway first started. Lost it? <code>stockade admin token --new</code> makes a new one.</p>
      <${Problems} error=${error} />
      ${unreachable && !error && html`<p class="problems" role="alert">The gateway does not answer. Is it running? <code>stockade ps</code> says. <button type="button" class="link" onClick=${start}>Try again</button></p>`}
      <button class="primary" disabled=${busy}>${busy ? 'Signing in …' : 'Sign in'}</button>
    </form>
  </main>`;
}

function App() {
  const { session } = useStore();
  const where = useRoute();
  useEffect(() => { start(); }, []);
  useEffect(() => { document.title = `${where.name ? `${plain(where.name)} · ` : ''}Stockade`; }, [where.name]);
  if (session === 'unknown') return html`<main class="sign-in" id="main"><p class="note">Loading …</p></main>`;
  if (session !== 'in') return html`<${SignIn} unreachable=${session === 'unreachable'} />`;
  const part = () => {
    switch (where.part) {
      case 'servers': return where.name ? html`<${Server} key=${where.name} name=${where.name} tab=${where.tab || undefined} />` : html`<${Servers} />`;
      case 'add': return html`<${Registry} name=${where.name} />`;
      case 'clients': return html`<${Clients} />`;
      default: return html`<${Watch} />`;
    }
  };
  return html`<${Chrome} where=${where}>${part()}</${Chrome}>`;
}

render(html`<${App} />`, document.getElementById('app'));

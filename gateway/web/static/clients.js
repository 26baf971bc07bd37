/* AI clients and their tokens. */
import { html, useEffect, useState } from './vendor/htm-preact.js';
import { api } from './api.js';
import { Shown, plain } from './text.js';
import { Confirm, Copy, Empty, Loading, Snippet } from './ui.js';
import { forget, keep } from './kept.js';
import { refreshClients, say, set, useStore } from './store.js';

const TOKEN = 'a token that is shown once';

export function Clients() {
  const { clients, status, made } = useStore();
  useEffect(() => { refreshClients(); }, []);
  if (!clients) return html`<${Loading} />`;
  return html`<section aria-labelledby="clients-title">
    <div class="section-head"><h1 id="clients-title">Clients</h1><p class="section-note">The AI programs that may use your servers. Each has its own token and its own list of tools.</p></div>
    <p class="endpoint-line">All of them connect to <code>${status?.urls?.endpoint || ''}</code> ${status?.urls?.endpoint && html`<${Copy} text=${status.urls.endpoint} />`}</p>
    <${AddClient} onMade=${(fresh) => { keep(TOKEN, true); set({ made: fresh }); }} />
    ${made && html`<${Made} made=${made} onClose=${() => { forget(TOKEN); set({ made: null }); }} />`}
    ${!clients.length && html`<${Empty} title="No clients yet"><p>Add one to get a token and the lines to paste into its settings.</p></${Empty}>`}
    ${clients.length > 0 && html`<ul class="cards">${clients.map((one) => html`<${ClientCard} key=${one.name} client=${one} />`)}</ul>`}
  </section>`;
}

function AddClient({ onMade }) {
  const [name, setName] = useState('');
  const [asking, setAsking] = useState(false);
  const fresh = name.trim();
  const done = (made) => { setAsking(false); setName(''); refreshClients(); onMade({ name: fresh, ...made }); };
  return html`<form class="inline-form" onSubmit=${(event) => { event.preventDefault(); setAsking(Boolean(fresh)); }}>
    <label for="client-name">Name of the client</label>
    <div class="cells"><input id="client-name" placeholder="cursor" autocomplete="off" spellcheck=${false} value=${name} onInput=${(event) => setName(event.target.value)} required /><button class="primary">Add client</button></div>
    ${asking && html`<${Confirm}
      title=${html`Add <${Shown} text=${fresh} />?`}
      words=${html`<p>It gets a token of its own and may use all servers. The token is shown once, when it is added.</p><p class="quiet-text">These lines go into your file. It has the token\u2019s fingerprint (SHA-256), never the token.</p>`}
      preview=${() => api.addClient(fresh, true)}
      apply=${() => api.addClient(fresh, false)}
      label="Add the client"
      onDone=${done}
      onClose=${() => setAsking(false)} />`}
  </form>`;
}

/** The snippets of a new client, whatever shape the gateway gives them in: {label: text} or [{client, text, …}]. */
export function snippetList(snippets) {
  if (Array.isArray(snippets)) return snippets.map((one) => ({ title: one.title || one.client || one.name, where: one.file || one.path || one.where || '', text: one.text || one.snippet || one.content || '', note: one.note || one.notes || '' }));
  return Object.entries(snippets || {}).map(([title, value]) => (typeof value === 'string' ? { title, where: '', text: value, note: '' } : { title: value.title || title, where: value.file || value.path || value.where || '', text: value.text || value.snippet || '', note: value.note || '' }));
}

function Made({ made, onClose }) {
  const snippets = snippetList(made.snippets);
  const [which, setWhich] = useState(0);
  const one = snippets[which];
  return html`<div class="made" role="status">
    <h2>The token of <${Shown} text=${made.name} /></h2>
    <p>This is shown <b>once</b>. Copy it now; the file keeps only its fingerprint.</p>
    <${Snippet} text=${made.token} label="Token" />
    ${snippets.length > 0 && html`<h3>Paste this into the client</h3>
      <div class="segments" role="group" aria-label="Client program">${snippets.map((item, index) => html`<button type="button" key=${item.title} aria-pressed=${index === which} onClick=${() => setWhich(index)}>${plain(item.title)}</button>`)}</div>
      ${one.where && html`<p class="quiet-text">In <code><${Shown} text=${one.where} /></code></p>`}
      <${Snippet} text=${one.text} label=${`Settings for ${one.title}`} />
      ${one.note && html`<p class="quiet-text"><${Shown} text=${one.note} /></p>`}`}
    <div class="actions"><button type="button" class="primary" onClick=${onClose}>I have copied it</button></div>
  </div>`;
}

function ClientCard({ client }) {
  const [removing, setRemoving] = useState(false);
  const servers = client.servers === '*' || client.servers == null ? 'all servers' : client.servers.join(', ') || 'no server';
  const allow = client.tools?.allow || [];
  const deny = client.tools?.deny || [];
  return html`<li class="card">
    <div class="card-head"><h2><${Shown} text=${client.name} /></h2>${client.token === false || client.has_token === false ? html`<span class="tag tag-warn">no token</span>` : null}
      <span class="push"><button type="button" class="small quiet-danger" onClick=${() => setRemoving(true)}>Remove …</button></span></div>
    <p>Sees <b><${Shown} text=${servers} /></b>${allow.length ? html`, only the tools <code><${Shown} text=${allow.join(', ')} /></code>` : ', all tools'}${deny.length ? html`, except <code><${Shown} text=${deny.join(', ')} /></code>` : null}.</p>
    ${removing && html`<${Confirm} danger title=${html`Remove <${Shown} text=${client.name} />?`} words=${html`<p>Its token stops working at once.</p>`} preview=${() => api.removeClient(client.name, true)} apply=${() => api.removeClient(client.name, false)} label="Remove the client" onDone=${() => { say(`${plain(client.name)} is removed.`); refreshClients(); }} onClose=${() => setRemoving(false)} />`}
  </li>`;
}

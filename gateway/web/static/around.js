/* Servers that go around the proxy: what was seen, why it fails, and what to change. */
import { html, useState } from './vendor/htm-preact.js';
import { api } from './api.js';
import { Host, Shown, ago, many } from './text.js';
import { Confirm } from './ui.js';
import { Fix, GroupHead, isDirectOnly } from './blocked.js';
import { refreshBackends, say, useStore } from './store.js';

const isAttempt = (row) => row.via !== 'dns';

/** Lookups that led to nothing through the proxy, and direct attempts, by server; the newest first. */
function byBackend(lookups, blocked) {
  const groups = new Map();
  const attempts = blocked.filter(isDirectOnly).map((row) => ({ ...row, via: 'direct' }));
  for (const row of [...attempts, ...lookups].sort((a, b) => b.last - a.last)) {
    if (!groups.has(row.backend)) groups.set(row.backend, []);
    groups.get(row.backend).push(row);
  }
  return [...groups];
}

export function Around({ only = '' }) {
  const { lookups, blocked, backends } = useStore();
  const mine = (row) => !only || row.backend === only;
  const groups = byBackend((lookups || []).filter(mine), (blocked || []).filter(mine));
  if (!groups.length) return null;
  return html`<section class="panel" aria-labelledby="around-title">
    <div class="section-head"><h2 id="around-title">Around the proxy</h2><p class="section-note">Servers that look names up or connect by themselves. None of it gets out.</p></div>
    ${groups.map(([backend, rows]) => html`<${Group} key=${backend} backend=${backend} rows=${rows} info=${(backends || []).find((one) => one.name === backend)} />`)}
  </section>`;
}

function Group({ backend, rows, info }) {
  const [asking, setAsking] = useState(false);
  const attempts = rows.filter(isAttempt);
  const names = rows.filter((row) => !isAttempt(row));
  const tried = attempts.reduce((sum, row) => sum + (row.count || 1), 0);
  const direct = info?.network?.direct === 'allow';
  return html`<div class="group">
    <${GroupHead} backend=${backend} gone=${rows[0].in_file === false}>${attempts.length ? many(tried, 'direct try', 'direct tries') : many(names.length, 'lookup')}</${GroupHead}>
    <p class="around-words">${attempts.length
      ? html`This server seems to <b>ignore the proxy settings</b> it is given: it dials out itself, and its network has no way out.`
      : html`It only <b>looked names up</b>. Many programs do that and then use the proxy all the same. If the server works, there is nothing to do.`}</p>
    <ul class="around-rows">${rows.slice(0, 8).map((row) => html`<li key=${`${row.via} ${row.host} ${row.port || 0}`}>
      <span class="tag">${isAttempt(row) ? 'direct' : `lookup ${row.method || ''}`}</span><${Host} host=${row.host || 'other ports'} port=${isAttempt(row) && row.host ? row.port : 0} /><span class="quiet-text">${row.allowed_now ? 'allowed now, ' : ''}${row.count > 1 ? `${row.count}\u00d7, ` : ''}${ago(row.last)}</span>
      <${Fix} row=${row} words=${isAttempt(row) ? 'To let it through' : 'If the server does not work without it'} /></li>`)}</ul>
    ${attempts.length > 0 && !direct && info && html`<div class="remedy">
      <p><b>What helps, best first</b></p>
      <ol>
        <li>Node.js: Stockade already sets <code>NODE_USE_ENV_PROXY=1</code>, which Node 24 and later obey. Use a newer Node image or package.</li>
        <li>Python: many libraries obey <code>HTTPS_PROXY</code> by themselves; aiohttp needs <code>trust_env=True</code>. Look in the server’s manual for a proxy setting.</li>
        <li>Otherwise let Stockade carry its direct connections. The same rules apply: only allowed hosts and ports get through.</li>
      </ol>
      ${info?.direct_supported === false
        ? html`<p class="quiet-text">This engine does not let Stockade carry direct connections. <code>stockade doctor</code> says why.</p>`
        : html`<button type="button" class="small" onClick=${() => setAsking(true)}>Carry direct connections</button>`}
    </div>`}
    ${attempts.length > 0 && direct && html`<p class="quiet-text">Direct connections are carried for this server (<code>direct: allow</code>), under the same rules. What you see here was not allowed by them, or came before.</p>`}
    ${asking && html`<${Confirm}
      title=${html`Carry direct connections of <${Shown} text=${backend} />?`}
      words=${html`<p>Stockade will answer its lookups of allowed names and carry its own connections to them. It still reaches nothing that its rules do not name.</p>`}
      preview=${() => api.saveNetwork(backend, { ...info.network, direct: 'allow' }, true)}
      apply=${() => api.saveNetwork(backend, { ...info.network, direct: 'allow' }, false)}
      label="Carry them"
      onDone=${() => { say(`Direct connections of ${backend} are carried now, under its rules.`); refreshBackends(); setAsking(false); }}
      onClose=${() => setAsking(false)} />`}
  </div>`;
}

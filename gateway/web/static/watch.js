/* Live connections: who inside tried to reach what outside, and whether the wall let it through. */
import { html, useState, useRef, useMemo } from './vendor/htm-preact.js';
import { explain } from './reasons.js';
import { Host, Shown, bytes, clock, many, moment, plain, seconds } from './text.js';
import { Empty, Loading, Segments } from './ui.js';
import { AllowDialog, allowable } from './allow.js';
import { Blocked, settlement } from './blocked.js';
import { Around } from './around.js';
import { Steps } from './steps.js';
import { useStore } from './store.js';

const SHOWN = 250;
const VERDICT = { allowed: 'Allowed', blocked: 'Blocked', report: 'Would be blocked', failed: 'Not reached' };

const inFlight = (row) => (row.calls || []).length + (row.more_calls || 0);
const certain = (row) => inFlight(row) === 1;

export function callWords(row) {
  const calls = row.calls || [];
  if (!calls.length) return '';
  const names = [...new Set(calls.map((call) => call.tool || call.method))];
  return (certain(row) ? '' : 'probably ') + names.slice(0, 2).join(' or ') + (names.length > 2 ? ' \u2026' : '');
}

function matches(row, filter) {
  if (row.via === 'dns' && !filter.lookups) return false;
  if (filter.backend && row.backend !== filter.backend) return false;
  if (filter.decision === 'blocked' && row.verdict !== 'blocked' && row.verdict !== 'report') return false;
  if (filter.decision === 'allowed' && row.verdict === 'blocked') return false;
  if (!filter.text) return true;
  const text = filter.text.toLowerCase();
  const found = [row.host, row.port, row.destination, row.address, row.reason, row.rule, row.backend, row.detail, ...(row.calls || []).flatMap((call) => [call.tool, call.client])];
  return found.some((value) => value && String(value).toLowerCase().includes(text));
}

export function Watch({ backend = '' }) {
  const store = useStore();
  const [filter, setFilter] = useState({ backend, decision: 'all', text: '', lookups: false });
  const [frozen, setFrozen] = useState(null);
  const change = (patch) => setFilter({ ...filter, ...patch });
  const source = frozen || store.connections;
  const rows = useMemo(() => source.filter((row) => matches(row, filter)), [source, filter]);
  const newest = frozen ? Math.max(0, ...frozen.map((row) => row.n)) : 0;
  const waiting = frozen ? store.connections.filter((row) => row.n > newest && matches(row, filter)).length : 0;
  const names = [...new Set([...(store.backends || []).map((one) => one.name), ...store.connections.map((row) => row.backend)])].sort();

  if (store.loaded && store.backends && !store.backends.length && !store.connections.length) return html`<div class="watch"><${Steps} /><${First} /></div>`;

  return html`<div class="watch">
    <${Steps} />
    <div class="watch-columns">
      <section class="live" aria-labelledby="live-title">
        <div class="section-head">
          <h1 id="live-title">Connections</h1>
          <p class="section-note">Everything your servers try to reach, as it happens.</p>
        </div>
        <div class="toolbar">
          <select aria-label="Server" value=${filter.backend} onChange=${(event) => change({ backend: event.target.value })}>
            <option value="">All servers</option>
            ${names.map((name) => html`<option key=${name} value=${name} selected=${name === filter.backend}>${plain(name)}</option>`)}
          </select>
          <${Segments} label="Decision" value=${filter.decision} onChange=${(decision) => change({ decision })} options=${[['all', 'All'], ['blocked', 'Blocked'], ['allowed', 'Allowed']]} />
          <input type="search" aria-label="Find" placeholder="Find host, tool, reason" value=${filter.text} onInput=${(event) => change({ text: event.target.value })} />
          <label class="check"><input type="checkbox" checked=${filter.lookups} onChange=${(event) => change({ lookups: event.target.checked })} />DNS lookups</label>
          <button type="button" class=${frozen ? 'pause is-paused' : 'pause'} aria-pressed=${Boolean(frozen)} onClick=${() => setFrozen(frozen ? null : store.connections)}>
            ${frozen ? 'Resume' : 'Pause'}${frozen && html`<span class="count" aria-live="polite">${waiting} waiting</span>`}
          </button>
        </div>
        ${!store.loaded && html`<${Loading} />`}
        ${store.loaded && !rows.length && html`<${Nothing} any=${source.length > 0} />`}
        ${rows.length > 0 && html`<${Rows} rows=${rows} />`}
      </section>
      <div class="side">
        <${Blocked} />
        <${Around} />
      </div>
    </div>
  </div>`;
}

const First = () => html`<${Empty} first level=${1} title="Nothing is behind the wall yet">
  <p>A server you add runs in a container of its own and reaches only what you allow. What else it tries shows up here, and you allow it host by host.</p>
  <p><a class="button primary" href="#/add">Add a server</a></p></${Empty}>`;

function Nothing({ any }) {
  if (any) return html`<${Empty} title="No connection fits this filter"><p>Clear the filter to see the others.</p></${Empty}>`;
  return html`<${Empty} title="Nothing has tried to get out yet"><p>Ask your AI client to use one of the servers. What the server then tries to reach shows up here within a second.</p></${Empty}>`;
}

function Rows({ rows }) {
  const list = useRef(null);
  const [open, setOpen] = useState('');
  const move = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.classList.contains('row-main')) return;
    const all = [...list.current.querySelectorAll('.row-main')];
    const next = all[all.indexOf(event.target) + step];
    if (next) { event.preventDefault(); next.focus(); }
  };
  return html`<div class="rows-head" aria-hidden="true"><span>Time</span><span>Inside</span><span></span><span>Outside</span><span>Why</span><span class="right">Sent / received</span></div>
    <ul class="rows" ref=${list} onKeyDown=${move}>
      ${rows.slice(0, SHOWN).map((row, index) => html`<${Row} key=${row.key} row=${row} first=${index === 0} open=${open === row.key} toggle=${() => setOpen(open === row.key ? '' : row.key)} />`)}
    </ul>
    ${rows.length > SHOWN && html`<p class="note">${SHOWN} of ${rows.length} shown. Narrow the filter to see older ones.</p>`}`;
}

function target(row) {
  if (row.phase === 'counted' || (!row.host && !row.destination)) return html`<span class="host">${many(row.count || 1, 'attempt')} on other ports</span>`;
  if (!row.host && row.destination) return html`<${Host} host=${row.destination} />`;
  return html`<${Host} host=${row.host || '(no name)'} port=${row.via === 'dns' ? 0 : row.port} />`;
}

function why(row) {
  if (row.verdict === 'allowed') return row.rule ? html`<span class="rule"><${Shown} text=${row.rule} /></span>` : html`<span>allowed</span>`;
  return html`<span>${explain(row.reason).title}</span>`;
}

function Row({ row, first, open, toggle }) {
  const call = callWords(row);
  return html`<li class=${`row ${row.verdict}${open ? ' is-open' : ''}`} data-verdict=${row.verdict}>
    <button type="button" class="row-main" aria-expanded=${open} tabindex=${first || open ? 0 : -1} onClick=${toggle}>
      <span class="c-time" title=${moment(row.time)}>${clock(row.time)}</span>
      <span class="c-in"><b><${Shown} text=${row.backend} /></b>${call && html`<span class="call" title=${plain(call)}><${Shown} text=${call} /></span>`}</span>
      <span class="c-gate"><span class="sr">${VERDICT[row.verdict]}</span></span>
      <span class="c-out">${target(row)}${row.via === 'dns' && html`<span class="tag">lookup ${row.method}</span>`}${row.via === 'direct' && html`<span class="tag">direct</span>`}</span>
      <span class="c-why" title=${row.reason ? explain(row.reason).title : undefined}>${why(row)}</span>
      <span class="c-bytes">${row.bytes_sent || row.bytes_received ? `${bytes(row.bytes_sent)} / ${bytes(row.bytes_received)}` : row.verdict === 'allowed' && row.phase !== 'closed' ? 'open' : ''}</span>
    </button>
    ${open && html`<${Details} row=${row} />`}
  </li>`;
}

const Fact = ({ name, children }) => (children ? html`<div class="fact"><dt>${name}</dt><dd>${children}</dd></div>` : null);
const VIA = { proxy: 'through the proxy', direct: 'direct connection', tcp: 'raw TCP, as a rule allows', dns: 'name lookup' };

function Details({ row }) {
  const store = useStore();
  const [asking, setAsking] = useState(false);
  const settled = allowable(row) && settlement(store)(row);
  const words = row.reason ? explain(row.reason) : null;
  const calls = (row.calls || []).map((call) => html`<span class="line">${certain(row) ? '' : 'probably '}<code><${Shown} text=${call.tool || call.method} /></code>${call.client ? html`, called by <${Shown} text=${call.client} />` : null}</span>`);
  const traces = (row.calls || []).map((call) => call.trace_id).filter(Boolean);
  if (row.more_calls) calls.push(html`<span class="line">or one of ${many(row.more_calls, 'more call')}</span>`);
  return html`<div class="details">
    <dl class="facts d-in">
      <${Fact} name="Tool call">${calls.length ? calls : 'none was running'}</${Fact}>
      <${Fact} name="Route">${VIA[row.via || 'proxy'] || row.via}${row.method ? html` <code><${Shown} text=${row.method} /></code>` : null}</${Fact}>
      <${Fact} name="When">${moment(row.time)}</${Fact}>
      <${Fact} name="Trace">${traces.length > 0 && html`<code>${traces.map(plain).join(' ')}</code>`}</${Fact}>
    </dl>
    <div class="d-gate"></div>
    <div class="d-out">
    ${words && html`<p class="sentence">${words.what} ${words.todo}</p>`}
    ${row.detail && html`<p class="sentence quiet-text"><${Shown} text=${row.detail} /></p>`}
    ${settled && html`<p class="sentence"><b>It is allowed now.</b> ${settled.passed ? 'A later connection got through.' : 'The next try gets through.'}</p>`}
    ${allowable(row) && !settled && html`<p class="sentence"><button type="button" class="primary" onClick=${() => setAsking(true)}>Allow this host</button></p>`}
    <dl class="facts">
      <${Fact} name="Decision">${VERDICT[row.verdict]}${row.reason && html` <code>${row.reason}</code>`}</${Fact}>
      <${Fact} name="Rule">${row.rule && html`<code><${Shown} text=${row.rule} /></code>`}</${Fact}>
      <${Fact} name="Full name">${row.host && html`<code><${Shown} text=${row.host} />${row.port ? `:${row.port}` : ''}</code>`}</${Fact}>
      <${Fact} name="Address it dialled">${row.destination && html`<code><${Shown} text=${row.destination} /></code>`}</${Fact}>
      <${Fact} name="Address reached">${row.address && html`<code><${Shown} text=${row.address} /></code>`}</${Fact}>
      <${Fact} name="Took">${row.duration_s != null && `${seconds(row.duration_s)}${row.dns_s != null ? `, lookup ${seconds(row.dns_s)}` : ''}${row.connect_s != null ? `, connect ${seconds(row.connect_s)}` : ''}`}</${Fact}>
      <${Fact} name="Bytes">${(row.bytes_sent || row.bytes_received) ? `${bytes(row.bytes_sent)} sent, ${bytes(row.bytes_received)} received` : ''}</${Fact}>
    </dl>
    </div>
    ${asking && html`<${AllowDialog} backend=${row.backend} host=${row.host} port=${row.port} onClose=${() => setAsking(false)} />`}
  </div>`;
}

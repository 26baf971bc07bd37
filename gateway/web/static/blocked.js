/* Blocked hosts by server: the list a person works through. */
import { html, useState } from './vendor/htm-preact.js';
import { explain } from './reasons.js';
import { Host, Shown, ago, many, moment } from './text.js';
import { Loading } from './ui.js';
import { AllowDialog, covers } from './allow.js';
import { allowedKey, keepBlocked, useStore } from './store.js';

const FEW = 6;

/** Its server left the file: nothing is to be decided. */
const isGone = (row) => row.in_file === false;
const canAllow = (row) => Number(explain(chief(row)).fix === 'allow');

/** By server, the latest first and those that left the file last; what one click can settle comes first within a server. */
export function grouped(blocked) {
  const groups = new Map();
  for (const row of blocked) {
    if (!groups.has(row.backend)) groups.set(row.backend, []);
    groups.get(row.backend).push(row);
  }
  for (const rows of groups.values()) rows.sort((a, b) => canAllow(b) - canAllow(a) || b.last - a.last);
  const latest = (rows) => Math.max(...rows.map((row) => row.last));
  return [...groups].sort((a, b) => isGone(a[1][0]) - isGone(b[1][0]) || latest(b[1]) - latest(a[1]));
}

/** The reason that decides what a person can do: one that allowing the host answers, if there is one. */
const reasonsOf = (row) => row.reasons || [row.reason];
const chief = (row) => reasonsOf(row).find((code) => explain(code).fix === 'allow') || reasonsOf(row).find((code) => code !== 'direct_attempt') || 'direct_attempt';
/** Direct attempts have a panel of their own. */
export const isDirectOnly = (row) => reasonsOf(row).every((code) => code === 'direct_attempt') || !row.host;

/** What settled a blocked host, by row: a click here (`passed` once it got through), or the rules meanwhile (`old`); else null. */
export function settlement({ backends, allowed }) {
  const blocks = Object.fromEntries((backends || []).map((one) => [one.name, one.network]));
  const onlyRules = (row) => reasonsOf(row).every((code) => explain(code).fix === 'allow');
  const mine = (row) => {
    const click = allowed[allowedKey(row.backend, row.host, row.port)];
    const undone = click && Date.now() / 1000 - click.at > 10 && !covers(blocks[row.backend], row.host, row.port);
    return undone ? null : click;
  };
  const byRules = (row) => row.allowed_now || (onlyRules(row) && covers(blocks[row.backend], row.host, row.port));
  return (row) => mine(row) || (byRules(row) ? { passed: false, old: true } : null);
}

const isKept = (row) => row.kept_blocked;

/** The blocked hosts that wait for a person: what every count of them counts. */
export function undecided(store) {
  const settled = settlement(store);
  return (store.blocked || []).filter((row) => !isDirectOnly(row) && !settled(row) && !isKept(row) && !isGone(row));
}

/** The head of one server's rows; a link while there is such a server. */
export const GroupHead = ({ backend, gone, children }) => html`<h3>${gone
  ? html`<span><${Shown} text=${backend} /></span><span class="tag">no longer in the file</span>`
  : html`<a href=${`#/servers/${encodeURIComponent(backend)}`}><${Shown} text=${backend} /></a>`}<span class="count">${children}</span></h3>`;

/** The line of the file that lets a row through, where one click on "Allow this host" does not. */
export const Fix = ({ row, words = 'To let it through' }) => (row.remedy && row.remedy_kind !== 'host' && !row.allowed_now
  ? html`<p class="fix">${words}: <code><${Shown} text=${row.remedy} /></code></p>` : null);

/** `only`: the blocked hosts of one server. */
export function Blocked({ only = '' }) {
  const store = useStore();
  const [showKept, setShowKept] = useState(false);
  if (!store.blocked) return html`<section class="panel"><h2>Blocked hosts</h2><${Loading} /></section>`;
  const settled = settlement(store);
  const all = store.blocked.filter((row) => (!only || row.backend === only) && !isDirectOnly(row) && !settled(row)?.old);
  const rows = all.filter((row) => showKept || !isKept(row));
  const keptCount = all.filter(isKept).length;
  return html`<section class="panel" aria-labelledby="blocked-title">
    <div class="section-head"><h2 id="blocked-title">Blocked hosts</h2><p class="section-note">${only ? 'What this server wanted and did not get.' : 'What your servers wanted and did not get.'}</p></div>
    ${!rows.length && html`<p class="note">${keptCount ? 'Nothing to decide.' : 'Nothing was blocked in the last week.'}</p>`}
    ${grouped(rows).map(([backend, found]) => html`<${Group} key=${backend} backend=${backend} rows=${found} settled=${settled} />`)}
    ${keptCount > 0 && html`<p class="kept-line"><button type="button" class="link" onClick=${() => setShowKept(!showKept)}>${showKept ? 'Hide' : 'Show'} ${many(keptCount, 'host')} that ${keptCount === 1 ? 'is' : 'are'} kept blocked</button></p>`}
  </section>`;
}

function Group({ backend, rows, settled }) {
  const [all, setAll] = useState(false);
  const shown = all ? rows : rows.slice(0, FEW);
  return html`<div class="group">
    <${GroupHead} backend=${backend} gone=${isGone(rows[0])}>${many(rows.length, 'host')}</${GroupHead}>
    <ul class="blocked-rows">${shown.map((row) => html`<${Item} key=${`${row.host} ${row.port}`} row=${row} done=${settled(row)} />`)}</ul>
    ${rows.length > shown.length && html`<button type="button" class="link" onClick=${() => setAll(true)}>Show ${rows.length - shown.length} more</button>`}
  </div>`;
}

function Item({ row, done }) {
  const [asking, setAsking] = useState(false);
  const words = explain(chief(row));
  const by = (row.tools || []).slice(0, 2).join(', ');
  const open = !done && !isGone(row);
  const clickHelps = words.fix === 'allow' && row.host && ['', 'host', 'direct_and_host'].includes(row.remedy_kind || '');
  return html`<li class=${done ? (done.passed ? 'passed' : 'settled') : ''}>
    <div class="blocked-host"><${Host} host=${row.host} port=${row.port} /></div>
    <p class="blocked-why">${done ? (done.passed ? 'Allowed, and it got through.' : 'Allowed. Waiting for the next try.') : html`<span title=${words.what}>${words.title}</span>, ${row.count > 1 ? `${row.count} times, ` : ''}<span title=${moment(row.last)}>${ago(row.last)}</span>${by ? html`, during <b><${Shown} text=${by} /></b>` : null}`}</p>
    ${open && clickHelps && html`<button type="button" class="small allow" onClick=${() => setAsking(true)}>Allow this host</button>`}
    ${open && html`<${Fix} row=${row} />`}
    ${open && html`<button type="button" class="link keep" onClick=${() => keepBlocked(row, !isKept(row))}>${isKept(row) ? 'Show again' : 'Keep blocked'}</button>`}
    ${open && words.fix === 'form' && html`<details class="hint"><summary>Why, and what helps</summary><p>${words.what} ${words.todo} <a href=${`#/servers/${encodeURIComponent(row.backend)}`}>Network rules</a></p></details>`}
    ${!done && (words.fix === '' || words.fix === 'direct') && html`<details class="hint"><summary>What is this?</summary><p>${words.what} ${words.todo}</p></details>`}
    ${asking && html`<${AllowDialog} backend=${row.backend} host=${row.host} port=${row.port} onClose=${() => setAsking(false)} />`}
  </li>`;
}

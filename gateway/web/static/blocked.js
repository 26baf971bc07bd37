/* Blocked hosts by server: the list a person works through. */
import { html, useState } from './vendor/htm-preact.js';
import { explain } from './reasons.js';
import { Host, Shown, ago, many, moment } from './text.js';
import { Loading } from './ui.js';
import { AllowDialog, covers } from './allow.js';
import { allowedKey, useStore } from './store.js';

const FEW = 6;

export function grouped(blocked) {
  const groups = new Map();
  for (const row of blocked) {
    if (!groups.has(row.backend)) groups.set(row.backend, []);
    groups.get(row.backend).push(row);
  }
  for (const rows of groups.values()) rows.sort((a, b) => b.last - a.last);
  return [...groups].sort((a, b) => b[1][0].last - a[1][0].last);
}

export function Blocked() {
  const { blocked, backends, allowed } = useStore();
  if (!blocked) return html`<section class="panel"><h2>Blocked hosts</h2><${Loading} /></section>`;
  const blocks = Object.fromEntries((backends || []).map((one) => [one.name, one.network]));
  const settled = (row) => allowed[allowedKey(row.backend, row.host, row.port)] || (covers(blocks[row.backend], row.host, row.port) && explain(row.reason).fix === 'allow' ? { passed: false, old: true } : null);
  const rows = blocked.filter((row) => !settled(row)?.old);
  return html`<section class="panel" aria-labelledby="blocked-title">
    <div class="section-head"><h2 id="blocked-title">Blocked hosts</h2><p class="section-note">What your servers wanted and did not get.</p></div>
    ${!rows.length && html`<p class="note">Nothing was blocked${backends?.length ? '' : ' yet'}.</p>`}
    ${grouped(rows).map(([backend, found]) => html`<${Group} key=${backend} backend=${backend} rows=${found} settled=${settled} />`)}
  </section>`;
}

function Group({ backend, rows, settled }) {
  const [all, setAll] = useState(false);
  const shown = all ? rows : rows.slice(0, FEW);
  return html`<div class="group">
    <h3><a href=${`#/servers/${encodeURIComponent(backend)}`}><${Shown} text=${backend} /></a><span class="count">${many(rows.length, 'host')}</span></h3>
    <ul class="blocked-rows">${shown.map((row) => html`<${Item} key=${`${row.host} ${row.port} ${row.reason}`} row=${row} done=${settled(row)} />`)}</ul>
    ${rows.length > shown.length && html`<button type="button" class="link" onClick=${() => setAll(true)}>Show ${rows.length - shown.length} more</button>`}
  </div>`;
}

function Item({ row, done }) {
  const [asking, setAsking] = useState(false);
  const words = explain(row.reason);
  return html`<li class=${done ? (done.passed ? 'passed' : 'settled') : ''}>
    <div class="blocked-host"><${Host} host=${row.host || row.destination || '(no name)'} port=${row.port} /></div>
    <p class="blocked-why">${done ? (done.passed ? 'Allowed, and it got through.' : 'Allowed. Waiting for the next try.') : html`<span title=${words.what}>${words.title}</span>, ${row.count > 1 ? `${row.count} times, ` : ''}<span title=${moment(row.last)}>${ago(row.last)}</span>${row.tool ? html`, by <b><${Shown} text=${row.tool} /></b>` : null}`}</p>
    ${!done && words.fix === 'allow' && row.host && html`<button type="button" class="small allow" onClick=${() => setAsking(true)}>Allow this host</button>`}
    ${!done && words.fix === 'form' && html`<details class="hint"><summary>Why, and what helps</summary><p>${words.what} ${words.todo} <a href=${`#/servers/${encodeURIComponent(row.backend)}`}>Network rules</a></p></details>`}
    ${!done && (words.fix === '' || words.fix === 'direct') && html`<details class="hint"><summary>What is this?</summary><p>${words.what} ${words.todo}</p></details>`}
    ${asking && html`<${AllowDialog} backend=${row.backend} host=${row.host} port=${row.port} onClose=${() => setAsking(false)} />`}
  </li>`;
}

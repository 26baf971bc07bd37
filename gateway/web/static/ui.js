/* Small pieces that every section uses. */
import { html, useEffect, useRef, useState } from './vendor/htm-preact.js';
import { Shown } from './text.js';

/** A modal dialog: the browser's own, so focus, Escape and the inert page behind come for free. */
export function Dialog({ title, onClose, children, wide = false }) {
  const box = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    const dialog = box.current;
    dialog.showModal();
    return () => {
      dialog.close(); // until then all that is behind it is inert, and takes no focus
      if (before?.isConnected) before.focus();
      // What opened it may be gone a moment later, as a settled row's button is.
      setTimeout(() => { if (document.activeElement === document.body) document.getElementById('main')?.focus({ preventScroll: true }); });
    };
  }, []);
  const onCancel = (event) => { event.preventDefault(); onClose(); };
  const onClick = (event) => { if (event.target === box.current) onClose(); };
  return html`<dialog ref=${box} class=${wide ? 'dialog wide' : 'dialog'} aria-labelledby="dialog-title" onCancel=${onCancel} onMouseDown=${onClick}>
    <div class="dialog-body">
      <h2 id="dialog-title">${title}</h2>
      ${children}
    </div>
  </dialog>`;
}

const KIND = { '+': 'add', '-': 'del', '@': 'hunk' };

/** Where two lines of a change begin and end to differ: [from, to of the old, to of the new]. */
export function differ(old, fresh) {
  let from = 1;
  while (from < old.length && from < fresh.length && old[from] === fresh[from]) from += 1;
  let back = 0;
  while (back < old.length - from && back < fresh.length - from && old.at(-1 - back) === fresh.at(-1 - back)) back += 1;
  return [from, old.length - back, fresh.length - back];
}

function DiffLine({ line, other }) {
  let parts = html`<${Shown} text=${line || ' '} />`;
  if (other && line[0] !== other[0]) {
    const [from, , to] = differ(other, line);
    if (to > from && to - from < line.length - 2) parts = html`<${Shown} text=${line.slice(0, from)} /><em><${Shown} text=${line.slice(from, to)} /></em><${Shown} text=${line.slice(to)} />`;
  }
  return html`<span class=${`diff-line ${KIND[line[0]] || ''}`}>${parts}${'\n'}</span>`;
}

/** A unified diff of the configuration file; what is new within a line stands out. */
export function Diff({ diff, of = 'Change to the file' }) {
  if (!diff) return html`<p class="note">The file already says this. Nothing changes.</p>`;
  const lines = diff.replace(/\n$/, '').split('\n').filter((line) => !/^(---|\+\+\+) ?/.test(line));
  const pair = (index) => {
    if (lines[index][0] === '+' && lines[index - 1]?.[0] === '-' && lines[index - 2]?.[0] !== '-' && lines[index + 1]?.[0] !== '+') return lines[index - 1];
    if (lines[index][0] === '-' && lines[index + 1]?.[0] === '+' && lines[index - 1]?.[0] !== '-' && lines[index + 2]?.[0] !== '+') return lines[index + 1];
    return null;
  };
  return html`<pre class="diff" tabindex="0" aria-label=${of}>${lines.map((line, index) => html`<${DiffLine} line=${line} other=${pair(index)} />`)}</pre>`;
}

/** Two texts as a diff by lines: the lines they share at both ends stay, what is between is taken out and put in. */
export function lineDiff(before, after) {
  const old = before ? before.split('\n') : [];
  const fresh = after.split('\n');
  let from = 0;
  while (from < old.length && from < fresh.length && old[from] === fresh[from]) from += 1;
  let back = 0;
  while (back < old.length - from && back < fresh.length - from && old.at(-1 - back) === fresh.at(-1 - back)) back += 1;
  return [...fresh.slice(0, from).map((line) => ` ${line}`), ...old.slice(from, old.length - back).map((line) => `-${line}`),
    ...fresh.slice(from, fresh.length - back).map((line) => `+${line}`), ...fresh.slice(fresh.length - back).map((line) => ` ${line}`)].join('\n');
}

export function Problems({ error, fallback = '' }) {
  if (!error) return null;
  const rows = error.problems || [];
  return html`<div class="problems" role="alert">
    <p><${Shown} text=${error.message || fallback} /></p>
    ${rows.length > 0 && rows[0].message !== error.message && html`<ul>${rows.map((row) => html`<li>${row.path ? html`<code><${Shown} text=${String(row.path)} /></code> ` : null}<${Shown} text=${row.message} />${row.hint ? html` <${Shown} text=${row.hint} />` : null}</li>`)}</ul>`}
  </div>`;
}

/** Shows a change to the file (or `of` what else) first, by `preview` that does a dry run, and makes it when the person says so. */
export function Confirm({ title, words, preview, apply, label, of, danger = false, onDone, onClose }) {
  const [shown, setShown] = useState(null);
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => { preview().then(setShown, setError); }, []);
  const go = async () => {
    setBusy(true);
    setError(null);
    try { onDone(await apply()); } catch (failed) { setError(failed); setBusy(false); }
  };
  return html`<${Dialog} title=${title} onClose=${onClose} wide>
    <div class="words">${words}</div>
    ${shown && html`<${Diff} diff=${shown.diff} of=${of} />`}
    ${(shown?.warnings || []).map((text) => html`<p class="meaning warn"><${Shown} text=${text} /></p>`)}
    ${!shown && !error && html`<p class="note">Working out the change …</p>`}
    <${Problems} error=${error} />
    <div class="actions">
      <button type="button" class="quiet" onClick=${onClose}>Cancel</button>
      <button type="button" class=${danger ? 'danger' : 'primary'} disabled=${busy || !shown} onClick=${go}>${busy ? 'Writing …' : label}</button>
    </div>
  </${Dialog}>`;
}

export function Copy({ text, label = 'Copy' }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    try { await navigator.clipboard.writeText(text); } catch { return; }
    setDone(true);
    setTimeout(() => setDone(false), 2000);
  };
  return html`<button type="button" class="small" onClick=${copy}>${done ? 'Copied' : label}</button>`;
}

/** Text to copy, whole, in its own box. */
export function Snippet({ text, label }) {
  return html`<div class="snippet"><pre tabindex="0" aria-label=${label}><${Shown} text=${text} lines /></pre><${Copy} text=${text} /></div>`;
}

export function Segments({ label, value, options, onChange }) {
  return html`<div class="segments" role="group" aria-label=${label}>
    ${options.map(([key, text]) => html`<button type="button" key=${key} aria-pressed=${value === key} onClick=${() => onChange(key)}>${text}</button>`)}
  </div>`;
}

export function Switch({ id, checked, onChange, label, describedBy }) {
  return html`<button type="button" id=${id} role="switch" class="switch" aria-checked=${checked} aria-describedby=${describedBy} onClick=${() => onChange(!checked)}>
    <span class="switch-track"><span class="switch-knob"></span></span>${label}
  </button>`;
}

/** `level` 1 where nothing else on the screen is a heading. */
export const Empty = ({ title, children, first = false, level = 2 }) => html`<div class=${first ? 'empty first' : 'empty'}>${level === 1 ? html`<h1>${title}</h1>` : html`<h2>${title}</h2>`}${children}</div>`;
export const Loading = () => html`<p class="note loading">Loading …</p>`;

const STATE_WORDS = {
  stopped: 'stopped', building: 'building image', starting: 'starting', running: 'running', backoff: 'waiting to restart',
  failed: 'failed', stopping: 'stopping', remote: 'remote',
};
export const State = ({ state }) => html`<span class=${`state state-${STATE_WORDS[state] ? state : 'stopped'}`}><span class="dot" aria-hidden="true"></span>${STATE_WORDS[state] || state}</span>`;

/* Hostile text made harmless and visible. Everything a server, a host name or a log line says goes through here;
   the page only ever makes text nodes of it. */
import { html } from './vendor/htm-preact.js';

const BIDI = /[\u061C\u200E\u200F\u202A-\u202E\u2066-\u2069]/;
const INVISIBLE = /[\u0000-\u001F\u007F-\u009F\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u2028-\u202F\u205F-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF9-\uFFFB\u{E0000}-\u{E0FFF}]/u;
const SPLIT = new RegExp(`(${INVISIBLE.source})`, 'u');
const COLOUR = /\u001B\[[0-9;:]*m/g;

const code = (char) => `U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;
const picture = (char) => {
  const point = char.codePointAt(0);
  if (point < 0x20) return String.fromCodePoint(0x2400 + point);
  return point === 0x7f ? '\u2421' : code(char);
};

/** The text with every control, bidi and invisible character replaced by a name, for titles and attributes. */
export const plain = (text) => String(text ?? '').split(SPLIT).map((part) => (INVISIBLE.test(part) ? `\u27E8${picture(part)}\u27E9` : part)).join('');

/** The text as nodes, with every control, bidi and invisible character shown as a mark. Isolated from what is around it. */
export function Shown({ text, lines = false }) {
  const value = String(text ?? '');
  if (!INVISIBLE.test(value)) return html`<bdi dir="ltr">${value}</bdi>`;
  return html`<bdi dir="ltr">${value.split(SPLIT).map((part) => {
    if (!INVISIBLE.test(part)) return part;
    if (lines && (part === '\n' || part === '\t')) return part;
    return html`<span class=${BIDI.test(part) ? 'mark mark-bidi' : 'mark'} title=${`hidden character ${code(part)}`}>${picture(part)}</span>`;
  })}</bdi>`;
}

/** Terminal colours taken out; any other escape stays, and is shown. */
export const withoutColours = (text) => String(text ?? '').replace(COLOUR, '');

/** A host name that may be long: its end stays in sight, since the end says who owns it. The title has all of it. */
export function Host({ host, port }) {
  const full = port ? `${host}:${port}` : host;
  const cut = Math.max(0, host.length - 28);
  const dot = host.indexOf('.', cut);
  const split = host.length > 34 ? (dot > 0 && dot - cut < 20 ? dot : cut) : 0;
  return html`<span class="host" title=${plain(full)}>
    ${split > 0 && html`<span class="host-head"><${Shown} text=${host.slice(0, split)} /></span>`}
    <span class="host-tail"><bdi dir="ltr"><${Shown} text=${host.slice(split)} />${port ? html`<span class="port">:${port}</span>` : null}</bdi></span>
  </span>`;
}

const two = (number) => String(number).padStart(2, '0');
export const clock = (seconds) => {
  const at = new Date(seconds * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
};
/** 2026-11-23 01:38:51, local time. */
export const moment = (seconds) => {
  const at = new Date(seconds * 1000);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(seconds)}`;
};

/** 'just now', '4 min ago', '3 h ago', or a date. */
export function ago(seconds, now = Date.now() / 1000) {
  const passed = now - seconds;
  if (passed < 45) return 'just now';
  if (passed < 3600) return `${Math.max(1, Math.round(passed / 60))} min ago`;
  if (passed < 86400) return `${Math.round(passed / 3600)} h ago`;
  return moment(seconds).slice(0, 10);
}

export function bytes(count) {
  if (!count) return '0';
  if (count < 1000) return `${count} B`;
  const units = ['kB', 'MB', 'GB', 'TB'];
  let value = count / 1000;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1; }
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export const seconds = (value) => (value == null ? '' : value < 1 ? `${Math.round(value * 1000)} ms` : value < 60 ? `${value.toFixed(1)} s` : `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`);
export const many = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

/* The output of one server: follow it, search it. */
import { html, useEffect, useLayoutEffect, useRef, useState } from './vendor/htm-preact.js';
import { api } from './api.js';
import { follow } from './stream.js';
import { Shown, clock, many, moment, withoutColours } from './text.js';
import { Empty } from './ui.js';

const KEEP = 4000;
const BATCH_MS = 100;

export function Logs({ name }) {
  const [lines, setLines] = useState([]);
  const [link, setLink] = useState('connecting');
  const [text, setText] = useState('');
  const [following, setFollowing] = useState(true);
  const box = useRef(null);

  useEffect(() => {
    let fresh = [];
    let restart = false;
    let timer = 0;
    let count = 0;
    const flush = () => {
      timer = 0;
      const more = fresh;
      const clear = restart;
      fresh = [];
      restart = false;
      setLines((old) => (clear ? more : old.concat(more)).slice(-KEEP));
    };
    const later = () => { timer ||= setTimeout(flush, BATCH_MS); };
    const stream = follow(() => api.logsUrl(name), {
      receive: (_, line) => { fresh.push({ ...line, n: (count += 1), text: withoutColours(line.text) }); later(); },
      // Every (re)connection begins with the tail, so what is shown is replaced too.
      tell: (state) => { setLink(state); if (state === 'live') { restart = true; fresh = []; later(); } },
    });
    return () => { clearTimeout(timer); stream.stop(); };
  }, [name]);

  useLayoutEffect(() => { if (following && box.current) box.current.scrollTop = box.current.scrollHeight; }, [lines, following, text]);
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    const atEnd = scrollHeight - scrollTop - clientHeight < 24;
    if (atEnd !== following) setFollowing(atEnd);
  };

  const wanted = text.toLowerCase();
  const shown = wanted ? lines.filter((line) => line.text.toLowerCase().includes(wanted)) : lines;
  return html`<div class="logs">
    <div class="toolbar">
      <input type="search" aria-label="Search the log" placeholder="Search the log" value=${text} onInput=${(event) => setText(event.target.value)} />
      <span class="quiet-text" aria-live="polite">${wanted ? `${shown.length} of ${many(lines.length, 'line')}` : many(lines.length, 'line')}${link === 'lost' ? ', reconnecting \u2026' : ''}</span>
      <button type="button" class=${following ? 'follow is-on' : 'follow'} aria-pressed=${following} onClick=${() => setFollowing(!following)}>${following ? 'Following' : 'Follow'}</button>
    </div>
    ${link === 'live' && !lines.length && html`<${Empty} title="Nothing written yet"><p>What the server prints shows up here.</p></${Empty}>`}
    ${lines.length > 0 && html`<div class="log-box" ref=${box} onScroll=${onScroll} tabindex="0" role="log" aria-label=${`Log of ${name}`} aria-live="off">
      ${shown.map((line) => html`<div key=${line.n} class=${line.stream === 'stdout' ? 'log-line out' : 'log-line'}><span class="log-time" title=${moment(line.time)}>${clock(line.time)}</span><span class="log-text"><${Marked} text=${line.text} wanted=${wanted} /></span></div>`)}
    </div>`}
  </div>`;
}

function Marked({ text, wanted }) {
  if (!wanted) return html`<${Shown} text=${text} />`;
  const parts = [];
  const lower = text.toLowerCase();
  let from = 0;
  for (let at = lower.indexOf(wanted); at >= 0 && parts.length < 40; at = lower.indexOf(wanted, from)) {
    parts.push(html`<${Shown} text=${text.slice(from, at)} />`, html`<mark><${Shown} text=${text.slice(at, at + wanted.length)} /></mark>`);
    from = at + wanted.length;
  }
  return html`${parts}<${Shown} text=${text.slice(from)} />`;
}

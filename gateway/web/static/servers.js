/* The servers behind the wall: the list, and the page of one. */
import { html, useEffect, useState } from './vendor/htm-preact.js';
import { api } from './api.js';
import { Shown, ago, many, moment, plain } from './text.js';
import { Confirm, Diff, Empty, Loading, Problems, State, lineDiff } from './ui.js';
import { NetworkForm, blockOf, draftOf, meaning } from './network.js';
import { accept } from './accept.js';
import { Logs } from './logs.js';
import { Around } from './around.js';
import { Blocked, undecided } from './blocked.js';
import { kept, useKept } from './kept.js';
import { refreshBackends, refreshBlocked, say, useStore } from './store.js';

const rulesOf = (name) => `rules of ${name}`;
const link = (name, part = '') => `#/servers/${encodeURIComponent(name)}${part && `/${part}`}`;

/** Whether its detail tells of trouble, and not only of what it is doing. */
export const isTroubled = (backend) => Boolean(backend.detail) && ['failed', 'backoff', 'running', 'remote'].includes(backend.state);
export const isRemote = (backend) => backend.remote || backend.state === 'remote';

export function Isolation({ backend }) {
  if (backend.disabled) return html`<span class="tag">switched off in the file</span>`;
  if (isRemote(backend)) return html`<span class="tag">remote</span>`;
  if (!backend.isolated) return html`<span class="tag tag-danger">not isolated</span>`;
  const mode = backend.network?.mode;
  return html`<span class="tag tag-good">isolated</span>${mode && mode !== 'enforce' ? html` <span class="tag tag-warn">${mode} mode</span>` : null}`;
}

function RestartButton({ name }) {
  const [busy, setBusy] = useState(false);
  const restart = async () => {
    setBusy(true);
    try { await api.restart(name); say(`${plain(name)} is restarting.`); } catch (error) { say(error.message, 'bad'); }
    setBusy(false);
    refreshBackends();
  };
  return html`<button type="button" class="small" disabled=${busy} onClick=${restart}>${busy ? 'Restarting …' : 'Restart'}</button>`;
}

export function Servers() {
  const store = useStore();
  const { backends, status } = store;
  const waiting = undecided(store);
  useEffect(() => { refreshBackends(); }, []);
  if (!backends) return html`<${Loading} />`;
  if (!backends.length) return html`<${Empty} level=${1} title="No servers yet"><p>A server you add runs in its own container and reaches only the hosts that you allow.</p><p><a class="button primary" href="#/add">Add a server</a></p></${Empty}>`;
  const blockedOf = (name) => waiting.filter((row) => row.backend === name).length;
  return html`<section aria-labelledby="servers-title">
    <div class="section-head"><h1 id="servers-title">Servers</h1><p class="section-note">Each in its own container, with its own network rules.</p><a class="button small push" href="#/add">Add a server</a></div>
    ${status?.overrides?.length > 0 && html`<p class="note">Trust overrides in force (<code>egress.resolve</code>): ${status.overrides.map((text) => html`<code class="tag"><${Shown} text=${text} /></code> `)}</p>`}
    <ul class="cards">${backends.map((one) => html`<li class="card" key=${one.name}>
      <div class="card-head"><h2><a href=${link(one.name)}><${Shown} text=${one.name} /></a></h2><${State} state=${one.state} /><${Isolation} backend=${one} />${kept(rulesOf(one.name)) && html`<span class="tag tag-warn">rules not saved</span>`}</div>
      ${one.detail && html`<p class=${isTroubled(one) ? 'problems' : 'quiet-text'}><${Shown} text=${one.detail} /></p>`}
      <${Warnings} warnings=${[...(one.warnings || []), ...(one.left_out || [])]} />
      ${one.isolated && !isRemote(one) && html`<p class="card-policy">${meaning(draftOf(one.network)).text}</p>`}
      <div class="card-foot"><span class="quiet-text">${one.transport}${one.since ? html`, <span title=${moment(one.since)}>since ${ago(one.since)}</span>` : null}, ${many(one.restarts || 0, 'restart')}${blockedOf(one.name) ? html`, <b class="bad-text">${many(blockedOf(one.name), 'blocked host')}</b>` : null}</span>
        <span class="push buttons"><a class="button small" href=${link(one.name)}>Network rules</a><a class="button small" href=${link(one.name, 'logs')}>Logs</a><${RestartButton} name=${one.name} /></span></div>
    </li>`)}</ul>
  </section>`;
}

export const Warnings = ({ warnings }) => (warnings?.length ? html`<ul class="warnings">${warnings.map((text) => html`<li><${Shown} text=${text} /></li>`)}</ul>` : null);

/** The version of the package that is installed in its image, unless its name says that already. */
const installed = ({ version, image }) => (version && !image.endsWith(version) ? html` version <${Shown} text=${version} />` : null);

const TABS = [['network', 'Network rules'], ['logs', 'Logs'], ['tools', 'Tools']];

export function Server({ name, tab = 'network' }) {
  const { backends } = useStore();
  const [removing, setRemoving] = useState(false);
  useEffect(() => { refreshBackends(); }, [name]);
  if (!backends) return html`<${Loading} />`;
  const backend = backends.find((one) => one.name === name);
  if (!backend) return html`<${Empty} level=${1} title="There is no such server"><p><a href="#/servers">All servers</a></p></${Empty}>`;
  const which = TABS.some(([key]) => key === tab) ? tab : 'network';
  return html`<section aria-labelledby="server-title">
    <p class="crumb"><a href="#/servers">Servers</a></p>
    <div class="section-head"><h1 id="server-title"><${Shown} text=${name} /></h1><${State} state=${backend.state} /><${Isolation} backend=${backend} />
      <span class="push buttons"><${RestartButton} name=${name} /><button type="button" class="small quiet-danger" onClick=${() => setRemoving(true)}>Remove …</button></span></div>
    <p class="quiet-text facts-line">${backend.transport}${backend.image ? html` · <code><${Shown} text=${backend.image} /></code>${installed(backend)}` : null}${backend.since ? ` · since ${moment(backend.since)}` : ''} · ${many(backend.restarts || 0, 'restart')}</p>
    ${backend.detail && html`<p class=${isTroubled(backend) ? 'problems' : 'quiet-text'}><${Shown} text=${backend.detail} /></p>`}
    <${Warnings} warnings=${[...(backend.warnings || []), ...(backend.left_out || [])]} />
    <nav class="tabs" aria-label="Server">${TABS.map(([key, title]) => html`<a key=${key} href=${link(name, key)} aria-current=${which === key ? 'page' : undefined}>${title}</a>`)}</nav>
    ${which === 'network' && (isRemote(backend) ? html`<p class="note">A remote server runs elsewhere; Stockade does not control what it reaches.</p>` : html`<${Network} key=${name} backend=${backend} />`)}
    ${which === 'logs' && html`<${Logs} key=${name} name=${name} />`}
    ${which === 'tools' && html`<${Tools} key=${name} name=${name} />`}
    ${removing && html`<${Confirm} danger title=${html`Remove <${Shown} text=${name} />?`} words=${html`<p>Its container is removed and these lines go out of the file. Clients no longer see its tools.</p>`} preview=${() => api.removeBackend(name, true)} apply=${() => api.removeBackend(name, false)} label="Remove the server" onDone=${() => { say(`${plain(name)} is removed.`); refreshBackends(); location.hash = '#/servers'; }} onClose=${() => setRemoving(false)} />`}
  </section>`;
}

function Network({ backend }) {
  const begun = kept(rulesOf(backend.name));
  const [draft, setDraft] = useState(() => begun?.draft || draftOf(backend.network));
  const [base, setBase] = useState(() => begun?.base || JSON.stringify(backend.network || {}));
  const [problems, setProblems] = useState(null);
  const [saving, setSaving] = useState(false);
  const stored = JSON.stringify(backend.network || {});
  const changed = JSON.stringify(blockOf(draft)) !== JSON.stringify(blockOf(draftOf(JSON.parse(base))));
  const reset = () => { setDraft(draftOf(backend.network)); setBase(stored); };
  useEffect(() => { if (stored !== base && !changed) reset(); }, [stored]);
  useKept(rulesOf(backend.name), { draft, base }, changed, () => say(`The network rules of ${plain(backend.name)} are not saved. What you changed waits on its page.`, 'bad'));
  const block = blockOf(draft);
  return html`<div class="rules-columns"><div class="rules">
    ${stored !== base && changed && html`<p class="problems">The file changed while you were editing. <button type="button" class="link" onClick=${reset}>Load what it says now</button> (your edits here are dropped).</p>`}
    <${NetworkForm} check=${async (found) => (await api.checkNetwork(backend.name, found)).problems} draft=${draft} onChange=${setDraft} onChecked=${setProblems} directSupported=${backend.direct_supported !== false} />
    <${Learned} backend=${backend} use=${(learned) => setDraft(draftOf({ ...backend.network, ...learned, mode: 'enforce' }))} />
    <div class="actions sticky">
      <span class="quiet-text">${!changed ? 'No changes' : problems === null ? 'Checking …' : problems.length ? `${many(problems.length, 'problem')} to fix first.` : 'Ready to save.'}</span>
      <button type="button" class="quiet" disabled=${!changed} onClick=${reset}>Undo</button>
      <button type="button" class="primary" disabled=${!changed || problems === null || problems.length > 0} onClick=${() => setSaving(true)}>Preview and save …</button>
    </div>
    ${saving && html`<${Confirm}
      danger=${!draft.isolated}
      title=${html`Change the network rules of <${Shown} text=${backend.name} />?`}
      words=${html`<p>${meaning(draft).text}</p><p class="quiet-text">This is the change to your file. ${draft.isolated === backend.isolated ? 'It takes effect at once; connections that are no longer allowed are cut.' : 'The server is restarted, because its network changes.'}</p>`}
      preview=${() => api.saveNetwork(backend.name, block, true)}
      apply=${() => api.saveNetwork(backend.name, block, false)}
      label="Save"
      onDone=${() => { say(`The network rules of ${plain(backend.name)} are saved and in effect.`); setBase(JSON.stringify(block)); setSaving(false); refreshBackends(); refreshBlocked(); }}
      onClose=${() => setSaving(false)} />`}
  </div><div class="side"><${Ask} name=${backend.name} /><${Blocked} only=${backend.name} /><${Around} only=${backend.name} /></div></div>`;
}

/** In modes that let things through: rules made of what was seen, for a person to read and save. */
function Learned({ backend, use }) {
  const [said, setSaid] = useState('');
  if (!['learn', 'report'].includes(backend.network?.mode)) return null;
  const make = async () => {
    try {
      const { connections, block } = await api.suggest(backend.name);
      if (!connections) { setSaid('Nothing was seen yet. Use the server for a while first.'); return; }
      use(block);
      setSaid(`Made from ${many(connections, 'connection')}. Read them above, take out what should not be there, then save.`);
    } catch (error) { setSaid(error.message); }
  };
  return html`<div class="learned"><button type="button" onClick=${make}>Make rules of what was seen</button><span class="quiet-text" role="status">${said}</span></div>`;
}

/** What would happen to a name, by the rules as they are saved. Nothing is connected or looked up. */
function Ask({ name }) {
  const [url, setUrl] = useState('');
  const [answer, setAnswer] = useState(null);
  const ask = async (event) => {
    event.preventDefault();
    if (!url.trim()) return;
    try { setAnswer(await api.explain(name, url.trim())); } catch (error) { setAnswer({ decision: '', sentence: error.message }); }
  };
  return html`<section class="panel" aria-labelledby="ask-title"><h2 id="ask-title">Would it get through?</h2>
    <form class="cells ask" onSubmit=${ask}><input class="mono grow" aria-label="Host, host and port, or URL" placeholder="docs.python.org:443" autocomplete="off" spellcheck=${false} value=${url} onInput=${(event) => { setUrl(event.target.value); setAnswer(null); }} /><button>Ask</button></form>
    ${answer && html`<p class=${`meaning ${{ allow: 'good', report: 'warn' }[answer.decision] || 'danger'}`} role="status">${answer.decision && html`<b>${{ allow: 'Yes.', report: 'Yes, for now.', deny: 'No.' }[answer.decision] || answer.decision}</b> `}<${Shown} text=${answer.sentence} /></p>`}
  </section>`;
}

/** A tool that is no longer what was pinned: what it said, what it says, and the way to accept it. */
function ChangedTool({ name, one, onAccepted }) {
  const [error, setError] = useState(null);
  const onAccept = async () => {
    try { await accept(name, one); onAccepted(); } catch (failed) { setError(failed); }
  };
  return html`<li class="changed-tool">
    <h2 class="mono"><${Shown} text=${one.tool} /></h2>
    <p class="problems">This tool is no longer what it was when you first saw it. Read what is new as an instruction that someone wants your AI model to follow.</p>
    <${Diff} diff=${lineDiff(one.before, one.after)} of="Change to the tool" />
    <${Problems} error=${error} />
    <button type="button" class="small" onClick=${onAccept}>Accept it</button></li>`;
}

function Tools({ name }) {
  const { notices } = useStore();
  const [known, setKnown] = useState(null);
  const [error, setError] = useState(null);
  const load = () => api.backend(name).then(setKnown, setError);
  const told = notices.filter((one) => one.kind === 'tool' && one.backend === name).length;
  useEffect(() => { load(); }, [name, told]);
  if (error) return html`<${Problems} error=${error} />`;
  if (!known) return html`<${Loading} />`;
  const tools = known.tools || [];
  const changed = known.changed_tools || [];
  if (!tools.length && !changed.length) return html`<${Empty} title="No tools known yet"><p>They show up once the server runs and has been asked for them.</p></${Empty}>`;
  return html`<p class="note">These words come from the server itself and go to your AI model. Read them as you would read a stranger’s letter.</p>
    ${changed.length > 0 && html`<ul class="tools">${changed.map((one) => html`<${ChangedTool} key=${one.tool} name=${name} one=${one} onAccepted=${load} />`)}</ul>`}
    <ul class="tools">${tools.map((tool) => html`<li key=${tool.name}><h2 class="mono"><${Shown} text=${tool.name} /></h2><p class="tool-words"><${Shown} text=${tool.description || 'No description.'} lines /></p></li>`)}</ul>`;
}

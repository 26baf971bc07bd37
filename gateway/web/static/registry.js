/* The catalog: find a server, see what it is and what it may reach, add it. */
import { html, useEffect, useMemo, useState } from './vendor/htm-preact.js';
import { api } from './api.js';
import { Shown, plain } from './text.js';
import { Confirm, Empty, Loading, Problems, Snippet } from './ui.js';
import { NetworkForm, blockOf, draftOf, meaning } from './network.js';
import { forget, kept as begunWith, useKept } from './kept.js';
import { refreshBackends, say, useStore } from './store.js';

const kept = (name) => name.toLowerCase().replace(/[^a-z0-9]+/g, '-').replace(/^-|-$/g, '');
const secretRef = (name) => `\${secret:${kept(name)}}`;
const command = (name) => `stockade secret set ${kept(name)}`;

export function Registry({ name }) {
  const { backends } = useStore();
  const names = (backends || []).map((one) => one.name).join();
  const [query, setQuery] = useState('');
  const [found, setFound] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const timer = setTimeout(() => api.catalog(query).then((servers) => { setFound(servers); setError(null); }, setError), query ? 150 : 0);
    return () => clearTimeout(timer);
  }, [query, names]);
  return html`<section aria-labelledby="add-title">
    <div class="section-head"><h1 id="add-title">Add a server</h1><p class="section-note">Each comes with rules that let it reach what its job needs, and no more. You can change them before it starts.</p></div>
    <div class=${name ? 'registry has-choice' : 'registry'}>
      <div class="catalog">
        <input type="search" aria-label="Search the catalog" placeholder="Search: github, files, time …" value=${query} onInput=${(event) => setQuery(event.target.value)} />
        <${Problems} error=${error} />
        ${!found && !error && html`<${Loading} />`}
        ${found && !found.length && html`<p class="note">Nothing in the catalog is called that. A server that is not listed can be added in <code>stockade.yaml</code>; this page picks it up by itself.</p>`}
        <ul>${(found || []).map((one) => html`<li key=${one.name}><a href=${`#/add/${encodeURIComponent(one.name)}`} aria-current=${one.name === name ? 'true' : undefined}>
          <b><${Shown} text=${one.title || one.name} /></b>${one.added_as?.length > 0 && html`<span class="tag" title=${`As ${one.added_as.join(', ')}`}>added</span>`}<span class="quiet-text"><${Shown} text=${one.description || ''} /></span></a></li>`)}</ul>
      </div>
      <div class="choice">${name ? html`<${Choice} key=${name} name=${name} />` : html`<${Empty} title="Pick a server on the left"><p>You see what it does, what it may reach, and what it needs from you, before anything runs.</p></${Empty}>`}</div>
    </div>
  </section>`;
}

function Choice({ name }) {
  const { backends } = useStore();
  const [info, setInfo] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => { api.catalogEntry(name).then(setInfo, setError); }, [name]);
  if (error) return html`<${Problems} error=${error} />`;
  if (!info || !backends) return html`<${Loading} />`;
  return html`<${Install} info=${info} />`;
}

const listOf = (values) => (Array.isArray(values) ? values : Object.entries(values || {}).map(([key, value]) => ({ name: key, ...(typeof value === 'object' ? value : { description: value }) })));

/** The name, or the name with the first number that is free. */
function freeName(name, backends) {
  const names = new Set(backends.map((one) => one.name));
  for (let n = 2, free = name; ; n += 1) {
    if (!names.has(free)) return free;
    free = `${name}-${n}`;
  }
}

function Install({ info }) {
  const { backends } = useStore();
  const entry = info.entry || {};
  const variables = useMemo(() => listOf(info.env), [info]);
  const inputs = listOf(info.inputs);
  const points = listOf(info.mounts);
  const key = `form of ${info.name}`;
  const begun = begunWith(key);
  const [folders, setFolders] = useState(begun?.folders || {});
  const [changeable, setChangeable] = useState(begun?.changeable || {});
  const [name, setName] = useState(() => begun?.name || freeName(info.name, backends));
  const [draft, setDraft] = useState(() => begun?.draft || draftOf(entry.network, info.network?.protocol === 'tcp'));
  const [values, setValues] = useState(() => begun?.values || Object.fromEntries(variables.map((one) => [one.name, one.default ?? ''])));
  const filled = JSON.stringify([folders, changeable, name, blockOf(draft), values]);
  const [first] = useState(begun?.first || filled);
  useKept(key, { folders, changeable, name, draft, values, first }, filled !== first, () => say(`${plain(info.title || info.name)} is not added. What you filled in waits here.`, 'bad'));
  const [problems, setProblems] = useState(null);
  const [adding, setAdding] = useState(false);
  const secrets = variables.filter((one) => one.secret);
  const settings = variables.filter((one) => !one.secret);
  const taken = (backends || []).some((one) => one.name === name.trim());
  const missing = [...settings.filter((one) => one.required && !values[one.name]).map((one) => one.name), ...points.filter((one) => one.required && !folders[one.target]?.trim()).map((one) => `The folder for ${one.target}`)];
  const env = { ...(entry.env || {}) };
  for (const one of settings) if (values[one.name]) env[one.name] = values[one.name];
  for (const one of secrets) if (one.required || values[one.name] === true) env[one.name] ||= secretRef(one.name);
  const mounts = points.filter((one) => folders[one.target]?.trim()).map((one) => `${folders[one.target].trim()}:${one.target}${changeable[one.target] ? '' : ':ro'}`);
  const whole = (block) => ({ ...entry, ...(Object.keys(env).length ? { env } : {}), ...(mounts.length ? { mounts } : {}), network: block });
  const why = (info.network?.allowed_hosts || []).filter((one) => one.reason);
  const check = async (block) => {
    if (taken) return [];
    try { await api.addBackend(name.trim(), whole(block), true); return []; } catch (error) { return error.problems.length ? error.problems : [{ path: '', message: error.message }]; }
  };
  const homepage = /^https:\/\/[\w.-]+\//.test(info.homepage || '') ? info.homepage : '';
  const tools = listOf(info.tools).map((tool) => (typeof tool === 'string' ? { name: tool } : tool));
  const ready = !taken && name.trim() && problems && !problems.length && !missing.length;
  return html`<div class="install">
    <h2><${Shown} text=${info.title || info.name} /></h2>
    <p><${Shown} text=${info.description || ''} /></p>
    <p class="quiet-text facts-line"><code><${Shown} text=${entry.image || [entry.command, ...(entry.args || [])].filter(Boolean).join(' ')} /></code>${homepage && html` · <a href=${homepage} rel="noreferrer noopener" target="_blank">Homepage</a>`}</p>
    ${tools.length > 0 && html`<details class="hint"><summary>Its tools (${tools.length})</summary><ul class="tool-list">${tools.map((tool) => html`<li key=${tool.name}><code><${Shown} text=${tool.name} /></code> ${tool.description ? html`<${Shown} text=${tool.description} />` : null}</li>`)}</ul></details>`}
    <div class="field"><label for="server-name">Name</label><input id="server-name" class="mono" value=${name} autocomplete="off" spellcheck=${false} onInput=${(event) => setName(event.target.value)} aria-invalid=${taken} />
      ${taken && html`<p class="why">A server of this name is there already. Choose another name.</p>`}</div>
    ${settings.map((one) => html`<div class="field" key=${one.name}><label for=${`env-${one.name}`}><code>${one.name}</code>${one.required ? '' : ' (optional)'}</label>
      <input id=${`env-${one.name}`} value=${values[one.name]} onInput=${(event) => setValues({ ...values, [one.name]: event.target.value })} /><p class="quiet-text"><${Shown} text=${one.description || ''} /></p></div>`)}
    ${points.map((one) => html`<div class="field" key=${one.target}><label for=${`mount-${one.target}`}>Folder of your machine, seen by the server as <code>${one.target}</code>${one.required ? '' : ' (optional)'}</label>
      <input id=${`mount-${one.target}`} class="mono" placeholder=${one.example} autocomplete="off" spellcheck=${false} value=${folders[one.target] || ''} onInput=${(event) => setFolders({ ...folders, [one.target]: event.target.value })} />
      <p class="quiet-text"><${Shown} text=${one.description || ''} /></p>
      <label class="check"><input type="checkbox" checked=${changeable[one.target] || false} onChange=${(event) => setChangeable({ ...changeable, [one.target]: event.target.checked })} />the server may change files there</label></div>`)}
    ${secrets.length + inputs.length > 0 && html`<fieldset class="secrets"><legend>Secrets it needs from you</legend>
      <p class="quiet-text">A secret never passes through this page and never stands in the file. Run the line in a terminal on this machine; it asks for the secret and starts the server again with it:</p>
      <ul>${[...secrets, ...inputs].map((one) => html`<li key=${one.name}><b><code><${Shown} text=${one.name} /></code></b>${one.required ? '' : ' (optional)'}: <${Shown} text=${one.description || ''} />
        ${!one.required && html`<label class="check"><input type="checkbox" checked=${values[one.name] === true} onChange=${(event) => setValues({ ...values, [one.name]: event.target.checked })} />use it</label>`}
        ${(one.required || values[one.name] === true) && html`<${Snippet} text=${command(one.name)} label="Command" />`}</li>`)}</ul></fieldset>`}
    <h3>What it may reach</h3>
    ${why.length > 0 && html`<ul class="why-hosts">${why.map((one) => html`<li key=${one.host}><code><${Shown} text=${one.host} /></code> <${Shown} text=${one.reason} /></li>`)}</ul>`}
    ${info.network_note && html`<p class="quiet-text"><${Shown} text=${info.network_note} /></p>`}
    <${NetworkForm} key=${name.trim()} check=${check} draft=${draft} onChange=${setDraft} onChecked=${setProblems} />
    <div class="actions sticky"><span class="quiet-text">${taken ? '' : missing.length ? `${missing[0]} is missing.` : problems === null ? 'Checking …' : problems.length ? 'Fix what is marked first.' : 'Ready.'}</span>
      <button type="button" class="primary" disabled=${!ready} onClick=${() => setAdding(true)}>Add this server …</button></div>
    ${adding && html`<${Confirm}
      title=${html`Add <${Shown} text=${name} />?`}
      words=${html`<p>${meaning(draft).text}</p><p class="quiet-text">These lines go into your file, and the server starts.</p>`}
      preview=${() => api.addBackend(name.trim(), whole(blockOf(draft)), true)}
      apply=${() => api.addBackend(name.trim(), whole(blockOf(draft)), false)}
      label="Add and start"
      onDone=${() => { forget(key); say(`${plain(name)} is added. The first start builds its image and can take a minute.`); refreshBackends(); location.hash = `#/servers/${encodeURIComponent(name.trim())}/logs`; }}
      onClose=${() => setAdding(false)} />`}
  </div>`;
}

/* The network rules of one server as a form. It edits a network block; the gateway checks it as one types. */
import { html, useEffect, useRef, useState } from './vendor/htm-preact.js';
import { Shown } from './text.js';
import { Switch } from './ui.js';

const CHECK_MS = 250;
const MODES = [
  ['enforce', 'Block', 'What the rules do not name is blocked.'],
  ['report', 'Report only', 'Everything public is let through, and marked where the rules would have blocked it.'],
  ['learn', 'Learn', 'Public hosts are let through and recorded, so that you can make rules of what you see.'],
];

// ---- block <-> draft -------------------------------------------------------------------------------------------

let serial = 0;
const id = () => (serial += 1);
const hostRow = (host = '', ports = '', isPrivate = false, tcp = false) => ({ id: id(), host, ports, isPrivate, tcp });

function rowOf(rule) {
  if (typeof rule === 'string') return hostRow(rule);
  const ports = rule.ports ?? (rule.port != null ? [rule.port] : []);
  return hostRow(rule.host || '', ports.join(', '), Boolean(rule.private), rule.protocol === 'tcp');
}

/** A network block as the file has it, as rows a person can edit. `tcp`: hosts added to it speak raw TCP. */
export function draftOf(block, tcp = false) {
  const given = block || {};
  return {
    given,
    isolated: given.isolated !== false,
    hosts: (given.allowed_hosts || []).map(rowOf),
    ports: (given.allowed_ports || []).map((port) => ({ id: id(), port: String(port) })),
    tcp,
    mode: given.mode || 'enforce',
    direct: given.direct === 'allow',
  };
}

const portOf = (text) => (/^\d+$/.test(text) ? Number(text) : text);
const portsOf = (text) => text.split(/[\s,]+/).filter(Boolean).map(portOf);

function ruleOf(row) {
  const host = row.host.trim();
  const ports = portsOf(row.ports);
  if (!ports.length && !row.isPrivate && !row.tcp) return host;
  const rule = { host };
  if (ports.length) rule.ports = ports;
  if (row.isPrivate) rule.private = true;
  if (row.tcp) rule.protocol = 'tcp';
  return rule;
}

/** The rows as a network block; keys this form does not show (join, limits) stay as they were. Empty rows are left out. */
export function blockOf(draft) {
  const block = { ...draft.given, isolated: draft.isolated };
  const put = (key, value, keep) => { if (keep) block[key] = value; else delete block[key]; };
  const hosts = draft.hosts.filter((row) => row.host.trim()).map(ruleOf);
  const ports = draft.ports.filter((row) => row.port.trim()).map((row) => portOf(row.port.trim()));
  put('allowed_hosts', hosts, hosts.length || 'allowed_hosts' in draft.given);
  put('allowed_ports', ports, ports.length || ('allowed_ports' in draft.given && draft.given.allowed_ports.length === 0));
  put('mode', draft.mode, draft.mode !== 'enforce' || 'mode' in draft.given);
  put('direct', draft.direct ? 'allow' : 'deny', draft.direct || 'direct' in draft.given);
  return block;
}

/** Problems of the gateway's check, sorted to the rows they belong to. */
export function sortProblems(draft, problems) {
  const sorted = { hosts: {}, ports: {}, other: [] };
  const hosts = draft.hosts.filter((row) => row.host.trim());
  const ports = draft.ports.filter((row) => row.port.trim());
  for (const problem of problems) {
    const path = Array.isArray(problem.path) ? problem.path.join('.') : String(problem.path || '');
    const [, what, index] = /\ballowed_(hosts|ports)\W(\d+)/.exec(path) || [];
    const row = what && (what === 'hosts' ? hosts : ports)[Number(index)];
    const message = [problem.message, problem.hint].filter(Boolean).join(' ');
    if (row) sorted[what][row.id] = message;
    else sorted.other.push(message);
  }
  return sorted;
}

// ---- words -----------------------------------------------------------------------------------------------------

const list = (items, and = 'and') => (items.length < 2 ? items.join('') : `${items.slice(0, -1).join(', ')} ${and} ${items.at(-1)}`);

/** One sentence that says what these rules mean. */
export function meaning(draft) {
  if (!draft.isolated) return { tone: 'danger', text: 'Not isolated: this server gets an ordinary network. It can reach anything, your own network included, and Stockade sees none of it.' };
  const hosts = draft.hosts.map((row) => row.host.trim()).filter(Boolean);
  const ports = draft.ports.map((row) => row.port.trim()).filter(Boolean);
  if (draft.mode !== 'enforce') return { tone: 'warn', text: `Nothing public is blocked in this mode. ${hosts.length ? 'What the rules do not name is let through and marked.' : 'Everything is let through and recorded.'} Private addresses stay blocked.` };
  if (!hosts.length) return { tone: 'warn', text: ports.length ? 'This server can reach nothing: ports alone allow nothing, name a host too.' : 'This server can reach nothing. That is right for a server that needs no network; otherwise name a host.' };
  const onPorts = ports.length ? `on port ${list(ports, 'or')}` : 'on ports 80 and 443';
  if (hosts.includes('*')) return { tone: 'warn', text: `This server can reach every public host, ${onPorts}. Private addresses stay blocked.` };
  const rows = draft.hosts.filter((row) => row.host.trim());
  const plainRows = rows.filter((row) => !ownPorts(row).length).map((row) => called(row.host.trim()));
  const ownRows = rows.filter((row) => ownPorts(row).length).map((row) => `${called(row.host.trim().replace(/:[\d-]+$/, ''))} on port ${list(ownPorts(row), 'or')}`);
  if (plainRows.length > 4) plainRows.splice(3, plainRows.length, `${plainRows.length - 3} more`);
  const what = [...(plainRows.length ? [`${list(plainRows)}, ${onPorts}`] : []), ...ownRows.slice(0, 3), ...(ownRows.length > 3 ? [`${ownRows.length - 3} more`] : [])];
  return { tone: 'good', text: `This server can reach ${what.join('; ')}. Everything else is blocked.` };
}

const ownPorts = (row) => (row.ports.trim() ? row.ports.split(/[\s,]+/).filter(Boolean) : /:([\d-]+)$/.exec(row.host.trim())?.slice(1) || []);
const called = (host) => (host.startsWith('.') ? `${host.slice(1)} and all names under it` : host.startsWith('*.') ? `all names under ${host.slice(2)}` : host);

// ---- the form --------------------------------------------------------------------------------------------------

/** Controlled: `draft` in, `onChange(draft)` out, `onChecked(problems | null)` after each check (null while unknown).
    `check(block)` asks the gateway and answers a list of problems. */
export function NetworkForm({ check, draft, onChange, onChecked, directSupported = true }) {
  const [problems, setProblems] = useState([]);
  const focusNext = useRef('');
  const form = useRef(null);
  const block = JSON.stringify(blockOf(draft));
  useEffect(() => {
    let current = true;
    onChecked(null);
    const timer = setTimeout(async () => {
      let found;
      try { found = await check(JSON.parse(block)); } catch (error) { found = error.problems?.length ? error.problems : [{ path: '', message: error.message }]; }
      if (!current) return;
      setProblems(found);
      onChecked(found);
    }, CHECK_MS);
    return () => { current = false; clearTimeout(timer); };
  }, [block]);
  useEffect(() => {
    if (!focusNext.current) return;
    form.current.querySelector(`#${focusNext.current}`)?.focus();
    focusNext.current = '';
  });

  const change = (patch) => onChange({ ...draft, ...patch });
  const edit = (key, row, patch) => change({ [key]: draft[key].map((one) => (one.id === row.id ? { ...one, ...patch } : one)) });
  const remove = (key, row) => { focusNext.current = `add-${key}`; change({ [key]: draft[key].filter((one) => one.id !== row.id) }); };
  const add = (key, row, prefix) => { focusNext.current = `${prefix}-${row.id}`; change({ [key]: [...draft[key], row] }); };
  const addHost = () => add('hosts', hostRow('', '', false, draft.tcp), 'host');
  const addPort = () => add('ports', { id: id(), port: '' }, 'port');
  const onEnter = (action) => (event) => { if (event.key === 'Enter') { event.preventDefault(); action(); } };
  const sorted = sortProblems(draft, problems);
  const says = problems.length && draft.isolated ? { tone: 'warn', text: 'Some of these rules cannot be used as they are. See below.' } : meaning(draft);

  return html`<div class="network" ref=${form}>
    <div class="field-row">
      <${Switch} id="isolated" checked=${draft.isolated} onChange=${(isolated) => change({ isolated })} label="Network isolation" describedBy="meaning" />
      <span class="quiet-text">${draft.isolated ? 'On: this server reaches only the hosts listed below.' : 'Off'}</span>
    </div>
    <p id="meaning" class=${`meaning ${says.tone}`} aria-live="polite">${says.text}</p>
    ${sorted.other.length > 0 && html`<div class="problems" role="alert">${sorted.other.map((message) => html`<p><${Shown} text=${message} /></p>`)}</div>`}
    ${draft.isolated && html`
      <fieldset>
        <legend>Allowed hosts</legend>
        <p class="quiet-text"><code>api.github.com</code> is that host alone. <code>.github.com</code> is github.com and every name under it.</p>
        <ul class="form-rows">
          ${draft.hosts.map((row) => html`<${HostRow} key=${row.id} row=${row} problem=${sorted.hosts[row.id]} edit=${(patch) => edit('hosts', row, patch)} remove=${() => remove('hosts', row)} onEnter=${onEnter(addHost)} />`)}
        </ul>
        <button type="button" id="add-hosts" class="small" onClick=${addHost}>Add a host</button>
      </fieldset>
      <fieldset>
        <legend>Allowed ports</legend>
        <p class="quiet-text">For all hosts above. None means 80 and 443, the ports of the web.</p>
        <ul class="form-rows ports">
          ${draft.ports.map((row) => html`<${PortRow} key=${row.id} row=${row} problem=${sorted.ports[row.id]} edit=${(patch) => edit('ports', row, patch)} remove=${() => remove('ports', row)} onEnter=${onEnter(addPort)} />`)}
        </ul>
        <button type="button" id="add-ports" class="small" onClick=${addPort}>Add a port</button>
      </fieldset>
      <fieldset>
        <legend>When something is not allowed</legend>
        ${MODES.map(([mode, title, words]) => html`<label class="radio" key=${mode}><input type="radio" name="mode" checked=${draft.mode === mode} onChange=${() => change({ mode })} /><span><b>${title}</b><span class="quiet-text">${words}</span></span></label>`)}
      </fieldset>
      <fieldset>
        <legend>Servers that ignore the proxy</legend>
        <label class="radio"><input type="checkbox" checked=${draft.direct} disabled=${!directSupported && !draft.direct} onChange=${(event) => change({ direct: event.target.checked })} />
          <span><b>Carry direct connections too</b><span class="quiet-text">For programs that dial out themselves, such as Node 20’s fetch. The same rules apply to them.${directSupported ? '' : ' This engine does not support it.'}</span></span></label>
      </fieldset>`}
  </div>`;
}

function HostRow({ row, problem, edit, remove, onEnter }) {
  return html`<li class=${problem ? 'form-row bad' : 'form-row'}>
    <div class="cells">
      <input id=${`host-${row.id}`} class="mono grow" aria-label="Host" placeholder="api.github.com" autocomplete="off" autocapitalize="off" spellcheck=${false} value=${row.host} aria-invalid=${Boolean(problem)} aria-describedby=${problem ? `why-${row.id}` : undefined} onInput=${(event) => edit({ host: event.target.value })} onKeyDown=${onEnter} />
      <input class="mono narrow" aria-label="Ports of this host" placeholder="same ports" autocomplete="off" value=${row.ports} onInput=${(event) => edit({ ports: event.target.value })} onKeyDown=${onEnter} />
      <label class="check" title="The name may lead to an address of your own network"><input type="checkbox" checked=${row.isPrivate} onChange=${(event) => edit({ isPrivate: event.target.checked })} />may be private</label>
      <label class="check" title="Bytes that are neither TLS nor HTTP, such as a database speaks. Stockade cannot look inside."><input type="checkbox" checked=${row.tcp} onChange=${(event) => edit({ tcp: event.target.checked })} />raw TCP</label>
      <button type="button" class="icon" aria-label=${`Remove ${row.host || 'this host'}`} title="Remove" onClick=${remove}>\u00d7</button>
    </div>
    ${problem && html`<p class="why" id=${`why-${row.id}`}><${Shown} text=${problem} /></p>`}
  </li>`;
}

function PortRow({ row, problem, edit, remove, onEnter }) {
  return html`<li class=${problem ? 'form-row bad' : 'form-row'}>
    <div class="cells">
      <input id=${`port-${row.id}`} class="mono narrow" aria-label="Port or range" placeholder="443" inputmode="numeric" autocomplete="off" value=${row.port} aria-invalid=${Boolean(problem)} aria-describedby=${problem ? `why-${row.id}` : undefined} onInput=${(event) => edit({ port: event.target.value })} onKeyDown=${onEnter} />
      <button type="button" class="icon" aria-label=${`Remove port ${row.port}`} title="Remove" onClick=${remove}>\u00d7</button>
    </div>
    ${problem && html`<p class="why" id=${`why-${row.id}`}><${Shown} text=${problem} /></p>`}
  </li>`;
}

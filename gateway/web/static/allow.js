/* "Allow this host": the change to the file first, then the write, then what to expect. */
import { html } from './vendor/htm-preact.js';
import { api } from './api.js';
import { explain } from './reasons.js';
import { Shown, plain } from './text.js';
import { Confirm } from './ui.js';
import { noteAllowed, refreshBackends, refreshBlocked, say } from './store.js';

/** Whether naming the host in the policy would let this connection through. */
export function allowable(row) {
  if (row.decision === 'allow' || !row.host || row.via === 'dns') return false;
  return explain(row.reason).fix === 'allow';
}

/** The end of a name with many parts, where the beginning could mislead; empty for ordinary names. Only for words. */
export function owner(host) {
  const labels = host.split('.');
  if (labels.length < 5 || labels.every((label) => /^\d+$/.test(label))) return '';
  return labels.slice(labels.at(-2).length <= 3 ? -3 : -2).join('.');
}

export function AllowDialog({ backend, host, port, onClose }) {
  const name = port ? `${host}:${port}` : host;
  const done = () => {
    noteAllowed(backend, host, port);
    say(`${plain(name)} is allowed for ${plain(backend)}. Let your AI client try again: it gets through now.`);
    refreshBlocked();
    refreshBackends();
    onClose();
  };
  return html`<${Confirm}
    title=${html`Allow <code class="in-title"><${Shown} text=${name} /></code> for <${Shown} text=${backend} />?`}
    words=${html`<p>From now on <b><${Shown} text=${backend} /></b> may connect to it and send it anything it knows. Allow it only if that is what this server is for.</p>
      ${owner(host) && html`<p class="meaning warn">This is a long name. Who owns its <b>end</b> owns it all: <b class="mono"><${Shown} text=${owner(host)} /></b></p>`}
      <p class="quiet-text">This is the change to your file. It takes effect at once; the server is not restarted.</p>`}
    preview=${() => api.allow(backend, host, port, true)}
    apply=${() => api.allow(backend, host, port, false)}
    label="Allow this host"
    onDone=${done}
    onClose=${onClose} />`;
}

/** Does the network block already name this host and port? Only to choose words: the gateway decides. */
export function covers(block, host, port) {
  if (!block || block.isolated === false) return false;
  const inPorts = (ports) => ports.some((range) => {
    const [low, high] = String(range).split('-').map(Number);
    return port >= low && port <= (high || low);
  });
  return (block.allowed_hosts || []).some((rule) => {
    const written = typeof rule === 'string' ? rule : rule.host || '';
    const [, name, own] = /^(.*?)(?::(\d+(?:-\d+)?))?$/.exec(written);
    const fits = name === host || name === '*' || (name.startsWith('.') && (host === name.slice(1) || host.endsWith(name))) || (name.startsWith('*.') && host.endsWith(name.slice(1)));
    const named = own ? [own] : rule.ports || (rule.port ? [rule.port] : block.allowed_ports || []);
    return fits && (!port || inPorts(named.length ? named : [80, 443]));
  });
}

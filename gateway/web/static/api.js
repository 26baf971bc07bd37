/* The only module that talks to the gateway: /api/v1, same origin, cookie session.

   Shapes this page reads (all JSON; unknown fields are ignored):
     POST   session {token}                     -> 2xx and a cookie; 401 when the token is wrong.  DELETE session signs out.
     GET    status                              -> {version, project, config_path, urls: {endpoint, admin}, ready, detail, warnings: [text],
                                                    warned: [names of the servers whose missing isolation is among the warnings]}
     GET    backends                            -> {backends: [{name, state, detail, transport, isolated, image, restarts, since,
                                                    warnings: [text], left_out: [text], direct_supported, network: {network block}}]}
     GET    backends/N                          -> one of these, with `tools: [{name, description, …}]` and `entry` (as in the file)
     GET    backends/N/logs?tail=500&follow=1   -> SSE, data: {time, stream, text, instance}
     GET    egress/connections?limit=300        -> {connections: [event]}         newest first or last, sorted here
     GET    egress/blocked                      -> {blocked: [{backend, host, port, reasons, count, first, last, detail, tools,
                                                    in_file, allowed_now, remedy, remedy_kind, kept_blocked}]}
     POST   egress/kept {backend, host, port}   -> {kept_blocked, changed};  DELETE egress/kept?backend=&host=&port= takes it back
     GET    egress/lookups                      -> {lookups: [{backend, host, method, count, last, in_file, allowed_now, remedy, …}]}, via is `dns`
     GET    events?follow=1&since=ID            -> SSE, id: hub id, data: to_json(event)
     POST   backends/N/egress/allow {host, port, dry_run} and PUT backends/N/network {block, dry_run}
            and POST backends {name, entry, dry_run} and DELETE backends/N   -> {diff, applied, warnings}
     POST   backends/N/network/check {block}    -> {problems: [{path, message}]}
     GET    backends/N/egress/suggest           -> {connections, block};  POST explain {backend, url} -> {decision, rule, reason, sentence}
     GET    catalog?q=                          -> {servers: [summary + {added_as: [names]}]};  GET catalog/NAME -> summary + {entry, secrets, tools, …}
     GET    clients                             -> {clients: [{name, servers, …}]};  POST clients {name, dry_run} -> {token, snippets}, or
                                                   what a change of the file would be
     POST   tools/approve {backend, tool, after: the text that was shown}
   Errors: {"error": {code, message, problems: [{path, message, line}]}} with 4xx. */

const BASE = '/api/v1/';

/** Raised for every answer that is not 2xx, and when the gateway cannot be reached (status 0). */
export class ApiError extends Error {
  constructor(status, error) {
    super(error.message || `The gateway answered ${status}.`);
    this.status = status;
    this.code = error.code || '';
    this.problems = error.problems || [];
  }
}

let onSignedOut = () => {};
/** Called whenever the gateway says the session is over. */
export const whenSignedOut = (callback) => { onSignedOut = callback; };

const TRIES = 3;
const BETWEEN_MS = 300;

/** Browsers drop even loopback connections when a network of the machine changes: what only asks is asked again. */
async function patient(url, request, tries) {
  for (let left = tries - 1; ; left -= 1) {
    try {
      return await fetch(url, request);
    } catch (error) {
      if (left <= 0) throw error;
      await new Promise((done) => { setTimeout(done, BETWEEN_MS); });
    }
  }
}

async function call(method, path, body) {
  const headers = { Accept: 'application/json' };
  if (method !== 'GET') headers['X-Stockade-CSRF'] = '1';
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const request = { method, headers, credentials: 'same-origin', cache: 'no-store', body: body === undefined ? undefined : JSON.stringify(body) };
  const harmless = method === 'GET' || body?.dry_run || /(check|explain)$/.test(path);
  let response;
  try {
    response = await patient(BASE + path, request, harmless ? TRIES : 1);
  } catch {
    throw new ApiError(0, { code: 'unreachable', message: 'The gateway does not answer. Is it still running? Try: stockade ps' });
  }
  const text = await response.text();
  let data = {};
  try { data = text ? JSON.parse(text) : {}; } catch { data = { error: { message: `The gateway answered ${response.status} with something that is not JSON.` } }; }
  if (response.ok) return data;
  if (response.status === 401 && path !== 'session') onSignedOut();
  throw new ApiError(response.status, data.error || {});
}

const weekAgo = () => Math.floor(Date.now() / 1000) - 7 * 86400;
const at = (...parts) => parts.map(encodeURIComponent).join('/');

export const api = {
  signIn: (token) => call('POST', 'session', { token }),
  signOut: () => call('DELETE', 'session'),
  status: () => call('GET', 'status'),
  backends: async () => (await call('GET', 'backends')).backends,
  backend: (name) => call('GET', at('backends', name)),
  restart: (name) => call('POST', at('backends', name, 'restart'), {}),
  addBackend: (name, entry, dryRun) => call('POST', 'backends', { name, entry, dry_run: dryRun }),
  removeBackend: (name, dryRun) => call('DELETE', `${at('backends', name)}?dry_run=${dryRun}`),
  allow: (name, host, port, dryRun) => call('POST', at('backends', name, 'egress', 'allow'), { host, port, dry_run: dryRun }),
  checkNetwork: (name, block) => call('POST', at('backends', name, 'network', 'check'), { block }),
  saveNetwork: (name, block, dryRun) => call('PUT', at('backends', name, 'network'), { block, dry_run: dryRun }),
  suggest: (name) => call('GET', at('backends', name, 'egress', 'suggest')),
  explain: (backend, url) => call('POST', 'explain', { backend, url }),
  approveTool: (backend, tool, after) => call('POST', 'tools/approve', { backend, tool, after }),
  connections: async (limit) => (await call('GET', `egress/connections?fair=1&limit=${limit}`)).connections,
  blocked: async () => (await call('GET', `egress/blocked?since=${weekAgo()}`)).blocked,
  keep: (backend, host, port) => call('POST', 'egress/kept', { backend, host, port: port || null }),
  release: (backend, host, port) => call('DELETE', `egress/kept?${new URLSearchParams({ backend, host, port: port || 0 })}`),
  lookups: async () => (await call('GET', `egress/lookups?since=${weekAgo()}`)).lookups,
  catalog: async (query) => (await call('GET', `catalog?q=${encodeURIComponent(query)}`)).servers,
  catalogEntry: (name) => call('GET', at('catalog', name)),
  clients: async () => (await call('GET', 'clients')).clients,
  addClient: (name, dryRun) => call('POST', 'clients', { name, dry_run: dryRun }),
  removeClient: (name, dryRun) => call('DELETE', `${at('clients', name)}?dry_run=${dryRun}`),
  logsUrl: (name) => `${BASE}${at('backends', name, 'logs')}?tail=500&follow=1`,
  eventsUrl: (since) => `${BASE}events?follow=1${since ? `&since=${since}` : ''}`,
};

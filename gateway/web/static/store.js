/* The state of the page in one place: what the gateway said last, and the connections seen. */
import { useState, useEffect } from './vendor/htm-preact.js';
import { api, whenSignedOut, ApiError } from './api.js';
import { follow } from './stream.js';
import { forgetAll } from './kept.js';
import { verdict } from './reasons.js';

const KEEP = 1500;
const BATCH_MS = 120;
const STATUS_MS = 2000;

const EVER = 'stockade-allowed-once';
const readEver = () => { try { return localStorage.getItem(EVER) === '1'; } catch { return false; } };

let state = {
  session: 'unknown', // 'unknown' | 'out' | 'in' | 'unreachable'
  link: 'connecting', // 'connecting' | 'live' | 'lost'
  status: null, backends: null, connections: [], loaded: false, blocked: null, lookups: null, clients: null,
  notices: [], allowed: {}, everAllowed: readEver(), calls: 0, said: null,
  made: null, // a client whose token is on the screen, the only time that it can be
};
const listeners = new Set();

export const current = () => state;
export function set(patch) {
  state = { ...state, ...patch };
  for (const listener of listeners) listener();
}

/** The whole state; the component is drawn again when any of it changes. */
export function useStore() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const listener = () => redraw((n) => n + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return state;
}

/** Say something to the person: shown for a while, and read out by screen readers. */
export function say(text, tone = 'good') {
  const said = { text, tone };
  set({ said });
  setTimeout(() => { if (state.said === said) set({ said: null }); }, 7000);
}

// ---- connections -----------------------------------------------------------------------------------------------

const byKey = new Map();
let arrivals = 0;
const keyOf = (event) => `${event.epoch}/${event.connection}/${event.phase === 'counted' ? event.seq : ''}`;

function take(event) {
  const key = keyOf(event);
  const old = byKey.get(key);
  if (old && old.phase === 'closed') return;
  const row = old
    ? { ...old, ...event, time: old.time, calls: event.calls || old.calls, was: old.decision, ended: event.phase === 'progress' ? old.ended : event.time, id: old.id }
    : { ...event, key, n: (arrivals += 1) };
  row.verdict = verdict(row);
  byKey.set(key, row);
}

/** How many rows each server may have so that all together are no more than KEEP: one that floods evicts its own. */
function share(sizes) {
  let room = KEEP;
  const ascending = [...sizes].sort((a, b) => a - b);
  for (const [at, size] of ascending.entries()) {
    const left = ascending.length - at;
    if (size * left > room) return Math.floor(room / left);
    room -= size;
  }
  return KEEP;
}

function rows() {
  const sorted = [...byKey.values()].sort((a, b) => b.time - a.time || b.n - a.n);
  if (sorted.length <= KEEP) return sorted;
  const sizes = new Map();
  for (const row of sorted) sizes.set(row.backend, (sizes.get(row.backend) || 0) + 1);
  const most = share(sizes.values());
  const seen = new Map();
  return sorted.filter((row) => {
    seen.set(row.backend, (seen.get(row.backend) || 0) + 1);
    return seen.get(row.backend) <= most || !byKey.delete(row.key);
  });
}

// ---- what the gateway sends ------------------------------------------------------------------------------------

let waiting = [];
let timer = 0;
let statusTimer = 0;
const later = {};
function soon(name, wait, action) {
  clearTimeout(later[name]);
  later[name] = setTimeout(action, wait);
}

function receive(id, event) {
  waiting.push({ ...event, id });
  if (!timer) timer = setTimeout(flush, BATCH_MS);
}

function flush() {
  timer = 0;
  const batch = waiting;
  waiting = [];
  const patch = {};
  for (const event of batch) {
    if (event.kind === 'egress') take(event);
    else if (event.kind === 'call') patch.calls = (patch.calls ?? state.calls) + 1;
    else if (event.kind === 'notice' || event.kind === 'tool') patch.notices = [event, ...(patch.notices || state.notices).filter((old) => !settles(event, old))].slice(0, 50);
  }
  const egress = batch.filter((event) => event.kind === 'egress');
  if (egress.length) {
    patch.connections = rows();
    patch.allowed = passedNow(egress);
    if (egress.some((event) => event.via === 'dns' || event.via === 'direct' || event.phase === 'counted')) soon('lookups', 400, refreshLookups);
    if (egress.some((event) => event.decision === 'deny')) {
      soon('blocked', 400, refreshBlocked);
      soon('backends', 2000, refreshBackends); // a list that fails for lack of it is no event
    }
  }
  statusTimer ||= setTimeout(() => { statusTimer = 0; refreshStatus(); }, STATUS_MS); // one may be lost on its way to the history
  if (batch.some((event) => event.kind === 'backend' || event.code === 'config_reloaded')) soon('backends', 200, refreshBackends);
  if (batch.some((event) => event.code === 'kept_blocked' || event.code === 'config_reloaded')) soon('blocked', 200, refreshBlocked);
  if (batch.some((event) => event.code === 'config_reloaded')) soon('lookups', 200, refreshLookups);
  set(patch);
}

/** Whether an event ends what an earlier notice told of: a file that is in force again, a tool that was accepted. */
function settles(event, old) {
  if (event.code === 'config_reloaded') return old.code === 'config_rejected';
  return event.kind === 'tool' && event.change === 'approved' && old.kind === 'tool' && old.backend === event.backend && old.tool === event.tool;
}

/** Hosts that the person allowed on this page, and whether a connection has passed since. */
export const allowedKey = (backend, host, port) => `${backend} ${host} ${port || ''}`;
export function noteAllowed(backend, host, port) {
  try { localStorage.setItem(EVER, '1'); } catch { /* storage is off: until the page closes */ }
  set({ everAllowed: true, allowed: { ...state.allowed, [allowedKey(backend, host, port)]: { at: Date.now() / 1000, passed: false } } });
}

/** A person decides that a host stays blocked, or takes that back. The gateway remembers it, for every browser. */
export async function keepBlocked(row, keep) {
  try { await (keep ? api.keep(row.backend, row.host, row.port) : api.release(row.backend, row.host, row.port)); } catch (error) { say(error.message, 'bad'); }
  await refreshBlocked();
}

function passedNow(events) {
  let { allowed } = state;
  for (const event of events) {
    const key = allowedKey(event.backend, event.host, event.port);
    if (event.decision === 'allow' && allowed[key] && !allowed[key].passed) allowed = { ...allowed, [key]: { ...allowed[key], passed: true } };
  }
  return allowed;
}

const quietly = (load) => async () => {
  try { await load(); } catch (error) { if (!(error instanceof ApiError)) throw error; }
};
export const refreshStatus = quietly(async () => set({ status: await api.status() }));
export const refreshBackends = quietly(async () => set({ backends: await api.backends() }));
export const refreshBlocked = quietly(async () => set({ blocked: await api.blocked() }));
export const refreshLookups = quietly(async () => set({ lookups: await api.lookups() }));
export const refreshClients = quietly(async () => set({ clients: await api.clients() }));

function linked(link) {
  const back = link === 'live' && state.link === 'lost';
  set({ link });
  if (back) Promise.all([refreshStatus(), refreshBackends(), refreshBlocked(), refreshLookups()]);
  if (link === 'lost') refreshStatus();
}
function missed(count) {
  const notice = { kind: 'notice', time: Date.now() / 1000, severity: 'warning', code: 'page_gap', message: `This page missed ${count} events; the list below has a hole. It was this page that missed them: \`stockade egress blocked\` and the history are not touched.` };
  set({ notices: [notice, ...state.notices] });
}

let stream = null;
/** Sign-in was good, or a session was there already: load everything, then follow. */
export async function start() {
  try {
    set({ status: await api.status(), session: 'in' });
  } catch (error) {
    set({ session: error.status === 401 ? 'out' : 'unreachable' });
    return;
  }
  if (stream) stream.stop();
  const seen = await api.connections(500).catch(() => []);
  seen.forEach(take);
  set({ connections: rows(), loaded: true });
  const since = Math.max(0, ...seen.map((event) => event.id || 0)) || null;
  stream = follow(api.eventsUrl, { receive, tell: linked, gap: missed, since });
  await Promise.all([refreshBackends(), refreshBlocked(), refreshLookups(), refreshClients()]);
}

export function stop() {
  if (stream) stream.stop();
  stream = null;
  clearTimeout(statusTimer);
  statusTimer = 0;
  byKey.clear();
  forgetAll();
  set({ session: 'out', made: null, link: 'connecting', connections: [], loaded: false, backends: null, blocked: null, lookups: null, clients: null, notices: [] });
}
whenSignedOut(() => { if (state.session === 'in') stop(); });

/* Server-sent events that come back: reconnects after the last id seen, so nothing is lost that the gateway still has.

   A browser opens six connections to one address, all tabs together, and a stream holds one of them. So a page that
   nobody looks at lets go of its stream, and takes it up again where it was. */

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 8000;
const REST_MS = 20000;

/** Follow `urlFor(since)`. `receive(id, data)` gets each JSON message, `tell` one of 'live', 'lost', and `gap` the
    number of messages that the gateway had to drop because this page was too slow or away for too long. */
export function follow(urlFor, { receive, tell, gap = () => {}, since = null }) {
  let source = null;
  let wait = FIRST_WAIT_MS;
  let retry = 0;
  let rest = 0;
  let stopped = false;
  let resting = false;

  const message = (event) => {
    let data;
    try { data = JSON.parse(event.data); } catch { return; }
    since = Number(event.lastEventId) || data.id || since;
    receive(since, data);
  };
  const lost = () => {
    source?.close();
    if (stopped || resting) return;
    tell('lost');
    clearTimeout(retry);
    retry = setTimeout(open, wait);
    wait = Math.min(wait * 2, LONGEST_WAIT_MS);
  };
  function open() {
    source = new EventSource(urlFor(since));
    source.onopen = () => { wait = FIRST_WAIT_MS; tell('live'); };
    source.onerror = lost;
    source.onmessage = message;
    source.addEventListener('gap', (event) => { try { gap(JSON.parse(event.data).dropped); } catch { gap(0); } });
  }

  const sleep = () => {
    resting = true;
    clearTimeout(retry);
    source?.close();
  };
  const wake = () => {
    clearTimeout(rest);
    if (!resting) return;
    resting = false;
    open();
  };
  const looked = () => {
    if (document.visibilityState === 'visible') wake();
    else rest = setTimeout(sleep, REST_MS);
  };

  document.addEventListener('visibilitychange', looked);
  addEventListener('pagehide', sleep);
  addEventListener('pageshow', wake);
  open();
  return {
    stop() {
      stopped = true;
      document.removeEventListener('visibilitychange', looked);
      removeEventListener('pagehide', sleep);
      removeEventListener('pageshow', wake);
      clearTimeout(rest);
      clearTimeout(retry);
      source?.close();
    },
  };
}

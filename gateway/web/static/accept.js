/* "Accept it" for a tool that changed: first what it said and what it says now. No line of the person's file changes. */
import { html, useRef } from './vendor/htm-preact.js';
import { api } from './api.js';
import { Shown, plain } from './text.js';
import { Confirm, lineDiff } from './ui.js';
import { say } from './store.js';

/** Pins the definition that was shown; the gateway refuses when the tool has changed again since. */
export async function accept(backend, one) {
  await api.approveTool(backend, one.tool, one.after);
  say(`${plain(one.tool)} is accepted as it is now.`);
}

export function AcceptDialog({ backend, tool, onClose }) {
  const shown = useRef(null);
  const preview = async () => {
    const one = (await api.backend(backend)).changed_tools.find((found) => found.tool === tool);
    if (!one) throw new Error('There is nothing to accept: it was accepted meanwhile, or the server no longer has this tool.');
    shown.current = one;
    return { diff: lineDiff(one.before, one.after) };
  };
  return html`<${Confirm}
    title=${html`Accept <code class="in-title"><${Shown} text=${tool} /></code> of <${Shown} text=${backend} />?`}
    words=${html`<p>This is how its words changed. Read what is new as an instruction that someone wants your AI model to follow.</p>
      <p class="quiet-text">Stockade remembers the new definition as the right one. No line of your file changes.</p>`}
    preview=${preview}
    apply=${() => accept(backend, shown.current)}
    label="Accept it"
    of="Change to the tool"
    onDone=${onClose}
    onClose=${onClose} />`;
}

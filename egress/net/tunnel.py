"""Two connections joined into one: nothing is parsed any more.

Each direction is a `Flow`. An end of one side becomes a half-close of the other; when both have ended, or one is broken
and what it sent has gone out, both sockets are closed. There is no timer per tunnel: one sweep a second asks every tunnel
whether it moved a byte since the last one.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from egress.net.flow import Flow
from egress.net.poller import BROKEN, WRITABLE
from egress.net.stream import Stream, is_reset
from observability.events import Reason


class Tunnel:
    """A joined pair. `on_end(reason, bytes_sent, bytes_received)` is called once, when it is over."""

    __slots__ = ("idle_since", "inward", "moved", "on_end", "outward", "over", "poller", "reason")

    def __init__(
        self,
        client: Stream,
        upstream: Stream,
        on_end: Callable[[Reason | None, int, int], None],
        *,
        now: float,
        sent: int = 0,
        received: int = 0,
    ) -> None:
        """Join two streams, the bytes in their buffers first. `sent` and `received` were counted before."""
        self.poller = client.poller
        self.on_end = on_end
        self.reason: Reason | None = None
        self.over = False
        self.idle_since = now
        self.moved = -1
        self.outward = Flow(self, client.sock, upstream.sock, sent)
        self.inward = Flow(self, upstream.sock, client.sock, received)
        if client.lost:
            self.cut(None)
            return
        handlers = self.poller.handlers
        handlers[client.sock.fileno()] = self.client_ready
        broken = upstream.lost
        if not broken:
            handlers[upstream.sock.fileno()] = self.upstream_ready
        self.load(self.outward, client, upstream)
        self.load(self.inward, upstream, client)
        if broken:
            self.outward.give_up()  # what the upstream said before still goes out
        self.start(self.outward, client)
        self.start(self.inward, upstream)

    def load(self, flow: Flow, source: Stream, sink: Stream) -> None:
        """What the streams hold goes first."""
        flow.rest = source.take()
        flow.count += len(flow.rest)
        if sink.out is not None:
            flow.rest, sink.out = bytes(sink.out) + flow.rest, None
        source.give_away()

    def start(self, flow: Flow, source: Stream) -> None:
        """Move what it holds, then what came meanwhile without a new event."""
        if flow.done:
            return
        rest, flow.rest = flow.rest, b""
        if rest and not flow.give(rest):
            return
        if source.eof:
            flow.end()
        elif source.unread or flow.last:
            flow.pump()

    # --- called by the poller

    def client_ready(self, events: int) -> None:
        if events & WRITABLE:
            self.inward.flush()
        if events & ~WRITABLE:
            self.outward.pump(events)
        if events & BROKEN:
            self.look_at(self.outward)

    def upstream_ready(self, events: int) -> None:
        if events & WRITABLE:
            self.outward.flush()
        if events & ~WRITABLE:
            self.inward.pump(events)
        if events & BROKEN:
            self.look_at(self.inward)

    def look_at(self, flow: Flow) -> None:
        """Check whether its source was reset after its end, which no read reports."""
        if not self.over and flow.ended and is_reset(flow.source):
            self.broke(flow.source)

    # --- called by its flows

    def broke(self, sock: socket.socket) -> None:
        """One connection is broken: what it sent before still goes out to the other, then that one closes too."""
        gone, left = (self.inward, self.outward) if sock is self.outward.source else (self.outward, self.inward)
        gone.give_up()
        if left.last:
            left.give_up()
        else:
            left.last = True
            left.pump()
        self.settle()

    def settle(self) -> bool:
        """Close both when neither direction has anything left to send; whether that is so."""
        if self.over or not (self.outward.done and self.inward.done):
            return self.over
        self.over = True
        outward, inward = self.outward, self.inward
        for sock in (outward.source, inward.source):
            self.poller.forget(sock.fileno())
            sock.close()
        on_end = self.on_end
        del self.on_end, outward.tunnel, inward.tunnel  # no cycle is left for the garbage collector
        on_end(self.reason, *self.counts())
        return True

    # --- called by its owner

    def counts(self) -> tuple[int, int]:
        """Bytes that the client and the upstream sent."""
        return self.outward.count, self.inward.count

    def pipes(self) -> int:
        """How many directions the kernel moves."""
        return (self.outward.pipe is not None) + (self.inward.pipe is not None)

    def tick(self, now: float, idle_timeout_s: float) -> None:
        """Called by the sweep: cut the tunnel when nothing moved for `idle_timeout_s`."""
        moved = self.outward.moved() + self.inward.moved()
        if moved != self.moved:
            self.moved = moved
            self.idle_since = now
        elif now - self.idle_since >= idle_timeout_s:
            self.cut(Reason.IDLE_TIMEOUT)

    def cut(self, reason: Reason | None) -> None:
        """End it now, whatever still waits to be sent."""
        if self.over:
            return
        self.reason = self.reason or reason
        self.outward.give_up()
        self.inward.give_up()
        self.settle()

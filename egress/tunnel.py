"""Two connections joined into one: nothing is parsed any more.

Theory of operation
-------------------
Each side is a protocol that writes what it gets to the other side's transport, in whole chunks. A side whose
transport is full pauses the other's reading (back-pressure); an end of one side becomes a half-close of the
other; when both have ended, both are closed *explicitly*: uvloop aborts the process ("double free") when a
half-closed pair of transports is dropped without `close()`.

There is no timer per tunnel. One sweep a second asks every tunnel whether it moved a byte since the last one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from egress.stream import Stream
from observability.events import Reason


class Side(asyncio.Protocol):
    """One of the two connections of a tunnel."""

    __slots__ = ("count", "ended", "peer", "send", "transport", "tunnel")

    peer: Side
    send: Callable[[bytes], None]
    """Writes to the peer."""

    def __init__(self, tunnel: Tunnel, transport: asyncio.Transport) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.count = 0
        """Bytes that this side sent."""
        self.ended = False

    def data_received(self, data: bytes) -> None:
        self.count += len(data)
        self.send(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.peer.ended:
            self.tunnel.finish()
        elif not self.peer.transport.is_closing():
            self.peer.transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.lost(self)


class Tunnel:
    """A joined pair. `on_end(reason, bytes_sent, bytes_received)` is called once, when it is over."""

    __slots__ = ("client", "idle_since", "moved", "on_end", "open_sides", "reason", "upstream")

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
        """Join two streams, the bytes in their buffers first. `sent` and `received` were moved before."""
        self.on_end = on_end
        self.reason: Reason | None = None
        self.open_sides = 2
        self.idle_since = now
        self.moved = -1
        self.client = Side(self, client.transport)
        self.upstream = Side(self, upstream.transport)
        self.client.count, self.upstream.count = sent, received
        for side, peer in ((self.client, self.upstream), (self.upstream, self.client)):
            side.peer = peer
            side.send = peer.transport.write
        for stream, side in ((client, self.client), (upstream, self.upstream)):
            self._start(stream, side)
        if client.lost or upstream.lost:
            self.cut(None)

    def _start(self, stream: Stream, side: Side) -> None:
        if stream.lost:
            self.open_sides -= 1
            return
        waiting = stream.take()
        stream.on_lost = None
        stream.hand_over(side)
        if waiting:
            side.data_received(waiting)
        if stream.eof:
            side.eof_received()

    def tick(self, now: float, idle_timeout_s: float) -> None:
        """Called by the sweep: cut the tunnel when nothing moved for `idle_timeout_s`."""
        moved = self.client.count + self.upstream.count
        if moved != self.moved:
            self.moved = moved
            self.idle_since = now
        elif now - self.idle_since >= idle_timeout_s:
            self.cut(Reason.IDLE_TIMEOUT)

    def cut(self, reason: Reason | None) -> None:
        """End it now, whatever still waits to be sent."""
        self.reason = self.reason or reason
        for side in (self.client, self.upstream):
            side.transport.abort()
        if self.open_sides == 0:
            self._ended()

    def finish(self) -> None:
        """Both ends sent everything: close when it has gone out."""
        for side in (self.client, self.upstream):
            side.transport.close()

    def lost(self, side: Side) -> None:
        """One connection is gone: what waits for the other still goes out, then it closes too."""
        self.open_sides -= 1
        if self.open_sides:
            side.peer.transport.close()
        else:
            self._ended()

    def _ended(self) -> None:
        on_end, self.on_end = self.on_end, _nothing
        on_end(self.reason, self.client.count, self.upstream.count)


def _nothing(reason: Reason | None, sent: int, received: int) -> None:
    """A tunnel ends once."""

"""Two connections joined into one: nothing is parsed any more.

Theory of operation
-------------------
Each side is a protocol that writes what it gets to the other side's transport, in whole chunks. A side whose
transport is full pauses the other's reading (back-pressure); an end of one side becomes a half-close of the
other; when both have ended, both are closed *explicitly*: uvloop aborts the process ("double free") when a
half-closed pair of transports is dropped without `close()`.

A tunnel that has moved `BUSY_BYTES` is given to `egress.relay`, where the kernel moves the bytes. It has to stand still
for a moment for that: both sides stop reading until nothing waits to be written.

There is no timer per tunnel. One sweep a second asks every tunnel whether it moved a byte since the last one.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections.abc import Callable

from egress.relay import Relay
from egress.stream import Stream
from observability.events import Reason

BUSY_BYTES = 4 * 1024 * 1024
STILL_TRIES, STILL_S = 100, 0.002


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
        if self.count >= self.tunnel.busy_at:
            self.tunnel.take_over()

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
        if not self.peer.transport.is_closing() and not self.tunnel.still:
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.tunnel.lost(self)


class Tunnel:
    """A joined pair. `on_end(reason, bytes_sent, bytes_received)` is called once, when it is over."""

    __slots__ = (
        "busy_at",
        "client",
        "idle_since",
        "moved",
        "on_end",
        "open_sides",
        "reason",
        "relay",
        "still",
        "upstream",
    )

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
        self.busy_at: float = BUSY_BYTES
        self.still = False
        """It is being stopped for a relay."""
        self.relay: Relay | None = None
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
        moved = sum(self.counts())
        if moved != self.moved:
            self.moved = moved
            self.idle_since = now
        elif now - self.idle_since >= idle_timeout_s:
            self.cut(Reason.IDLE_TIMEOUT)

    def cut(self, reason: Reason | None) -> None:
        """End it now, whatever still waits to be sent."""
        self.reason = self.reason or reason
        if self.relay is not None:
            self.relay.close()
            return
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
        on_end(self.reason, *self.counts())

    # --- a busy tunnel

    def counts(self) -> tuple[int, int]:
        """Bytes that the client and the upstream sent."""
        if self.relay is not None:
            return self.relay.outward.count, self.relay.inward.count
        return self.client.count, self.upstream.count

    def take_over(self) -> None:
        """Stand still, then let the kernel move the bytes."""
        self.busy_at = math.inf
        if self._may_stand_still():
            self.still = True
            for side in (self.client, self.upstream):
                side.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._when_still, STILL_TRIES)

    def _may_stand_still(self) -> bool:
        sides = (self.client, self.upstream)
        return self.open_sides == 2 and not any(side.ended or side.transport.is_closing() for side in sides)

    def _when_still(self, tries: int) -> None:
        loop = asyncio.get_running_loop()
        if not self._may_stand_still():
            pass
        elif any(side.transport.get_write_buffer_size() for side in (self.client, self.upstream)):
            if tries:
                loop.call_later(STILL_S, self._when_still, tries - 1)
                return
        elif self._start_relay(loop):
            return
        self.still = False
        for side in (self.client, self.upstream):
            if not side.transport.is_closing() and not side.peer.transport.get_write_buffer_size():
                side.transport.resume_reading()

    def _start_relay(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Move both sockets from their transports to a relay; False (and nothing changed) when that cannot be."""
        sockets: list[socket.socket] = []
        try:
            for side in (self.client, self.upstream):
                sockets.append(socket.socket(fileno=os.dup(side.transport.get_extra_info("socket").fileno())))
                sockets[-1].setblocking(False)
            relay = Relay(loop, sockets[0], sockets[1], self.counts(), self._ended)
        except OSError:
            for sock in sockets:
                sock.close()
            return False
        self.relay = relay
        for side in (self.client, self.upstream):
            side.transport.set_protocol(asyncio.Protocol())
            side.transport.abort()
        # After the transports have let go of their descriptors: uvloop must not watch one connection twice.
        loop.call_soon(loop.call_soon, relay.start)
        return True


def _nothing(reason: Reason | None, sent: int, received: int) -> None:
    """A tunnel ends once."""

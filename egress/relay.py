"""Bytes of a busy tunnel, moved by the kernel: socket → pipe → socket, with splice(2).

Theory of operation
-------------------
Most tunnels carry little and live best as a pair of transports. One that has moved megabytes is taken over: its
transports stop reading, drain, and are closed, while duplicates of their descriptors live on here. From then on each
direction is a `Flow`: a pipe that is filled from one socket and emptied into the other, and never copied through this
process. A flow waits either for its source to be readable (its pipe is empty) or for its sink to be writable (its pipe
is not), so memory is bounded by the pipe. Half-closes travel on with shutdown(2). Linux only; where splice does not
work the tunnel stays as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable

PIPE_BYTES = 512 * 1024
F_SETPIPE_SZ = 1031
FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)
ROUNDS = 4
"""How often one flow goes round before other connections have their turn."""


class Flow:
    """One direction."""

    __slots__ = ("count", "done", "drain", "ended", "fill", "held", "loop", "on_end", "sink", "source", "waits")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        source: socket.socket,
        sink: socket.socket,
        count: int,
        on_end: Callable[[Flow, OSError | None], None],
    ) -> None:
        """Raises OSError when there are no descriptors for its pipe."""
        self.loop = loop
        self.source = source
        self.sink = sink
        self.count = count
        """Bytes that the source sent."""
        self.on_end = on_end
        self.held = 0
        """Bytes in the pipe."""
        self.ended = False
        """The source sends no more."""
        self.done = False
        self.waits = ""
        self.drain, self.fill = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.fill, F_SETPIPE_SZ, PIPE_BYTES)

    def run(self) -> None:
        """Move what can be moved, then wait for what stands in the way."""
        try:
            for _ in range(ROUNDS):
                if not self.held and not self.ended and not self.take():
                    self.wait("source")
                    return
                if self.held and not self.give():
                    self.wait("sink")
                    return
                if self.ended and not self.held:
                    self.finish(None)
                    return
        except OSError as error:
            self.finish(error)
            return
        self.wait("sink" if self.held else "source")

    def take(self) -> bool:
        """Fill the pipe; False when the source has nothing now. Raises OSError."""
        try:
            moved = os.splice(self.source.fileno(), self.fill, PIPE_BYTES, flags=FLAGS)
        except BlockingIOError:
            return False
        self.held = moved
        self.count += moved
        self.ended = moved == 0
        return True

    def give(self) -> bool:
        """Empty the pipe; False when the sink is full. Raises OSError."""
        try:
            self.held -= os.splice(self.drain, self.sink.fileno(), self.held, flags=FLAGS)
        except BlockingIOError:
            return False
        return self.held == 0

    def wait(self, what: str) -> None:
        if what == self.waits:
            return
        self.stop_waiting()
        if what == "source":
            self.loop.add_reader(self.source.fileno(), self.run)
        else:
            self.loop.add_writer(self.sink.fileno(), self.run)
        self.waits = what

    def stop_waiting(self) -> None:
        if self.waits == "source":
            self.loop.remove_reader(self.source.fileno())
        elif self.waits == "sink":
            self.loop.remove_writer(self.sink.fileno())
        self.waits = ""

    def finish(self, error: OSError | None) -> None:
        """This direction is over: nothing more comes, everything has gone out (or cannot)."""
        if self.done:
            return
        self.close()
        if error is None:
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)
        self.on_end(self, error)

    def close(self) -> None:
        if not self.done:
            self.done = True
            self.stop_waiting()
            os.close(self.drain)
            os.close(self.fill)


class Relay:
    """Both directions of a busy tunnel. `on_end()` is called once, when both sockets are closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: socket.socket,
        upstream: socket.socket,
        counts: tuple[int, int],
        on_end: Callable[[], None],
    ) -> None:
        """Owns the sockets, which are non-blocking, from here on. Raises OSError, and has closed nothing then."""
        self.client = client
        self.upstream = upstream
        self.on_end = on_end
        self.outward = Flow(loop, client, upstream, counts[0], self.ended)
        try:
            self.inward = Flow(loop, upstream, client, counts[1], self.ended)
        except OSError:
            self.outward.close()
            raise

    def start(self) -> None:
        for flow in (self.outward, self.inward):
            if not flow.done:
                flow.run()

    def ended(self, flow: Flow, error: OSError | None) -> None:
        if error is not None or (self.outward.done and self.inward.done):
            self.close()

    def close(self) -> None:
        """End it now."""
        self.outward.close()
        self.inward.close()
        self.client.close()
        self.upstream.close()
        on_end, self.on_end = self.on_end, _nothing
        on_end()


def _nothing() -> None:
    """A relay ends once."""

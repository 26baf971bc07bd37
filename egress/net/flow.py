"""One direction of a tunnel: bytes from one socket to another.

Theory of operation
-------------------
Most tunnels carry little: what comes is read into the poller's scratch and sent on at once, so a quiet tunnel holds no
memory. When the sink is full, the rest is kept and nothing is read until it has gone: that is the back-pressure. A
direction that has carried `BUSY_BYTES` gets a pipe, and from then on the kernel moves the bytes (splice(2)): they never
enter this process. Where there is no descriptor left for a pipe, or splice does not work, it stays as it was; so it does
after urgent data, whose mark splice does not get over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from typing import Protocol

from egress.net.limits import scarce
from egress.net.poller import ENDED, SCRATCH_BYTES, URGENT, Poller

BUSY_BYTES = 1024 * 1024
NEVER = 1 << 62
PIPE_BYTES = 1024 * 1024
F_SETPIPE_SZ = 1031
FLAGS = getattr(os, "SPLICE_F_MOVE", 1) | getattr(os, "SPLICE_F_NONBLOCK", 2)
ROUNDS = 4
"""How often one direction goes round before other connections have their turn."""


class Joined(Protocol):
    """What a direction needs of the tunnel that it is one half of."""

    poller: Poller

    def broke(self, sock: socket.socket) -> None:
        """The connection of `sock` is broken."""

    def settle(self) -> bool:
        """Close both connections if both directions are done; whether that is so."""


class Flow:
    """From `source` to `sink`."""

    __slots__ = (
        "busy_at",
        "count",
        "done",
        "ended",
        "held",
        "last",
        "later",
        "pipe",
        "rest",
        "sink",
        "source",
        "tunnel",
        "watched",
    )

    def __init__(self, tunnel: Joined, source: socket.socket, sink: socket.socket, count: int) -> None:
        self.tunnel = tunnel
        self.source = source
        self.sink = sink
        self.count = count
        """Bytes that the source sent."""
        self.rest = b""
        """Bytes that the sink has not taken yet."""
        self.held = 0
        """Bytes in the pipe that the sink has not taken yet."""
        self.pipe: tuple[int, int] | None = None
        self.busy_at = count + BUSY_BYTES
        self.ended = False
        """The source sends no more."""
        self.last = False
        """The source is broken: what it sent before is all that comes."""
        self.later = False
        """It is queued for a later turn."""
        self.done = False
        """It ended, and everything has gone out or cannot."""
        self.watched = False
        """The poller reports when the sink is writable."""

    def pump(self, events: int = ENDED & ~URGENT) -> None:
        """The source may have something: move it on, until nothing comes any more or the sink is full."""
        if events & URGENT:
            self.busy_at = NEVER  # splice does not get over an urgent mark
        if self.ended or self.rest or self.held:
            return
        if self.pipe is not None:
            if self.busy_at != NEVER:
                self.pump_pipe(self.pipe)
                return
            self.close_pipe()
        scratch = self.tunnel.poller.scratch
        for _ in range(ROUNDS):
            try:
                got = self.source.recv_into(scratch)
            except BlockingIOError:
                self.dried()
                return
            except OSError:
                self.tunnel.broke(self.source)
                return
            if not got:
                self.end()
                return
            self.count += got
            if not self.give(scratch[:got]):
                return
            if self.count >= self.busy_at and (pipe := self.get_pipe()) is not None:
                self.pump_pipe(pipe)
                return
            if got < SCRATCH_BYTES and not events & ENDED:
                return
        self.go_on_later()

    def dried(self) -> None:
        """There is nothing to read, for now or for good."""
        if self.last:
            self.end()

    def give(self, data: memoryview | bytes) -> bool:
        """Send; False when the sink is full now (the rest waits) or gone."""
        try:
            sent = self.sink.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.tunnel.broke(self.sink)
            return False
        if sent == len(data):
            return True
        self.rest = bytes(data[sent:])
        self.watch_sink()
        return False

    def watch_sink(self) -> None:
        if not self.watched:
            self.watched = True
            self.tunnel.poller.watch_writable(self.sink.fileno())

    def flush(self) -> None:
        """The sink may take more."""
        if self.rest:
            rest, self.rest = self.rest, b""
            if not self.give(rest):
                return
        elif self.pipe is not None and self.held:
            if not self.empty_pipe(self.pipe):
                return
        elif not self.ended or self.done:
            return
        if self.ended:
            self.finish()
        else:
            self.pump()

    def go_on_later(self) -> None:
        """Continue in a later turn, after other connections."""
        if not self.later:
            self.later = True
            self.tunnel.poller.later(self.go_on)

    def go_on(self) -> None:
        self.later = False
        self.pump()

    # --- by the kernel

    def get_pipe(self) -> tuple[int, int] | None:
        """Use a pipe from now on, if descriptors are left for it and for other connections."""
        try:
            self.pipe = pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.busy_at = NEVER
            return None
        if scarce(pipe[1]):
            self.busy_at = NEVER
            self.close_pipe()
            return None
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe[1], F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def pump_pipe(self, pipe: tuple[int, int]) -> None:
        """Fill the pipe and empty it, in turns."""
        source, fill = self.source.fileno(), pipe[1]
        for _ in range(ROUNDS):
            try:
                moved = os.splice(source, fill, PIPE_BYTES, flags=FLAGS)
            except BlockingIOError:
                self.dried()
                return
            except OSError as error:
                if error.errno == errno.EINVAL:  # no splice for this kind of socket: copy, as before
                    self.busy_at = NEVER
                    self.go_on_later()
                else:
                    self.tunnel.broke(self.source)
                return
            if not moved:  # the end, or an urgent mark: a read tells
                self.busy_at = NEVER
                self.pump()
                return
            self.count += moved
            self.held = moved
            if not self.empty_pipe(pipe):
                return
        self.go_on_later()

    def empty_pipe(self, pipe: tuple[int, int]) -> bool:
        """Move what the pipe holds to the sink; False when that is full now, or gone."""
        drain, sink = pipe[0], self.sink.fileno()
        try:
            while self.held:
                self.held -= os.splice(drain, sink, self.held, flags=FLAGS)
        except BlockingIOError:
            self.watch_sink()
            return False
        except OSError:
            self.tunnel.broke(self.sink)
            return False
        return True

    # --- the end

    def end(self) -> None:
        """The source sends no more."""
        self.ended = True
        if not self.rest and not self.held:
            self.finish()

    def finish(self) -> None:
        """Everything is sent: shut down the sink's side, so that its peer sees the end."""
        if self.done:
            return
        self.done = True
        self.close_pipe()
        if not self.tunnel.settle():
            with contextlib.suppress(OSError):
                self.sink.shutdown(socket.SHUT_WR)

    def moved(self) -> int:
        """A number that grows with every byte that comes or goes."""
        return 2 * self.count - len(self.rest) - self.held

    def give_up(self) -> None:
        """Stop: nothing more can be sent or received."""
        self.ended = self.done = True
        self.rest, self.held = b"", 0
        self.close_pipe()

    def close_pipe(self) -> None:
        if self.pipe is not None:
            for fd in self.pipe:
                os.close(fd)
            self.pipe = None

"""One TCP connection while something is still to be decided about it.

It can be read by a coroutine (`more`, `receive`) or by a function that is called when something came (`on_input`). It hands
out everything that arrived at once, stops reading when its buffer is not emptied, and gives its socket away
(`egress.net.tunnel`) when nothing is left to parse.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from egress.net.poller import BROKEN, ENDED, WRITABLE, Poller

READ_BYTES = 64 * 1024
READ_AHEAD = 64 * 1024
"""Stop reading when this much waits to be taken; one read may go above it."""
WRITE_AHEAD = 256 * 1024


class Stream:
    """A connection. One coroutine reads it at a time; another may write."""

    __slots__ = (
        "_drained",
        "_missed",
        "_paused",
        "_waiter",
        "_watched",
        "buffer",
        "closing",
        "eof",
        "eof_waits",
        "expired",
        "lost",
        "network",
        "on_end",
        "on_input",
        "on_lost",
        "out",
        "poller",
        "sock",
    )

    def __init__(self, poller: Poller, sock: socket.socket, *, watched: bool = False, passed: bool = False) -> None:
        """Owns the connected, non-blocking socket from here on.

        `watched`: it is in the poller already, for both directions. `passed`: another process made it. Raises OSError, and
        the socket is still the caller's then.
        """
        self.poller = poller
        self.sock = sock
        self.buffer = bytearray()
        """Bytes received and not consumed yet."""
        self.out: bytes | bytearray | None = None
        """Bytes written that the kernel has not taken yet; None for none."""
        self.eof = False
        """The peer sends no more."""
        self.lost = False
        """The socket is closed, or has another owner."""
        self.network = ""
        """The joined network that it was dialled on."""
        self.expired = False
        """A deadline has passed: reads end and writes are not waited for."""
        self.closing = False
        """It closes when `out` has gone."""
        self.eof_waits = False
        self.on_lost: Callable[[], None] | None = None
        """Called when the connection breaks, or closes after what waited has gone out, if set."""
        self.on_end: Callable[[], None] | None = None
        """Called at EOF when the buffer is empty, if set."""
        self.on_input: Callable[[], None] | None = None
        """Called when something came or the peer ended, if set and no coroutine waits for it."""
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused = False
        self._missed = False
        self._watched = watched
        if watched:
            poller.handlers[sock.fileno()] = self.ready
        else:
            poller.watch(sock.fileno(), self.ready, passed=passed)

    @property
    def unread(self) -> bool:
        """Whether more may have arrived than was read: it was not read while too much waited."""
        return self._missed

    def unsent(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""
        return len(self.out) if self.out is not None else 0

    # --- called by the poller

    def ready(self, events: int) -> None:
        """The socket may be readable or writable."""
        if self.out is not None and events & WRITABLE:
            self._flush(self.out)
        if events & ~WRITABLE:
            if self._paused:
                self._missed = True
            elif not self.eof and not self.closing:
                self._fill(events)
            elif events & BROKEN and not self.lost and is_reset(self.sock):
                self._lose()

    def _fill(self, events: int) -> None:
        """Read what is there, up to the read-ahead limit, and notify the owner."""
        buffer = self.buffer
        had = len(buffer)
        try:
            while True:
                data = self.sock.recv(READ_BYTES)
                if not data:
                    self.eof = True
                    break
                buffer += data
                if len(buffer) > READ_AHEAD:
                    self._paused = self._missed = True
                    break
                if len(data) < READ_BYTES and not events & ENDED:
                    break
        except BlockingIOError:
            if len(buffer) == had:
                return
        except OSError:
            self._lose()
            return
        self._tell()
        if self.eof and self.on_end is not None and not buffer:
            self.on_end()

    def _tell(self) -> None:
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self.on_input is not None:
            self.on_input()

    def _flush(self, out: bytes | bytearray) -> None:
        """Send pending output; when all of it is sent, do what waited for that."""
        try:
            sent = self.sock.send(out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.poller.loop.call_soon(self._lose)
            return
        if sent < len(out):
            self.out = rest = bytearray(out) if isinstance(out, bytes) else out
            del rest[:sent]
            self._watch_writable()
            return
        self.out = None
        self._wake_writer()
        if self.closing:
            self._lose()
        elif self.eof_waits:
            self._shut_down()

    def _lose(self) -> None:
        """The connection broke."""
        if self.lost:
            return
        self._shut()
        if self.on_lost is not None:
            self.on_lost()
        elif self.on_input is not None and self._waiter is None:
            self.on_input()

    def _shut(self) -> None:
        """Close the socket and wake what waits for it."""
        if self.lost:
            return
        self.eof = self.lost = True
        self.out = None
        self.poller.forget(self.sock.fileno())
        self.sock.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # --- called by its owner

    def expire(self) -> None:
        """End all waiting on this connection."""
        self.expired = self.eof = True
        self._wake_writer()
        self._tell()

    async def more(self) -> bool:
        """Wait until more arrived than is in the buffer now; False when nothing will come any more."""
        had = len(self.buffer)
        if self._paused and not self.eof:
            self.resume()
        while not self.eof and len(self.buffer) == had:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return len(self.buffer) > had

    def resume(self) -> None:
        """Read again, if reading was paused."""
        self._paused = False
        if self._missed:
            self._missed = False
            self._fill(ENDED)

    async def receive(self) -> bytes:
        """Everything that arrived, as soon as there is something; empty at the end."""
        if not self.buffer:
            await self.more()
        return self.take()

    def take(self) -> bytes:
        """Everything that is in the buffer now."""
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    def skip(self, count: int) -> None:
        """Drop the first `count` bytes of the buffer."""
        del self.buffer[:count]

    def write(self, data: bytes) -> None:
        """Send at the end of the poller's batch, or now when there is none; what the kernel does not take, when it can.

        A broken connection is noticed a little later.
        """
        if self.lost or self.closing or not data:
            return
        if self.out is not None:
            if isinstance(self.out, bytes):
                self.out = bytearray(self.out)  # grows in place: many small pieces are not copied with each one
            self.out += data
            return
        self.out = data
        if self.poller.corked is None:
            self._flush(data)
        else:
            self.poller.corked.append(self)

    def uncork(self) -> None:
        """Send now what waits for the end of the batch."""
        if self.out is not None:
            self._flush(self.out)

    def _watch_writable(self) -> None:
        if not self._watched:
            self._watched = True
            self.poller.watch_writable(self.sock.fileno())

    async def drain(self) -> bool:
        """Wait until the peer took enough of what was written; False when it is gone."""
        if self.out is not None and len(self.out) > WRITE_AHEAD and not self.lost and not self.expired:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None
        return not self.lost and not self.expired

    def write_eof(self) -> None:
        """Send no more, after what was written has gone out."""
        if self.lost:
            return
        self.uncork()
        if self.out is not None:
            self.eof_waits = True
        else:
            self._shut_down()

    def _shut_down(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def give_away(self) -> None:
        """Hand the socket, and the bytes held here, to another owner; this stream counts as lost."""
        self.on_lost = self.on_end = self.on_input = None
        self.lost = True

    def close(self) -> None:
        """Close once everything written is sent; set `on_lost` afterwards to be notified of that."""
        if self.lost or self.closing:
            return
        self.on_lost = self.on_end = self.on_input = None
        self.uncork()
        if self.out is None:
            self._shut()
        else:
            self.closing = True

    def abort(self) -> None:
        """Close now."""
        self.on_lost = self.on_end = self.on_input = None
        self._shut()


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection broke, as the kernel tells once; for one whose end was read, so that no read tells."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

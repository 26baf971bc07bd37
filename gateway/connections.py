"""What a client's connection may cost the gateway: descriptors, time and memory, whatever it sends or leaves unread.

Theory of operation. uvicorn has no bound on the time that a request's head or body takes, on the size of a head, on
connections, nor on answers that a client does not read. `Connection` adds them to its HTTP protocol, and one `Limits` for
each listener keeps count:

* A head has to be there `HEAD_S` after the connection, or after its first byte on one that was used; its body `BODY_S`
  later. A head has at most `MAX_HEAD` bytes.
* A listener has a number of connections that it may hold. One more ends the oldest that has no request under way, and
  is refused where there is none: silent connections cannot keep out those that speak. The numbers of the three listeners
  leave a reserve of the process's descriptors, so a flood at one listener does not affect the others.
* Output that clients have not read is limited to `MAX_UNREAD_CLIENT` bytes for one client and `MAX_UNREAD` in all; above
  that, the connection with the most unread output is closed. A connection whose client reads almost nothing in
  `STALLED_S` is closed too.

Each connection that is closed for one of these reasons is counted and reported.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S: Final = 15.0
BODY_S: Final = 60.0
MAX_HEAD: Final = 64 * 1024
STALLED_S: Final = 30.0
MIN_TAKEN: Final = 16 * 1024
"""Bytes that a client must read within `STALLED_S`."""
MAX_UNREAD: Final = 256 * 1024 * 1024
MAX_UNREAD_CLIENT: Final = 64 * 1024 * 1024
CONTROL_CONNECTIONS: Final = 128
ADMIN_CONNECTIONS: Final = 192
RESERVE: Final = 640
"""Descriptors that MCP clients never get: the control socket's and the admin listener's connections, the backends' pipes
and sockets, the history."""


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files to the hard one; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def client_connections(descriptors: int) -> int:
    """How many connections of MCP clients leave the reserve, and a quarter of the rest for backends."""
    if descriptors == resource.RLIM_INFINITY:
        descriptors = 1 << 20
    return max(64, (descriptors - RESERVE) * 3 // 4)


class Limits:
    """The connections of one listener."""

    def __init__(self, most: int, on_cut: Callable[[str], object] = lambda _why: None) -> None:
        """`on_cut` is called with the cause, one word, for each connection that is closed or refused."""
        self.most = most
        self.on_cut = on_cut
        self.cut: Counter[str] = Counter()
        self.open: dict[Connection, None] = {}
        self.silent: dict[Connection, None] = {}
        """Those without a request under way, oldest first."""
        self.stalled: dict[Connection, None] = {}
        """Those whose client does not read, longest first."""

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        """A protocol for uvicorn (its `http` setting)."""
        return Connection(self, *args, **kwargs)

    def enter(self, connection: Connection) -> bool:
        """Add a connection; returns whether it may stay."""
        if len(self.open) >= self.most:
            oldest = next(iter(self.silent), None)
            if oldest is None:
                self.end(connection, "connection_limit")
                return False
            self.end(oldest, "silent")
        self.open[connection] = self.silent[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        """The connection is closed: forget it."""
        for table in (self.open, self.silent, self.stalled):
            table.pop(connection, None)

    def end(self, connection: Connection, why: str) -> None:
        """Close the connection now and count the cause."""
        self.leave(connection)
        self.cut[why] += 1
        self.on_cut(why)
        connection.transport.abort()

    def unread(self, connection: Connection) -> None:
        """The client reads more slowly than we write: keep unread output within its limits."""
        self.stalled[connection] = None
        client = connection.key
        for most, among in (
            (MAX_UNREAD_CLIENT, [one for one in self.stalled if one.key == client]),
            (MAX_UNREAD, list(self.stalled)),
        ):
            sizes = {one: one.unread for one in among}
            while sum(sizes.values()) > most:
                largest = max(sizes, key=lambda one: sizes[one])
                del sizes[largest]
                self.end(largest, "unread")


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with bounds."""

    def __init__(self, limits: Limits, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._head = 0
        self._in_request = False

    @property
    def key(self) -> str:
        """The client: the credentials of its request, else its address."""
        for name, value in self.headers or ():
            if name == b"authorization":
                return value.decode("latin-1")
        return self.client[0] if self.client else ""

    @property
    def unread(self) -> int:
        """Bytes that the client has not read yet."""
        return self.transport.get_write_buffer_size()

    # the way in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._limits.enter(self):
            self._within(HEAD_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.leave(self)
        self._relax()
        self._flowing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_request:
            if self._deadline is None:  # the first bytes of a request on a connection that was used
                self._within(HEAD_S)
                self._limits.silent[self] = None
            self._head += len(data)
        super().data_received(data)
        if not self._in_request and self._head > MAX_HEAD:
            self._limits.end(self, "head_size")

    def on_headers_complete(self) -> None:
        self._in_request = True
        self._head = 0
        self._limits.silent.pop(self, None)
        self._within(BODY_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_request = False
        self._relax()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and not self._in_request and self in self._limits.open:
            self._limits.silent[self] = None

    def _within(self, seconds: float) -> None:
        """Set the deadline for what is awaited next."""
        self._relax()
        self._deadline = self.loop.call_later(seconds, self._late)

    def _relax(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._limits.end(self, "slow_body" if self._in_request else "slow_head")

    # the way out

    def pause_writing(self) -> None:
        super().pause_writing()
        self._limits.unread(self)
        if self._stall is None and not self.transport.is_closing():
            self._stall = self.loop.call_later(STALLED_S, self._look, self.unread)

    def resume_writing(self) -> None:
        self._flowing()
        self._limits.stalled.pop(self, None)
        super().resume_writing()

    def _flowing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _look(self, before: int) -> None:
        """Close the connection unless its client has read enough since the last look."""
        if self.unread > before - MIN_TAKEN:
            self._stall = None
            self._limits.end(self, "stalled")
        else:
            self._stall = self.loop.call_later(STALLED_S, self._look, self.unread)

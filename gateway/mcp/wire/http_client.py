"""A small HTTP/1.1 client for one backend: keep-alive connections, one request at a time on each.

Why our own: a call's own response stream is the routing key for what the backend says during the call, the
connection comes from a door as a connected socket, and the cost per call decides the gateway's speed. Parsing is
httptools'. A connection that was idle for long is not used again, since the other end may be closing it; a request that was
sent is never sent twice.
"""

from __future__ import annotations

import asyncio
import ssl as tls
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, cast

import httptools

from gateway.mcp.wire.errors import ConnectFailed, PeerClosed
from gateway.pace import TURN_S, Pace

_IDLE_S: Final = 3.0
_MAX_IDLE: Final = 256
_MAX_OPEN: Final = 1024
"""Connections of one backend; long-lived streams, which only report changes, take at most half of them."""
_MAX_OVERHEAD: Final = 256 * 1024
"""Bytes of heads, interim responses, trailers and chunk framing without a byte of body."""
_SLICE: Final = 4 * 1024
"""Bytes parsed before the clock is read."""
_SMALL_SLICE: Final = 512
_MANY_LINES: Final = 64
"""A slice with more lines may hold hundreds of events, each with its own work, so it is parsed in small slices."""


class Receiver(Protocol):
    """Takes one response as it comes."""

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        """Status and headers (lower-case names; the last of a repeated one)."""

    def on_data(self, data: bytes) -> None:
        """Some of the body."""

    def on_end(self) -> None:
        """The response is complete."""

    def on_broken(self, why: str) -> None:
        """The response will never be complete."""


class Connection(asyncio.Protocol):
    """One connection; `busy` from the request's first byte to the response's last."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.breaks = pool.breaks
        """How many connections of the pool had broken when this one was made."""
        self._receiver: Receiver | None = None
        self._parser: Any = None
        self._status = 0
        self._headers: dict[str, str] = {}
        self._transport: asyncio.Transport | None = None
        self._keep_alive = True
        self._overhead = 0
        self.idle_since = 0.0
        self.closed = False
        self._lost = False
        """The other end closed it."""
        self.asked_for = False
        """The data of this turn was the answer to a call, which costs the backend nothing."""
        self._unpaid_s = 0.0
        self._waiting = b""
        """Data that waits until the backend may be read again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def request(self, data: bytes, receiver: Receiver) -> None:
        """Send a whole request and hand its response to `receiver`."""
        self._receiver = receiver
        self._status = 0
        self._headers = {}
        self._overhead = 0
        self._parser = httptools.HttpResponseParser(self)
        assert self._transport is not None
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._waiting:
            self._waiting += data  # the transport had read it before it was paused
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        """Parse as much as this turn allows; the rest waits, and no more is read meanwhile."""
        began = time.perf_counter()
        self.asked_for = False
        at = 0
        while at < len(data) and not self.closed:
            size = _SMALL_SLICE if _has_many_lines(data, at) else _SLICE
            self._feed(data[at : at + size])
            at += size
            if time.perf_counter() - began > TURN_S:
                break
        self._unpaid_s = 0.0 if self.asked_for else self._unpaid_s + time.perf_counter() - began
        rest_s = 0.0
        if self._unpaid_s > TURN_S:  # what leads to an answer, such as its head, is paid for by the answer
            rest_s, self._unpaid_s = self._pool.pace.spend(self._unpaid_s), 0.0
        self._waiting = data[at:]
        if not self.closed and (rest_s or self._waiting) and self._transport is not None:
            if not self._lost:
                self._transport.pause_reading()
            asyncio.get_running_loop().call_later(rest_s, self._go_on)

    def _go_on(self) -> None:
        """The backend may be read again."""
        if self.closed or self._transport is None:
            return
        waiting, self._waiting = self._waiting, b""
        if not self._lost:
            self._transport.resume_reading()
        if waiting:
            self._take(waiting)
        if self._lost and not self._waiting:
            self._end()

    def _feed(self, data: bytes) -> None:
        if self._parser is None:
            self.abort()  # a response without a request
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"it does not speak HTTP: {error}")
        if self._overhead > _MAX_OVERHEAD:
            self._break(f"it sent {_MAX_OVERHEAD} bytes of headers without an end")

    @property
    def open(self) -> bool:
        """Whether a request can be sent: the transport may be closing before it reports that."""
        return not self.closed and self._transport is not None and not self._transport.is_closing()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._pool.forget(self)
        if self.closed or not self._waiting:  # else it ended while it was not read, and what it had said counts
            self._end()

    def _end(self) -> None:
        """The connection is over: end the response on it."""
        self.closed = True
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._parser is not None and self._status and "content-length" not in self._headers and not self._chunked:
            receiver.on_end()  # RFC 9112 6.3: the end of the connection is the end of the body
        else:
            self._pool.broke()
            receiver.on_broken("it closed the connection before the response was complete")

    @property
    def _chunked(self) -> bool:
        return "chunked" in self._headers.get("transfer-encoding", "").lower()

    # httptools callbacks

    def on_message_begin(self) -> None:
        self._status = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        if self._receiver is not None and self._status >= 200:
            self._receiver.on_head(self._status, self._headers)

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        if self._receiver is not None:
            self._receiver.on_data(body)

    def on_message_complete(self) -> None:
        if 100 <= self._status < 200:
            return
        receiver, self._receiver = self._receiver, None
        if self._keep_alive and not self.closed:
            self._parser = None
            self._pool.give_back(self)
        else:
            self.abort()
        if receiver is not None:
            receiver.on_end()

    def _break(self, why: str) -> None:
        receiver, self._receiver = self._receiver, None
        self.abort()
        if receiver is not None:
            receiver.on_broken(why)

    def abort(self) -> None:
        """Close now; the receiver is notified unless its response is complete."""
        self.closed = True
        self._pool.forget(self)
        if self._lost:
            self._end()
        elif self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Close now, without notifying the receiver."""
        self._receiver = None
        self.abort()


def _has_many_lines(data: bytes, at: int) -> bool:
    """Whether the slice there has many line ends, of any kind that an event stream may use."""
    end = at + _SLICE
    return data.count(b"\n", at, end) > _MANY_LINES or data.count(b"\r", at, end) > _MANY_LINES


Dial = Callable[[Callable[[], Connection]], Awaitable[Connection]]
"""Makes a connection with the protocol that the factory gives. Raises OSError."""


class Pool:
    """The connections to one backend."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self.pace = Pace()
        """What the backend may take of the loop for output that no client asked for; shared by all its connections."""
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._dialing = 0
        self._standing: set[Connection] = set()
        self.breaks = 0
        self.closed = False

    async def stand(self) -> Connection:
        """A connection for a stream that stays open. Raises PeerClosed; ConnectFailed when the port is closed."""
        most = _MAX_OPEN // 2
        if len(self._standing) < most:
            connection = await self.take()
            if len(self._standing) < most:  # others may have been faster
                self._standing.add(connection)
                return connection
            self.give_back(connection)
        raise PeerClosed(f"{most} streams of it are open already")

    async def take(self) -> Connection:
        """A connection ready for a request. Raises PeerClosed; ConnectFailed when the port is closed."""
        idle = self._idle
        oldest = time.monotonic() - _IDLE_S
        while idle:
            connection = idle.pop()
            if connection.open and connection.idle_since >= oldest:
                return connection
            connection.drop()
        self._check_open()
        if len(self._open) + self._dialing >= _MAX_OPEN:
            raise PeerClosed(f"{_MAX_OPEN} connections to it are open already")
        self._dialing += 1
        try:
            connection = await self._dial(lambda: Connection(self))
        except (OSError, TimeoutError) as error:
            raise ConnectFailed(f"no connection: {error or type(error).__name__}") from error
        finally:
            self._dialing -= 1
        if not connection.open:
            raise ConnectFailed("no connection: it was closed at once")
        try:
            self._check_open()
        except PeerClosed:
            connection.drop()
            raise
        self._open.add(connection)
        return connection

    def _check_open(self) -> None:
        if self.closed:
            raise PeerClosed("the connection was closed")

    def give_back(self, connection: Connection) -> None:
        """The connection may serve another request."""
        self._standing.discard(connection)
        if self.closed or len(self._idle) >= _MAX_IDLE or connection.breaks != self.breaks:
            connection.drop()
        else:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)

    def broke(self) -> None:
        """A connection broke: if its process ended, the others will end in a moment, and a request on one would be lost. So
        older connections are not used again."""
        self.breaks += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.drop()

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._open.discard(connection)
        self._standing.discard(connection)

    def close(self) -> None:
        """Close all connections; requests in flight break."""
        self.closed = True
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()


def dial_url(host: str, port: int, context: tls.SSLContext | None) -> Dial:
    """Dials a remote server."""

    async def dial(factory: Callable[[], Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(15):
            _, connection = await loop.create_connection(
                factory, host, port, ssl=context, server_hostname=host if context else None
            )
        return connection

    return dial

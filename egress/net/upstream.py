"""Connections to the outside: to an address, or with a socket that a connector dialled."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from egress.net.dial_error import DialError
from egress.net.poller import Poller
from egress.net.stream import Stream
from egress.policy.names import IP, text_of
from observability.events import Reason

CONNECT_TIMEOUT_S = 10.0


class Dialling:
    """A connection attempt to exactly one address. `outcome` is None while it is under way.

    `on_done` is called once, later, unless there is an outcome already. A caller that stops waiting calls `abandon`.
    """

    __slots__ = ("address", "on_done", "outcome", "poller", "port", "sock")

    def __init__(self, poller: Poller, address: IP, port: int) -> None:
        self.poller = poller
        self.address = address
        self.port = port
        self.outcome: Stream | DialError | None = None
        self.on_done: Callable[[], None] | None = None
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.outcome = DialError(*failure(address, port, error))
            return
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connect()
            if self.outcome is None:
                self.connect()  # a connection on the loopback is made at once; a second connect() reports it
            if self.outcome is None:
                poller.watch(self.sock.fileno(), self.ready, writable=True)
        except OSError as error:
            self.fail(error)

    def connect(self) -> None:
        """Start the connect, or ask for its outcome. Raises OSError when it failed."""
        code = self.sock.connect_ex((text_of(self.address), self.port))
        if code in (0, errno.EISCONN):
            self.outcome = Stream(self.poller, self.sock, watched=self.sock.fileno() in self.poller.handlers)
        elif code not in (errno.EINPROGRESS, errno.EALREADY):
            raise OSError(code, os.strerror(code))

    def ready(self, events: int) -> None:
        """Called by the poller."""
        try:
            self.connect()
            if isinstance(self.outcome, Stream):
                self.outcome.ready(events)  # the server's first words may have come with the connection
        except OSError as error:
            self.fail(error)
        if self.outcome is not None and self.on_done is not None:
            self.on_done()

    def fail(self, error: OSError) -> None:
        self.close()
        self.outcome = DialError(*failure(self.address, self.port, error))

    def close(self) -> None:
        self.poller.forget(self.sock.fileno())
        self.sock.close()

    def abandon(self) -> None:
        """Close it: its caller does not wait any more."""
        if isinstance(self.outcome, Stream):
            self.outcome.abort()
        elif self.outcome is None:
            self.close()
            self.outcome = DialError(Reason.CONNECT_FAILED, "given up")

    def late(self, timeout_s: float) -> DialError:
        """The error of a connection that was not there after `timeout_s`."""
        return DialError(Reason.CONNECT_TIMEOUT, f"{self.address} port {self.port} did not answer in {timeout_s:g} s")


async def dial(poller: Poller, address: IP, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> Stream:
    """A connection to exactly that address. Raises DialError."""
    dialling = Dialling(poller, address, port)
    if dialling.outcome is None:
        done = asyncio.Event()
        dialling.on_done = done.set
        try:
            async with asyncio.timeout(timeout_s):
                await done.wait()
        except TimeoutError:
            dialling.abandon()
            raise dialling.late(timeout_s) from None
        except asyncio.CancelledError:
            dialling.abandon()
            raise
    if isinstance(dialling.outcome, Stream):
        return dialling.outcome
    raise dialling.outcome or dialling.late(timeout_s)


def failure(address: IP, port: int, error: OSError) -> tuple[Reason, str, int]:
    """What a failed connect means."""
    reason = Reason.CONNECT_TIMEOUT if error.errno == errno.ETIMEDOUT else Reason.CONNECT_FAILED
    text = os.strerror(error.errno) if error.errno else str(error)
    return reason, f"connecting to {address} port {port} failed: {text}", error.errno or 0


def adopt(poller: Poller, sock: socket.socket) -> Stream:
    """A stream on a connected socket that another process passed. Raises DialError, and has closed the socket then."""
    try:
        sock.setblocking(False)
        return Stream(poller, sock, passed=True)
    except OSError as error:
        sock.close()
        raise DialError(Reason.CONNECT_FAILED, f"the socket failed: {error}") from error

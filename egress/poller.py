"""Readiness of the sockets that carry traffic: one epoll of our own inside the event loop.

Theory of operation
-------------------
An event loop's transports cost more than the traffic itself when connections are short: objects, callbacks and system
calls for each. Here a connection is a non-blocking socket and one function, and the event loop watches a single
descriptor, the epoll's. Everything is edge-triggered (epoll(7)): a handler is called when something *may* have become
readable or writable, and must read or write until the kernel says that it would block, or remember that it did not.
An event may be stale (its descriptor was closed and opened again within the same batch), so handlers believe what recv
and send say, never the flags alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

READABLE = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
WRITABLE = select.EPOLLOUT
URGENT = select.EPOLLPRI
BROKEN = select.EPOLLHUP | select.EPOLLERR
ENDED = select.EPOLLRDHUP | URGENT | BROKEN
"""Flags after which one read is not enough: an end, an error or more data (a read stops at an urgent mark) waits behind
what it got, and comes without a new event."""
EVENTS_AT_ONCE = 256
SCRATCH_BYTES = 64 * 1024

Handler = Callable[[int], None]
"""Called with the epoll flags."""


class Corked(Protocol):
    """Holds back what was written while a batch was handled."""

    def uncork(self) -> None:
        """The batch is over: send it."""


class Poller:
    """Calls the handler of each descriptor that may be ready."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.handlers: dict[int, Handler] = {}
        self.passed: set[int] = set()
        """Descriptors that another process may have a copy of."""
        self.failed: set[int] = set()
        """Descriptors whose handler failed once."""
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        """Where bytes pass through that nobody keeps."""
        self.corked: list[Corked] | None = None
        """While a batch is handled: who has something to send when it is over.

        A send often wakes the process that receives it, and that is dear; sent one after the other, many find it awake.
        """
        self.epoll = select.epoll()
        loop.add_reader(self.epoll.fileno(), self.dispatch)

    def watch(self, fd: int, handler: Handler, *, writable: bool = False, passed: bool = False) -> None:
        """Watch a descriptor; `passed`: another process made it. Raises OSError (no memory, too many watches)."""
        self.epoll.register(fd, READABLE | WRITABLE if writable else READABLE)
        self.handlers[fd] = handler
        if passed:
            self.passed.add(fd)

    def watch_writable(self, fd: int) -> None:
        """From now on also tell when it can be written to; at once if it can already."""
        with contextlib.suppress(OSError):
            self.epoll.modify(fd, READABLE | WRITABLE)

    def forget(self, fd: int) -> None:
        """Call its handler no more. To be called just before the descriptor is closed.

        Closing takes it out of the epoll, unless there is a copy elsewhere (epoll(7), question 6).
        """
        self.handlers.pop(fd, None)
        self.failed.discard(fd)
        if fd in self.passed:
            self.passed.discard(fd)
            with contextlib.suppress(OSError):
                self.epoll.unregister(fd)

    def dispatch(self) -> None:
        """Handle one batch; the event loop comes back for the next, so nothing else starves."""
        handlers = self.handlers
        corked = self.corked = []
        for fd, events in self.epoll.poll(0, EVENTS_AT_ONCE):
            handler = handlers.get(fd)
            if handler is None:
                continue
            try:
                handler(events)
            except Exception:
                logger.exception("a connection failed")
                self.fail(fd)
        self.corked = None
        for one in corked:
            try:
                one.uncork()
            except Exception:
                logger.exception("a connection failed")

    def fail(self, fd: int) -> None:
        """Its handler failed: end the connection both ways, and its handler is told of that. Once: it may fail again."""
        if fd in self.handlers and fd not in self.failed:
            self.failed.add(fd)
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.loop.remove_reader(self.epoll.fileno())
        self.epoll.close()
        self.handlers.clear()

"""Readiness of the sockets that carry traffic: an epoll of our own for each backend inside the event loop.

Theory of operation
-------------------
An event loop's transports cost more than the traffic itself when connections are short: objects, callbacks and system
calls for each. Here a connection is a non-blocking socket and one function, and the event loop watches a single
descriptor, the epoll's. Everything is edge-triggered (epoll(7)): a handler is called when something *may* have become
readable or writable, and must read or write until the kernel says that it would block, or remember that it did not
(`Poller.later`).
An event may be stale (its descriptor was closed and opened again within the same batch), so handlers believe what recv
and send say, never the flags alone.

Each backend has an epoll of its own, in which everything is that it can make ready: what it is accepted on, what it asks
names of, its connections and what they lead to. In each turn of the loop a backend has a budget of events and of time;
what is left waits, in the kernel, for the next turn. Its turn ends sooner when another backend has something ready: that is
asked every few events, of an epoll in which all their epolls are. So a backend that sends the smallest pieces over as many
connections as it may have delays itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Protocol

logger = logging.getLogger(__name__)

READABLE = select.EPOLLIN | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
WRITABLE = select.EPOLLOUT
URGENT = select.EPOLLPRI
BROKEN = select.EPOLLHUP | select.EPOLLERR
ENDED = select.EPOLLRDHUP | URGENT | BROKEN
"""Flags after which one read is not enough: an end, an error or more data (a read stops at an urgent mark) waits behind
what it got, and comes without a new event."""
LISTENING = select.EPOLLIN | select.EPOLLET
EVENTS_AT_ONCE = 1
"""How many are taken from the kernel before the poller looks at the clock and for other backends."""
EVENTS_A_TURN = 4
ALONE_AT_ONCE, ALONE_A_TURN = 16, 64
"""The same where there is one backend only, whose work holds up nothing but itself."""
LATER_A_TURN = 16
SLICE_S = 0.004
"""The longest that one backend keeps the loop while others wait, apart from the batch or piece of work in progress."""
SCRATCH_BYTES = 64 * 1024

Handler = Callable[[int], None]
"""Called with the epoll flags."""


class Corked(Protocol):
    """Holds back what was written while a batch was handled."""

    def uncork(self) -> None:
        """The batch is over: send it."""


class Poller:
    """Calls the handler of each descriptor that may be ready, within a budget for each turn of the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        scratch: memoryview | None = None,
        clock: Callable[[], float] = time.perf_counter,
        others: Pollers | None = None,
    ) -> None:
        """`others`: the pollers of all backends, of which this is one; None where there is one backend only."""
        self.loop = loop
        self.clock = clock
        self.others = others
        self.handlers: dict[int, Handler] = {}
        self.passed: set[int] = set()
        """Descriptors that another process may have a copy of."""
        self.failed: set[int] = set()
        """Descriptors whose handler failed once."""
        self.scratch = memoryview(bytearray(SCRATCH_BYTES)) if scratch is None else scratch
        """For bytes that pass through and are not kept."""
        self.corked: list[Corked] | None = None
        """While a batch is handled: the connections that have something to send when it is over.

        A send often wakes the process that receives it, which is expensive; of sends in a row, most find it awake.
        """
        self.waiting: deque[Callable[[], None]] = deque()
        """Work that goes on in a later turn."""
        self.epoll = select.epoll()
        if others is not None:
            others.epoll.register(self.epoll.fileno(), select.EPOLLIN)
        loop.add_reader(self.epoll.fileno(), self.dispatch)

    def watch(self, fd: int, handler: Handler, *, writable: bool = False, passed: bool = False) -> None:
        """Watch a descriptor; `passed`: another process made it. Raises OSError (no memory, too many watches)."""
        self.epoll.register(fd, READABLE | WRITABLE if writable else READABLE)
        self.handlers[fd] = handler
        if passed:
            self.passed.add(fd)

    def watch_listening(self, fd: int, take_some: Callable[[], bool]) -> None:
        """Watch a passed socket that is accepted or received on; it may be forgotten and watched again. Raises OSError.

        `take_some` takes what waits, up to a fair share of one turn, and says whether there may be more.
        """
        self.epoll.register(fd, LISTENING)
        self.handlers[fd] = Listening(self, fd, take_some)
        self.passed.add(fd)

    def watch_writable(self, fd: int) -> None:
        """Report writability from now on too; at once if it is writable already."""
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
        """Handle what is ready, as much as one turn allows; the event loop comes back for the rest."""
        corked = self.corked = []
        until = self.clock() + SLICE_S
        at_once, left = (ALONE_AT_ONCE, ALONE_A_TURN) if self.is_alone else (EVENTS_AT_ONCE, EVENTS_A_TURN)
        while left > 0:
            batch = self.epoll.poll(0, at_once)
            self.handle(batch)
            left -= len(batch)
            if len(batch) < at_once or self.clock() >= until or self.others_wait():
                break
        self.corked = None
        for one in corked:
            try:
                one.uncork()
            except Exception:
                logger.exception("a connection failed")

    @property
    def is_alone(self) -> bool:
        """Whether there is no other backend."""
        return self.others is None or len(self.others.by_name) < 2

    def others_wait(self) -> bool:
        """Whether another backend has something ready."""
        if self.others is None or self.is_alone:
            return False
        own = self.epoll.fileno()
        return any(fd != own for fd, _ in self.others.epoll.poll(0, 2))

    def handle(self, batch: list[tuple[int, int]]) -> None:
        handlers = self.handlers
        for fd, events in batch:
            handler = handlers.get(fd)
            if handler is None:
                continue
            try:
                handler(events)
            except Exception:
                logger.exception("a connection failed")
                self.fail(fd)

    def later(self, work: Callable[[], None]) -> None:
        """Run `work` in a later turn, after the work that is queued already."""
        self.waiting.append(work)
        if len(self.waiting) == 1:
            self.loop.call_soon(self.go_on)

    async def turn(self) -> None:
        """Let other connections have their turn, as `later` does."""
        done: asyncio.Future[None] = self.loop.create_future()
        self.later(lambda: None if done.done() else done.set_result(None))
        await done

    def go_on(self) -> None:
        """Run queued work, as much as one turn allows."""
        until = self.clock() + SLICE_S
        for _ in range(min(LATER_A_TURN, len(self.waiting))):
            try:
                self.waiting[0]()
            except Exception:
                logger.exception("a connection failed")
            self.waiting.popleft()
            if self.clock() >= until or self.others_wait():
                break
        if self.waiting:
            self.loop.call_soon(self.go_on)

    def fail(self, fd: int) -> None:
        """Its handler failed: shut down the connection, which calls the handler again. Once only: it may fail again."""
        if fd in self.handlers and fd not in self.failed:
            self.failed.add(fd)
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.others = None  # work that was put off may still come
        self.loop.remove_reader(self.epoll.fileno())
        self.epoll.close()
        self.handlers.clear()


class Listening:
    """The handler of a socket that any number of connections or datagrams may wait on: the rest is taken in later turns."""

    __slots__ = ("fd", "poller", "queued", "take_some")

    def __init__(self, poller: Poller, fd: int, take_some: Callable[[], bool]) -> None:
        self.poller = poller
        self.fd = fd
        self.take_some = take_some
        self.queued = False
        """It is queued for a later turn."""

    def __call__(self, _: int) -> None:
        if self.queued:
            return
        try:
            more = self.take_some()
        except Exception:
            logger.exception("what waited at a listener failed")
            more = True  # one that failed is no reason to leave the others waiting
        if more:
            self.queued = True
            self.poller.later(self.go_on)

    def go_on(self) -> None:
        self.queued = False
        if self.poller.handlers.get(self.fd) is self:
            self(0)


class Pollers:
    """The poller of each backend, by its name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self.epoll = select.epoll()
        """In which all their epolls are."""
        self.by_name: dict[str, Poller] = {}

    def of(self, backend: str) -> Poller:
        """Raises OSError when there is no descriptor left."""
        if backend not in self.by_name:
            self.by_name[backend] = Poller(self.loop, self.scratch, others=self)
        return self.by_name[backend]

    def keep(self, backends: Collection[str]) -> None:
        """Close the pollers of other backends once they watch nothing."""
        for name, poller in list(self.by_name.items()):
            if name not in backends and not poller.handlers:
                self.by_name.pop(name).close()

    def close(self) -> None:
        for poller in self.by_name.values():
            poller.close()
        self.by_name.clear()
        self.epoll.close()

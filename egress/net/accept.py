"""The accept loop of a passed listening socket.

asyncio's own loop retries for ever on an error that will not go away (a listener that was shut down, or
destroyed from inside the namespace). This one knows three kinds of error: nothing there or gone again
(EAGAIN, ECONNABORTED, …: go on), no room (EMFILE, ENFILE, ENOBUFS, ENOMEM: shed one, rest a little), and
everything else: this listener is closed and its owner notified. accept(2).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable

from egress.net.limits import FdReserve
from egress.net.poller import Poller

ACCEPTS_AT_ONCE = 16
REST_S = 0.05
UNSENT, RECEIVE_BUFFER = 1024 * 1024, 512 * 1024
"""What the kernel keeps for an accepted connection: bytes not sent yet (tcp(7), TCP_NOTSENT_LOWAT), and bytes not read yet
(socket(7); it doubles them). Left to itself it keeps up to tens of megabytes for one whose other side does not read, and all
sockets of the machine share one budget (tcp(7), tcp_mem): where that is used up, everybody's segments are dropped. It is a
short way to a backend, so more would not be faster.
"""
PASSING = frozenset({errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH})
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """Accepts on one listening socket, which it owns."""

    def __init__(
        self,
        poller: Poller,
        listener: socket.socket,
        reserve: FdReserve,
        *,
        on_connection: Callable[[socket.socket, str], bool],
        on_failure: Callable[[OSError], None],
        on_shed: Callable[[], None],
    ) -> None:
        """`on_connection` takes over a non-blocking socket and the address it came from; False asks for a rest."""
        self.poller = poller
        self.listener = listener
        self.reserve = reserve
        self.on_connection = on_connection
        self.on_failure = on_failure
        self.on_shed = on_shed
        self.resting: asyncio.TimerHandle | None = None
        self.closed = False
        listener.setblocking(False)
        with contextlib.suppress(OSError):  # what it accepts inherits all three
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        poller.watch_listening(listener.fileno(), self.accept_some)

    def accept_some(self) -> bool:
        """Accept what waits, up to a fair share of one turn of the loop; whether there may be more."""
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, peer = self.listener.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in PASSING:
                    continue
                if error.errno in NO_ROOM:
                    self.reserve.shed(self.listener)
                    self.on_shed()
                    self.rest()
                    return False
                self.close()
                self.on_failure(error)
                return False
            connection.setblocking(False)
            if not self.on_connection(connection, peer[0]):
                self.rest()
                return False
            if self.closed:
                return False
            if self.poller.others_wait():
                break
        return True

    def rest(self) -> None:
        """Leave connections in the kernel's queue for a moment: only the backend that floods waits."""
        if self.closed or self.resting is not None:
            return
        self.poller.forget(self.listener.fileno())
        self.resting = self.poller.loop.call_later(REST_S, self.resume)

    def resume(self) -> None:
        self.resting = None
        if not self.closed:
            try:
                self.poller.watch_listening(self.listener.fileno(), self.accept_some)
            except OSError as error:
                self.close()
                self.on_failure(error)

    def close(self) -> None:
        """Stop accepting and close this copy of the socket. Once is enough; more does no harm."""
        if self.closed:
            return
        self.closed = True
        if self.resting is not None:
            self.resting.cancel()
        else:
            self.poller.forget(self.listener.fileno())
        self.listener.close()

"""Budgets that keep one backend from starving the others."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time

RESERVED_FDS = 128
"""Kept free for control, doors and lookups, whatever backends do."""


class TokenBucket:
    """So many a second, so many at once. Time is passed in: seconds of `time.monotonic()`, which event loops have too."""

    __slots__ = ("burst", "rate", "tokens", "updated")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.tokens = burst
        self.updated = time.monotonic()

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        if self.tokens < 1.0:
            self.refill(now)
            if self.tokens < 1.0:
                return False
        self.tokens -= 1.0
        return True

    def refill(self, now: float) -> None:
        """Bring the tokens up to date. Called only when they run short, so the usual path is one subtraction."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.updated) * self.rate)
        self.updated = now


class FdReserve:
    """A descriptor in reserve, so that at the limit a connection can still be accepted and closed.

    Without it a full table leaves the connection in the queue and the listener readable for ever.
    """

    def __init__(self) -> None:
        self.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def shed(self, listener: socket.socket) -> None:
        """Accept one connection with the reserved descriptor and close it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.close()
        with contextlib.suppress(OSError):
            self.fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def connection_budget() -> int:
    """How many client connections this process can carry: two descriptors each, after the reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (soft - RESERVED_FDS) // 2)


def scarce(fd: int) -> bool:
    """Whether no more than a quarter of those for connections is left, by the number that a new descriptor got: the
    kernel gives the lowest free one."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return fd > (soft - RESERVED_FDS) * 3 // 4


def raise_fd_limit() -> int:
    """Lift the soft limit of descriptors to the hard one (at most a million); the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 1 << 20) if hard != resource.RLIM_INFINITY else 1 << 20
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)

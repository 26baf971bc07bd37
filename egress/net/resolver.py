"""Names to addresses. What is cached is addresses, never verdicts: every request is decided on its own."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from egress.policy.names import IP

THREADS = 64
"""Enough for the lookups of four backends, since a thread outlives the connection that waits for it (see RESOLVING)."""
LOOKUP_TIMEOUT_S = 10.0
KEEP_S = 10.0
KEEP_FAILURE_S = 1.0
MAX_KEPT = 4096
MAX_ANSWERS = 64
RESOLVING: Mapping[str, str] = {"RES_OPTIONS": "timeout:2 attempts:2", "LOCALDOMAIN": "."}
"""Environment of a process that looks names up (resolv.conf(5)): a name whose servers are silent holds a thread for
seconds, not for minutes; and no search domain of the host completes a name, for that would be another one than was allowed.
"""


class ResolveError(Exception):
    """Raised when a name has no address, or no server could be asked; the text is a sentence."""


class Resolver(Protocol):
    """Asks for all addresses of a canonical name."""

    async def resolve(self, host: str) -> tuple[IP, ...]:
        """At least one address, best first. Raises ResolveError. `host` is never an IP literal."""

    def known(self, host: str) -> tuple[IP, ...]:
        """What `resolve` would answer without asking anybody; nothing where it would ask, or raise."""


class StaticResolver:
    """Answers from a table. For tests, and wherever no lookup may leave."""

    def __init__(self, table: Mapping[str, tuple[IP, ...]]) -> None:
        self.table = dict(table)
        self.asked: list[str] = []

    async def resolve(self, host: str) -> tuple[IP, ...]:
        self.asked.append(host)
        if host not in self.table:
            raise ResolveError(f"{host} does not exist")
        return self.table[host]

    def known(self, host: str) -> tuple[IP, ...]:
        return ()


class SystemResolver:
    """The system's own: `/etc/hosts`, `/etc/resolv.conf`, whatever nsswitch.conf says.

    getaddrinfo(3) blocks, so it runs in a bounded pool of threads; one name is asked once at a time, however many
    wait for it."""

    def __init__(self, clock: Callable[[], float], *, keep_s: float = KEEP_S) -> None:
        """`clock` is a steady clock in seconds."""
        self.clock = clock
        self.keep_s = keep_s
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="resolve")
        self.kept: dict[str, tuple[float, tuple[IP, ...]]] = {}
        self.under_way: dict[str, asyncio.Future[tuple[IP, ...]]] = {}

    def known(self, host: str) -> tuple[IP, ...]:
        kept = self.kept.get(host)
        return kept[1] if kept is not None and kept[0] > self.clock() else ()

    async def resolve(self, host: str) -> tuple[IP, ...]:
        kept = self.kept.get(host)
        if kept is not None and kept[0] > self.clock():
            if not kept[1]:
                raise ResolveError(f"{host} does not resolve")
            return kept[1]
        future = self.under_way.get(host)
        if future is None:
            future = asyncio.get_running_loop().run_in_executor(self.pool, look_up, host)
            self.under_way[host] = future
            future.add_done_callback(lambda done: self.keep(host, done))
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                addresses = await asyncio.shield(future)
        except TimeoutError:
            raise ResolveError(f"looking up {host} took longer than {LOOKUP_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise ResolveError(f"{host} does not resolve: {error.strerror}") from error
        if not addresses:
            raise ResolveError(f"{host} has no address")
        return addresses

    def keep(self, host: str, done: asyncio.Future[tuple[IP, ...]]) -> None:
        self.under_way.pop(host, None)
        if done.cancelled():
            return
        addresses = () if done.exception() is not None else done.result()
        if len(self.kept) >= MAX_KEPT:
            self.kept.clear()
        self.kept[host] = (self.clock() + (self.keep_s if addresses else KEEP_FAILURE_S), addresses)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)


def look_up(host: str) -> tuple[IP, ...]:
    """All stream addresses of `host`, in the system's order (RFC 6724). Raises OSError."""
    answers = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)
    found: dict[IP, None] = {}
    for _, _, _, _, address in answers[:MAX_ANSWERS]:
        found[ipaddress.ip_address(str(address[0]).partition("%")[0])] = None
    return tuple(found)

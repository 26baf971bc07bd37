"""Which clients share a connection to a backend, and which instance it leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.mcp.upstream.http_peer import HttpPeer
from gateway.mcp.upstream.site import Site
from gateway.mcp.upstream.stdio import StdioPeer
from gateway.mcp.wire.http_client import Connection, Pool
from gateway.runtime.sandbox.errors import BackendUnavailable

if TYPE_CHECKING:
    from gateway.runtime.sandbox.base import Instance


class Instances(Protocol):
    """The part of the supervisor that backends need."""

    async def instance(self, backend: str, session: str = "") -> Instance:
        """Starts it when it does not run. Raises BackendUnavailable."""
        ...

    def building(self, backend: str) -> float:
        """The Unix time since which nothing of it runs because an image is being built; 0 where none is."""
        ...

    async def built(self, backend: str) -> None:
        """Waits while images are being built for it."""
        ...

    async def release(self, instance_id: str) -> None:
        """End a session's own instance."""
        ...

    async def renew(self, instance_id: str) -> None:
        """End what runs there; it starts again, after the pause of a crash, or at the next call."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionKey:
    """Says which clients share a connection."""

    modern: bool
    owner: str = ""
    """A session's id or a principal's digest; empty: all clients."""


@dataclass(eq=False, slots=True)
class Line:
    """A connection and the instance it leads to."""

    peer: StdioPeer | HttpPeer
    instance: Instance | None
    used: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether no client's call is under way; our own subscription to its changes is not counted."""
        return all(call.caller is None for call in self.peer.calls.values())


@dataclass(slots=True)
class Tries:
    """Consecutive failed attempts to open a connection."""

    failures: int = 0
    retry_at: float = 0.0
    error: str = ""


def instances_site(instance: Instance) -> Site:
    """The endpoint of an HTTP backend behind its door."""

    async def dial(factory: Callable[[], Connection]) -> Connection:
        try:
            sock = await instance.connect()
        except BackendUnavailable as error:
            raise OSError(error.sentence) from error
        _, connection = await asyncio.get_running_loop().create_connection(factory, sock=sock)
        return connection

    return Site(Pool(dial), instance.path, f"127.0.0.1:{instance.port}")

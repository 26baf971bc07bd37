"""Makes a backend's connections, up to their greeting: which instance they lead to, and how.

A remote server has one site. An HTTP backend has a site for each of its instances. A pipe leads to the instance of the
session that owns it, or to a shared one: the first generation of the protocol that a client speaks has the backend's own
instance, the other generation an instance of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Tracer

from gateway.mcp.call.messages import Sink
from gateway.mcp.upstream.http_peer import HttpPeer
from gateway.mcp.upstream.sharing import ConnectionKey, Instances, Line, instances_site
from gateway.mcp.upstream.site import Site
from gateway.mcp.upstream.stdio import StdioPeer
from gateway.mcp.wire.tasks import Tasks
from gateway.pace import Pace
from registry.model.fields import Sessions, Transport
from registry.model.server import Server

if TYPE_CHECKING:
    from gateway.runtime.sandbox.base import Instance

_SHORT: Final = 12
"""Characters of an owner's id that name its instance."""


class Connector:
    """The instances and sites of one backend, and the connections to them."""

    def __init__(
        self,
        name: str,
        instances: Instances,
        sink: Sink,
        tasks: Tasks,
        pace: Pace,
        remote: Callable[[], Site] | None,
        tracer: Tracer | None,
    ) -> None:
        """`pace` is what all connections together may take of the loop; `remote` makes the site of a remote server."""
        self._name = name
        self._instances = instances
        self._sink = sink
        self._tasks = tasks
        self._pace = pace
        self._make_remote = remote
        self._tracer = tracer
        self._remote_site: Site | None = None
        self._sites: dict[str, tuple[Instance, Site]] = {}
        self._shared: dict[bool, str] = {}
        """The instance of the shared pipe of each generation (True: modern)."""

    @property
    def remote(self) -> bool:
        """Whether it is a remote server, whose process is not ours to wait for."""
        return self._make_remote is not None

    async def connect(self, key: ConnectionKey, server: Server) -> Line:
        """A connection, not greeted yet. Raises BackendUnavailable, ConfigError, OSError."""
        if self._make_remote is not None:
            site = self._remote_site or await self._make_site(self._make_remote)
            return Line(self._over_http(site, key), None)
        if server.transport is not Transport.STDIO:
            owner = key.owner[:_SHORT] if server.sessions is Sessions.PER_CLIENT else ""
            instance = await self._instances.instance(self._name, owner)
            return Line(self._over_http(self._site(instance), key, instance.id), instance)
        instance = await self._instances.instance(self._name, key.owner[:_SHORT] or self._shared_pipe(key.modern))
        reader, writer = await instance.attach()
        peer = StdioPeer(
            reader,
            writer,
            self._sink,
            self._tasks,
            door=instance.id,
            pace=self._pace,
            tracer=self._tracer,
            on_stray=instance.take_stray,
        )
        return Line(peer, instance)

    def _over_http(self, site: Site, key: ConnectionKey, door: str = "") -> HttpPeer:
        return HttpPeer(site, self._sink, self._tasks, door=door, modern=key.modern, tracer=self._tracer)

    async def _make_site(self, make: Callable[[], Site]) -> Site:
        made = await asyncio.to_thread(make)
        if self._remote_site is None:
            self._remote_site = made
            made.pool.pace = self._pace
        return self._remote_site

    def _shared_pipe(self, modern: bool) -> str:
        if modern not in self._shared:
            self._shared[modern] = "" if not self._shared else "modern" if modern else "legacy"
        return self._shared[modern]

    def speaks(self, modern: bool, *, instead_of: bool) -> None:
        """A shared pipe turned out to speak the other generation: its instance is that one's."""
        if instead_of in self._shared:
            self._shared[modern] = self._shared.pop(instead_of)

    def _site(self, instance: Instance) -> Site:
        known = self._sites.get(instance.id)
        if known is None or known[0] is not instance:
            if known is not None:
                known[1].pool.close()
            known = self._sites[instance.id] = (instance, instances_site(instance))
            known[1].pool.pace = self._pace
        return known[1]

    def forget(self, instance: Instance) -> None:
        """The instance cannot be reached: close all connections to it."""
        if (known := self._sites.pop(instance.id, None)) is not None:
            known[1].pool.close()

    def close(self) -> None:
        """Close all connections over HTTP; a pipe closes with its peer."""
        for _, site in self._sites.values():
            site.pool.close()
        if self._remote_site is not None:
            self._remote_site.pool.close()

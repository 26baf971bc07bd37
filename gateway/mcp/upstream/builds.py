"""While a server's image is being built: no list and no greeting waits for that; clients hear of its lists afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Final

from gateway.mcp.upstream.catalog import BackendCatalog
from gateway.mcp.upstream.sharing import Instances
from gateway.mcp.view.listing import Kind
from gateway.mcp.wire.errors import BACKEND_UNAVAILABLE, UNAVAILABLE, RpcError, unavailable
from gateway.mcp.wire.tasks import Tasks
from gateway.runtime.sandbox.errors import BackendUnavailable, StillBuilding

SHORT_S: Final = 5.0
"""An image that is there is found in less, and a gateway whose images are there starts in about that time; only what takes
longer counts as a build."""


class BeingBuilt(RpcError):
    """Raised when a request is not to wait any longer for an image."""


def refusal(backend: str, error: BackendUnavailable) -> RpcError:
    """The error for a client of a backend that is not available."""
    found = unavailable(backend, error.sentence)
    if isinstance(error, StillBuilding):
        return BeingBuilt(BACKEND_UNAVAILABLE, found.message, found.data, kind=UNAVAILABLE, reason=found.reason)
    return found


class Builds:
    """The builds of one backend's image, as its clients see them."""

    def __init__(self, backend: str, instances: Instances, tasks: Tasks, catalog: BackendCatalog) -> None:
        self._backend = backend
        self._instances = instances
        self._tasks = tasks
        self._catalog = catalog
        self._following: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether nothing of it runs because its image is being built; its lists are read when it is up."""
        since = self._instances.building(self._backend)
        if not since or time.time() - since < SHORT_S:
            return False
        self.follow()
        return True

    def follow(self) -> None:
        """Read its lists after the build, which tells the clients that have none of it yet."""
        if self._following is None or self._following.done():
            self._following = self._tasks.spawn(self._follow())

    async def _follow(self) -> None:
        await self._instances.built(self._backend)
        for kind in Kind:
            with contextlib.suppress(RpcError):
                await self._catalog.listing(kind)

"""Reads from the engine which containers ended, and resolves the futures of those that are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.runtime.engine.base import PROJECT_LABEL, Change, ContainerChange, ContainerEngine
from gateway.runtime.inventory.context import Exits
from gateway.runtime.sandbox.errors import EngineError

REWATCH_S: Final = 1.0


class ExitWatch:
    """The engine's events about one project's containers, for as long as there is an engine; it comes back when it does."""

    def __init__(self, engine: ContainerEngine, project: str, exits: Exits, away: Callable[[str], None]) -> None:
        """`away` is called with the reason, once each time the engine's events cannot be read."""
        self.engine = engine
        self.project = project
        self.exits = exits
        self.away = away

    async def run(self) -> None:
        """Until it is cancelled."""
        reported = ""
        while True:
            try:
                async for change in self.engine.watch({PROJECT_LABEL: self.project}):
                    reported = ""
                    await self.heard(change)
            except EngineError as error:
                if str(error) != reported:
                    reported = str(error)
                    self.away(reported)
            await asyncio.sleep(REWATCH_S)

    async def heard(self, change: ContainerChange) -> None:
        """One change on the engine."""
        match change.change:
            case Change.RESYNC:
                for container in [c for c, future in self.exits.waiting.items() if not future.done()]:
                    await self.look(container)
            case Change.DIED | Change.REMOVED:
                await self.look(change.container)
            case Change.STARTED:
                pass

    async def look(self, container: str) -> None:
        """Resolves that container's future if it has ended (an event may be about an earlier incarnation)."""
        if container not in self.exits.waiting:
            return
        info = await self.engine.inspect(container)
        if info is None or info.finished:
            self.exits.tell(container, info.exit_code if info else 137)

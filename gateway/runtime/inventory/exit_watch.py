"""Hears from the engine which containers ended, and tells those who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.runtime.engine.base import Change, ContainerChange, Engine
from gateway.runtime.engine.errors import EngineError
from gateway.runtime.inventory.context import Exits

REWATCH_S: Final = 1.0


class ExitWatch:
    """The engine's events about one project's containers, for as long as there is an engine; it comes back when it does."""

    def __init__(self, engine: Engine, project: str, exits: Exits, away: Callable[[str], None]) -> None:
        """`away` is told, once each time, why the engine cannot be listened to."""
        self.engine = engine
        self.project = project
        self.exits = exits
        self.away = away

    async def run(self) -> None:
        """Until it is cancelled."""
        told = ""
        while True:
            try:
                async for change in self.engine.watch({"stockade.project": self.project}):
                    told = ""
                    await self.heard(change)
            except EngineError as error:
                if str(error) != told:
                    told = str(error)
                    self.away(told)
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
        """Tells who waits for that container, if it has ended (an event may be about an earlier life)."""
        if container not in self.exits.waiting:
            return
        info = await self.engine.inspect(container)
        if info is None or info.finished:
            self.exits.tell(container, info.exit_code if info else 137)

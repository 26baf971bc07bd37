"""Starts servers again whose source has changed (`watch: true`), once it has stayed the same between two looks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError
from registry.model.server import Server

logger = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Between two looks; a poll works on every file system, also where a folder is replaced."""


class SourceWatch:
    """Polls the folders of the servers that want it."""

    def __init__(
        self,
        servers: Callable[[], Mapping[str, Server]],
        look: Callable[[Server], str],
        restart: Callable[[str], Awaitable[None]],
    ) -> None:
        """`look` gives what can be seen of a server's source, empty for nothing; it runs in a thread."""
        self.servers = servers
        self.look = look
        self.restart = restart
        self.running: dict[str, str] = {}
        """Backend -> the source that it was started with."""
        self.last: dict[str, str] = {}
        """Backend -> the source at the last look."""
        self.failing: dict[str, str] = {}
        """Backend -> the error that was logged of it, until a look succeeds."""

    async def run(self) -> None:
        """Never returns; cancel it."""
        while True:
            try:
                await self.look_once()
            except Exception:
                logger.exception("the folders of servers could not be looked at")
            await asyncio.sleep(LOOK_S)

    async def look_once(self) -> None:
        """Looks at each of them, and starts those again that have a new source; an error is of one server alone."""
        wanted = {name: server for name, server in self.servers().items() if server.watch}
        for gone in self.last.keys() - wanted.keys():
            del self.last[gone], self.running[gone]
        for gone in self.failing.keys() - wanted.keys():
            del self.failing[gone]
        for name, server in wanted.items():
            try:
                await self.look_at(name, server)
            except Exception as error:
                if self.failing.get(name) != repr(error):
                    logger.exception("server %s: its source could not be looked at", name)
                self.failing[name] = repr(error)
            else:
                self.failing.pop(name, None)

    async def look_at(self, name: str, server: Server) -> None:
        """One look at one server, and its restart where its source is new."""
        now = await asyncio.to_thread(self.look, server)
        settled = now == self.last.get(name, now)
        self.last[name] = now
        if self.running.setdefault(name, now) != now and settled and now:
            self.running[name] = now
            await self.start_again(name)

    async def start_again(self, name: str) -> None:
        """One restart; where it is refused, the next change tries again."""
        logger.info("server %s: its source has changed, so it is started again", name)
        try:
            await self.restart(name)
        except (EngineError, BackendUnavailable) as error:
            logger.warning("server %s could not be started again: %s", name, error)

"""Watches the configuration file, and calls back when its content changes.

A file that is written in place is incomplete for a while: it is read only once it has not changed between two polls.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

POLL_S = 0.5


class ConfigWatcher:
    """Polls one file (a poll works on every file system and survives editors that replace the file)."""

    def __init__(self, path: Path, on_change: Callable[[], Awaitable[None]], *, poll_s: float = POLL_S) -> None:
        """`on_change` is awaited once per new content; it must handle its own errors."""
        self._path = path
        self._on_change = on_change
        self._poll_s = poll_s
        self._stamp = self._last = self._look()
        self._seen = self._digest()

    async def run(self) -> None:
        """Never returns; cancel it."""
        while True:
            await asyncio.sleep(self._poll_s)
            await self.look()

    async def look(self) -> None:
        """Poll once. A change is reported once it is the same in two polls."""
        stamp, self._last = self._last, self._look()
        if stamp != self._last or stamp == self._stamp:
            return
        self._stamp = stamp
        if (digest := self._digest()) != self._seen:
            self._seen = digest
            await self._on_change()

    def acknowledge(self) -> None:
        """Treat the current content as known: a change of our own needs no callback."""
        self._stamp = self._last = self._look()
        self._seen = self._digest()

    def _look(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _digest(self) -> bytes:
        try:
            return hashlib.sha256(self._path.read_bytes()).digest()
        except OSError:
            return b""

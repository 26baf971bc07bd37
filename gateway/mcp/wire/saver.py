"""A file that is written in a thread after each change, at most once in an interval."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

EVERY_S: Final = 1.0


class Saver:
    """Writes the text that `snapshot` gives. Only it knows whether something is new. Without a loop it writes at once."""

    def __init__(
        self,
        path: Path | None,
        what: str,
        snapshot: Callable[[], Callable[[], Iterable[str]]],
        *,
        every_s: float = EVERY_S,
    ) -> None:
        """`snapshot` is called on the loop and must be quick; what it returns makes the text, piece by piece, in a thread
        (the interpreter changes threads between pieces only, so none may be long). `what` begins an error's sentence."""
        self._path = path
        self._what = what
        self._snapshot = snapshot
        self._every_s = every_s
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._dirty = False
        self.writes = 0

    def soon(self) -> None:
        """There is something new to write."""
        if self._path is None:
            return
        self._dirty = True
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.now()
            return
        if self._timer is None:
            self._timer = loop.call_later(self._every_s, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self._path is None or not self._dirty:
            return
        loop = asyncio.get_running_loop()
        if self._writing is not None and not self._writing.done():
            self._timer = loop.call_later(self._every_s, self._begin)
            return
        self._dirty = False
        self._writing = loop.run_in_executor(None, self._write, self._path, self._snapshot())

    def now(self) -> None:
        """Write what is new before this returns, for use without a running loop."""
        if self._path is not None and self._dirty:
            self._dirty = False
            self._write(self._path, self._snapshot())

    async def close(self) -> None:
        """Write what is new, and wait until it is written."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._path is not None and self._dirty:
            self._dirty = False
            await asyncio.to_thread(self._write, self._path, self._snapshot())

    def _write(self, path: Path, text: Callable[[], Iterable[str]]) -> None:
        self.writes += 1
        draft = path.with_suffix(".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                file.writelines(text())
            os.replace(draft, path)
        except (OSError, ValueError, RecursionError) as error:
            logger.warning("%s cannot be kept: %s", self._what, error)

"""One gateway at a time builds an image: two that start together would each build it, and the engine keep both."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.25
LONGEST_S: Final = 1800.0
"""After that it is built all the same: twice is better than never."""


@contextlib.asynccontextmanager
async def turn(folder: Path | None, name: str) -> AsyncIterator[None]:
    """Waits while another process holds the turn of this name; `folder` is where they meet, None: nowhere.

    A process that dies gives it back.
    """
    if folder is None:
        yield
        return
    with (folder / f".{name}.lock").open("a") as file:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_S):
                while not taken(file.fileno()):  # noqa: ASYNC110  # another process gives it back
                    await asyncio.sleep(LOOK_S)
        yield


def taken(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

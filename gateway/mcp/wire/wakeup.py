"""A wake-up for one waiting task: cheaper than `asyncio.Event`, and used on every call."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Wakes the one task that waits."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """Let the waiting task look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the next `wake`. Check your condition first: a `wake` without a waiter is lost."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

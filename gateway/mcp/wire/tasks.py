"""An owner for tasks that outlive the function which starts them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class Tasks:
    """A set of running tasks; `close` ends them all. No task of the endpoint starts anywhere else."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start `work`, which nothing waits for: an error of it is logged and affects no other task."""
        task = self._start(self._guard(work))
        task.add_done_callback(lambda _: work.close())  # a task that is cancelled before it began never runs it
        return task

    def begin(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start `work` for a caller that awaits its result; an error that it does not wait for is dropped."""
        task = self._start(work)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    def _start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("a task of the MCP endpoint failed")

    async def close(self) -> None:
        """Cancel what runs and wait for it."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

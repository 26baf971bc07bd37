"""Runs an action at once when first asked, then at most once in an interval, without losing the last request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, Final

EVERY_S: Final = 1.0


class Coalesced:
    """Runs actions by key; one that is asked for again within the interval runs once, at its end."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._resting: dict[Hashable, tuple[asyncio.TimerHandle, Callable[[], Any] | None]] = {}
        self.saved = 0
        """How many requests were merged into a later one."""

    def ask(self, key: Hashable, act: Callable[[], Any]) -> None:
        """Run `act` now, or at the end of the interval in which an action of this key ran."""
        resting = self._resting.get(key)
        if resting is None:
            self._do(key, act)
        else:
            self.saved += resting[1] is not None
            self._resting[key] = (resting[0], act)

    def _do(self, key: Hashable, act: Callable[[], Any]) -> None:
        timer = asyncio.get_running_loop().call_later(self._every_s, self._rested, key)
        self._resting[key] = (timer, None)
        act()

    def _rested(self, key: Hashable) -> None:
        _, waiting = self._resting.pop(key)
        if waiting is not None:
            self._do(key, waiting)

    def close(self) -> None:
        """Cancel all waiting actions."""
        for timer, _ in self._resting.values():
            timer.cancel()
        self._resting.clear()

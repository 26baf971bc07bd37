"""How much of the event loop's time one backend may take for what nobody asked of it.

Theory of operation. All backends and clients are served by one loop, so whoever floods it keeps it from the others. The
work that a backend's answers make is bounded by what clients ask; everything else (notifications, requests, log lines,
garbage) is paid for from an allowance in seconds of loop time: `SHARE` of the time that passes, at most `TURN_S` of it in
one turn. Who has spent it is not read until it has earned some again: the pipe fills, and the backend waits in `write`.
Nothing is lost by that, and a neighbour's call meets at most `TURN_S` of the flood's work in any turn of the loop.

A message has a fixed price, since part of its work is done later, by others (the client's stream is written to, a task is
started), and since a clock that is looked at for each of them also counts what other processes did meanwhile. Only one
that took much longer, because many have to hear of it, costs what it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TURN_S: Final = 0.0005
SHARE: Final = 0.2
CREDIT_S: Final = 0.05
"""So much time without work is made up for later: a loop that is busy wakes everybody late."""
AT_ONCE_S: Final = 1e-6
"""The rest of who has credit: until others had their turn."""
MAX_REST_S: Final = 2.0
"""The longest rest: one very expensive message must not silence a backend for minutes."""
SAY_EVERY_S: Final = 5.0
"""After so many seconds of rest in all, `on_slow` is called."""

PRICE_GARBAGE_S: Final = 20e-6
PRICE_NOTIFICATION_S: Final = 30e-6
PRICE_REQUEST_S: Final = 200e-6
PRICE_BYTE_S: Final = 20e-9
_EXPENSIVE_S: Final = 500e-6


def price(fixed_s: float, took_s: float) -> float:
    """What a message costs that took so long."""
    return took_s if took_s > _EXPENSIVE_S else fixed_s


class Pace:
    """The allowance of one backend, or of one of its channels. All its readers share it."""

    __slots__ = ("_clock", "_paid_until", "_said_s", "_turn_s", "on_slow", "rested_s", "rests")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._paid_until = 0.0
        self._turn_s = 0.0
        self._said_s = 0.0
        self.on_slow: Callable[[], object] = lambda: None
        """Called when the backend has had to rest for another `SAY_EVERY_S` in all."""
        self.rested_s = 0.0
        self.rests = 0

    def spend(self, work_s: float) -> float:
        """Pay for work that was done. Returns how many seconds to rest before anything more is read; 0 for none."""
        now = self._clock()
        self._paid_until = min(max(self._paid_until, now - CREDIT_S) + work_s / SHARE, now + MAX_REST_S)
        self._turn_s += work_s
        if self._turn_s < TURN_S:
            return 0.0
        self._turn_s = 0.0
        ahead_s = max(self._paid_until - now, AT_ONCE_S)
        self.rests += 1
        self.rested_s += ahead_s
        if self.rested_s - self._said_s >= SAY_EVERY_S:
            self._said_s = self.rested_s
            self.on_slow()
        return ahead_s

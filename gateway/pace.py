"""How much of the event loop's time one backend may take for output that no client asked for.

Theory of operation. One loop serves all backends and clients, so a backend that floods it takes it from the others. The
work that a backend's answers make is bounded by what clients ask; everything else (notifications, requests, log lines,
garbage) is paid for from an allowance in seconds of loop time: `SHARE` of the time that passes, at most `TURN_S` of it in
one turn. A backend that has spent it is not read until it has earned more: the pipe fills, and it waits in `write`.
Nothing is lost, and another backend's call is delayed by at most `TURN_S` in any turn of the loop.

A message has a fixed price, for two reasons: part of its work is done later and elsewhere (a client's stream is written, a
task is started), and a clock read for each message also counts the time of other processes. Only a message that took much
longer, because it goes to many clients, costs the time it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

TURN_S: Final = 0.0005
SHARE: Final = 0.2
CREDIT_S: Final = 0.05
"""Unused time that may be spent later: a busy loop wakes every reader late."""
AT_ONCE_S: Final = 1e-6
"""The rest of a backend that has credit: just one turn for the others."""
MAX_REST_S: Final = 2.0
"""The longest rest: one very expensive message must not silence a backend for minutes."""
SAY_EVERY_S: Final = 5.0
"""`on_slow` is called after each so many seconds of rest."""

PRICE_GARBAGE_S: Final = 20e-6
PRICE_NOTIFICATION_S: Final = 30e-6
PRICE_REQUEST_S: Final = 200e-6
PRICE_BYTE_S: Final = 20e-9
_EXPENSIVE_S: Final = 500e-6


def price(fixed_s: float, took_s: float) -> float:
    """The price of a message that took `took_s`."""
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
        """Called each time the backend has had to rest for another `SAY_EVERY_S`."""
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

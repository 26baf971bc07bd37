"""A queue of events for a thread that writes them: bounded, and shared fairly among the backends.

Theory of operation. `put` runs on the event loop's thread, for each event, and never waits. The writer is not woken for
each of them: once the first is there it lets more come for `linger_s`, then takes all, so a call costs neither a switch of
threads nor a write of its own. A reader that needs what was put in (`flushed`), and the end, do not wait for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final

from observability.events import Sequenced
from observability.shares import FairRing

LINGER_S: Final = 0.1
BATCH: Final = 500


class EventQueue:
    """Filled on the event loop's thread, emptied by the writer's."""

    def __init__(self, size: int, linger_s: float = LINGER_S) -> None:
        self.size = size
        self.linger_s = linger_s
        self._ring = FairRing(size)
        self._flushes: list[threading.Event] = []
        self._closed = False
        self._lingering = False
        self._changed = threading.Condition()

    def put(self, item: Sequenced) -> bool:
        """False when an event was lost: an older one to make room or, once the queue is closed, this one."""
        with self._changed:
            if self._closed:
                return False
            fits = self._ring.append(item)
            if len(self._ring) > self.size // 2 or not self._lingering:
                self._changed.notify()
        return fits

    def flushed(self) -> threading.Event:
        """Set by the writer once everything put in before is written."""
        flush = threading.Event()
        with self._changed:
            self._flushes.append(flush)
            self._changed.notify()
        return flush

    def close(self) -> None:
        """Accept no more events: the writer takes what is queued and ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> tuple[FairRing, list[threading.Event], bool]:
        """Waits for events; returns all of them, the waiters to wake once they are written, and whether more can come."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._ring) or self._is_hurried())
            self._lingering = True
            self._changed.wait_for(lambda: len(self._ring) > self.size // 2 or self._is_hurried(), self.linger_s)
            self._lingering = False
            taken, self._ring = self._ring, FairRing(self.size)
            flushes, self._flushes = self._flushes, []
            return taken, flushes, not self._closed

    def drain(self, write: Callable[[Sequence[Sequenced]], None]) -> None:
        """On the writer's thread: hand `write` what comes, at most `BATCH` at once, until the queue is closed and empty."""
        more = True
        while more:
            taken, flushes, more = self.take()
            items = iter(taken)
            while batch := list(islice(items, BATCH)):
                write(batch)
            for flush in flushes:
                flush.set()

    def _is_hurried(self) -> bool:
        return bool(self._flushes) or self._closed

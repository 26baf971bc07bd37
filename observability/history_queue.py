"""The queue of events for the history's writer: bounded, and shared fairly among the backends."""

from __future__ import annotations

import threading

from observability.events import Sequenced
from observability.shares import FairRing


class Waiting:
    """Filled on the event loop's thread, emptied by the writer's. Putting an event in never waits."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._ring = FairRing(size)
        self._flushes: list[threading.Event] = []
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Sequenced) -> bool:
        """False when an event was lost: an older one to make room or, once the queue is closed, this one."""
        with self._changed:
            if self._closed:
                return False
            fits = self._ring.append(item)
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
            self._changed.wait_for(lambda: len(self._ring) or self._flushes or self._closed)
            taken, self._ring = self._ring, FairRing(self.size)
            flushes, self._flushes = self._flushes, []
            return taken, flushes, not self._closed

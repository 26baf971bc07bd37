"""Reports of events that were lost on the way to the history: for `ps`, `egress blocked` and the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from observability.events import NoticeEvent, Sequenced

_WHY: Final = {"egress": "The gateway was away, or too slow to read what the egress reported"}
_MOST: Final = 64
"""Places of loss that are told apart: there is one for each backend at most, and few others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What was lost at one place since the gateway started."""

    backend: str
    """Whose events they were; empty where that is not known."""
    count: int
    first: float
    """Unix time."""
    last: float
    why: str
    """Of the latest, as one sentence."""

    def __str__(self) -> str:
        whose = f" of {self.backend}" if self.backend else ""
        events = f"1 event{whose} was" if self.count == 1 else f"{self.count} events{whose} were"
        since = (
            f"at {_clock(self.first)}" if self.count == 1 else f"between {_clock(self.first)} and {_clock(self.last)}"
        )
        return f"This view is incomplete: {events} lost {since}. {self.why.rstrip('.')}."


class Losses:
    """Counts what was lost, and where. Any thread may note a loss."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._found: dict[tuple[str, str], Loss] = {}

    def note(self, place: str, why: str, count: int = 1, *, backend: str = "") -> None:
        """`count` events were lost at `place` (`history`, `egress`, …), of that backend where it is known."""
        now = self._now()
        with self._lock:
            key = (place, backend)
            if key not in self._found and len(self._found) >= _MOST:
                key = (place, "")
            known = self._found.get(key) or Loss(backend=key[1], count=0, first=now, last=now, why=why)
            self._found[key] = replace(known, count=known.count + count, last=now, why=why)

    def on_sequenced(self, item: Sequenced) -> None:
        """The hub's sink: a gap in the egress's stream is a notice."""
        event = item.event
        if isinstance(event, NoticeEvent) and event.code == "events_dropped":
            why = _WHY.get(event.source, event.message)
            self.note(event.source, why, event.count, backend=event.backend)

    def lines(self) -> list[str]:
        """One sentence for each place where something was lost."""
        with self._lock:
            return [str(loss) for loss in self._found.values()]


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))

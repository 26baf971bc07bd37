"""What servers were refused outside of calls: at their start, for a list of tools, or in the background.

Such a denial is in no result, since no call waits for the connection. It explains why a server does not start, and which
denials during calls are a habit of the server rather than the call's own doing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from observability.events import Certainty, EgressEvent

HOSTS_KEPT: Final = 256
"""Of one server, the latest."""
NAMED: Final = 3
"""Hosts that an error names."""


class Background:
    """The denials of each server that belong to no call, the latest for each host and port."""

    def __init__(self) -> None:
        self._denied: dict[str, dict[tuple[str, int], EgressEvent]] = {}
        self._starts: dict[str, deque[float]] = {}

    def started(self, backend: str, when: float) -> None:
        """The server is being started, at that Unix time."""
        self._starts.setdefault(backend, deque(maxlen=2)).append(when)

    def note(self, event: EgressEvent) -> None:
        """A connection was denied while no call was in flight."""
        denied = self._denied.setdefault(event.backend, {})
        key = (event.host or event.destination, event.port)
        denied.pop(key, None)
        denied[key] = event
        if len(denied) > HOSTS_KEPT:
            del denied[next(iter(denied))]

    def asks(self, backend: str, host: str) -> bool:
        """Whether the server was refused that host outside of calls too."""
        return any(name == host for name, _ in self._denied.get(backend, ()))

    def denials(self, backend: str) -> list[tuple[EgressEvent, Certainty]]:
        """What it was refused since the start before its latest one, the newest first; a few.

        The start before: a server that crashes is being started again by the time that its error is asked for.
        """
        starts = self._starts.get(backend)
        since = starts[0] if starts else 0.0
        found = [event for event in self._denied.get(backend, {}).values() if event.time >= since]
        return [(event, Certainty.CERTAIN) for event in found[: -NAMED - 1 : -1]]

"""Reports closed client connections: at most once a minute for each cause, with their number."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from observability.events import Event, NoticeEvent, Severity

_SILENT_S: Final = 60.0
_CAUSES: Final = {
    "connection_limit": "there are as many as there may be, all with a request under way",
    "silent": "there were as many as there may be, and these had no request under way",
    "slow_head": "no whole request came in time",
    "slow_body": "the body of a request did not come in time",
    "head_size": "the head of a request was too large",
    "stalled": "the client did not read its answer",
    "unread": "too much waited for clients that do not read their answers",
}


class Cuts:
    """Counts and reports the closed connections of one listener."""

    def __init__(self, listener: str, emit: Callable[[Event], object]) -> None:
        self._listener = listener
        self._emit = emit
        self._quiet_until: dict[str, float] = {}
        self._unreported: dict[str, int] = {}

    def __call__(self, cause: str) -> None:
        """Count a closed connection, and report it if it is time to."""
        count = self._unreported[cause] = self._unreported.get(cause, 0) + 1
        now = time.monotonic()
        if now < self._quiet_until.get(cause, 0.0):
            return
        self._quiet_until[cause], self._unreported[cause] = now + _SILENT_S, 0
        message = f"connections to the {self._listener} were ended: {_CAUSES[cause]}"
        self._emit(
            NoticeEvent(
                time=time.time(), source="gateway", code="connections_cut", severity=Severity.WARNING, message=message,
                count=count,
            )
        )  # fmt: skip

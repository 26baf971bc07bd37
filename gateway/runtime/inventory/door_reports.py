"""What the egress reports of a door, as a type. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class DoorReport(StrEnum):
    """What the egress reports of a door."""

    READY = "ready"
    CLOSED = "closed"
    LISTENER_FAILED = "listener_failed"
    NOTE = "note"
    NO_ROUTE = "no_route"
    """The engine refused the door its route: connections that ignore the proxy are refused without being seen."""


NO_ROUTE_NOTE: Final = "no AnyIP route"
"""How the door's note of that begins (`egress.door.door`)."""


def door_report(state: str, detail: str) -> DoorReport:
    """The report in a door message; a state that this gateway does not know is a note."""
    if state == DoorReport.NOTE and detail.startswith(f"{NO_ROUTE_NOTE}:"):
        return DoorReport.NO_ROUTE
    return DoorReport(state) if state in set(DoorReport) - {DoorReport.NO_ROUTE} else DoorReport.NOTE

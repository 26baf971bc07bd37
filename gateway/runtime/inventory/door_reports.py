"""What the egress reports of a door, as a type. Pure."""

from __future__ import annotations

from enum import StrEnum

from egress.door.notes import NoteKind


class DoorReport(StrEnum):
    """What the egress reports of a door."""

    READY = "ready"
    CLOSED = "closed"
    LISTENER_FAILED = "listener_failed"
    NO_ROUTE = NoteKind.NO_ROUTE
    """The engine refused the door its route: connections that ignore the proxy are refused without being seen."""
    NOTE = "note"
    """Anything else that the door could not do."""


def door_report(state: str) -> DoorReport:
    """The report in a door message; a state that this gateway does not know is a note."""
    return DoorReport(state) if state in set(DoorReport) else DoorReport.NOTE

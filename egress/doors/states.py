"""What the egress tells the gateway of a door."""

from __future__ import annotations

from enum import StrEnum

from egress.door.notes import NoteKind


class DoorState(StrEnum):
    """What happened to a door, or what it could not do."""

    READY = "ready"
    """It is registered, and its listeners are served."""
    CLOSED = "closed"
    LISTENER_FAILED = "listener_failed"
    """It could not listen on an address; the detail says which and why."""
    NO_ROUTE = NoteKind.NO_ROUTE
    """The engine refused the door its route: connections that ignore the proxy are refused without being seen."""
    NOTE = "note"
    """Anything else that the door could not do."""


def state_of_note(kind: NoteKind) -> DoorState:
    """The state that a door's note stands for."""
    return DoorState.NO_ROUTE if kind is NoteKind.NO_ROUTE else DoorState.NOTE


def door_state(text: str) -> DoorState:
    """The state in a message; one that this version does not know is a note."""
    return DoorState(text) if text in set(DoorState) else DoorState.NOTE

"""What the egress tells of a door, as a type, from the very note that a door makes."""

from __future__ import annotations

import errno
import os

import pytest

from egress.door import door
from egress.doors.states import DoorState, door_state, state_of_note


def test_a_route_that_was_refused_is_a_state_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(door, "raise_loopback", refused)
    monkeypatch.setattr(door, "add_anyip_route", refused)
    assert [state_of_note(note.kind) for note in door.prepare_namespace()] == [DoorState.NOTE, DoorState.NO_ROUTE]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("ready", DoorState.READY),
        ("closed", DoorState.CLOSED),
        ("listener_failed", DoorState.LISTENER_FAILED),
        ("privileges", DoorState.NOTE),
        ("from a newer egress", DoorState.NOTE),
    ],
)
def test_a_message_names_the_state(text: str, state: DoorState) -> None:
    assert door_state(text) is state

"""What the egress reports of a door, as a type, from the very note that a door makes."""

from __future__ import annotations

import errno
import os

import pytest

from egress.door import door
from gateway.runtime.inventory.door_reports import DoorReport, door_report


def test_a_route_that_was_refused_is_a_report_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(door, "raise_loopback", refused)
    monkeypatch.setattr(door, "add_anyip_route", refused)
    assert [door_report(note.kind) for note in door.prepare_namespace()] == [DoorReport.NOTE, DoorReport.NO_ROUTE]


@pytest.mark.parametrize(
    ("state", "report"),
    [
        ("ready", DoorReport.READY),
        ("closed", DoorReport.CLOSED),
        ("listener_failed", DoorReport.LISTENER_FAILED),
        ("privileges", DoorReport.NOTE),
        ("from a newer egress", DoorReport.NOTE),
    ],
)
def test_the_report_is_the_state(state: str, report: DoorReport) -> None:
    assert door_report(state) is report

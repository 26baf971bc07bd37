"""What a probe's two attempts amount to; that it sees what it should is tested in tests/e2e/test_isolation_probe.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.runtime.containers.isolation import cache_key, note_passed, passed_before
from gateway.runtime.containers.probe import Attempt, ProbeListeners, finished, verdict
from gateway.runtime.engine.base import EngineInfo

REACHED = Attempt(heard=frozenset({"tcp plain 192.0.2.2", "udp plain 192.0.2.2"}))
SILENT = Attempt(heard=frozenset())


@pytest.mark.parametrize(
    ("control", "door", "words"),
    [
        pytest.param(REACHED, SILENT, "", id="the wall holds"),
        pytest.param(REACHED, REACHED, "Isolation does not hold on this engine", id="it got out"),
        pytest.param(SILENT, SILENT, "silence proves nothing", id="the control did not arrive"),
        pytest.param(
            Attempt(heard=frozenset({"tcp plain x"})), SILENT, "did not reach this machine by udp", id="half"
        ),
        pytest.param(Attempt(heard=frozenset(), problem="It broke."), SILENT, "It broke.", id="the control broke"),
        pytest.param(REACHED, Attempt(heard=frozenset(), problem="No door."), "No door.", id="the door broke"),
        pytest.param(REACHED, Attempt(heard=REACHED.heard, problem="No door."), "No door.", id="both"),
    ],
)
def test_the_verdict(control: Attempt, door: Attempt, words: str) -> None:
    found = verdict(control, door)
    assert words in found
    assert bool(found) is bool(words)
    if words:
        assert "Isolated servers are not started." in found


def test_only_what_carries_the_nonce_counts() -> None:
    listeners = ProbeListeners()
    listeners.take(b"another program's datagram")
    listeners.take(f"{listeners.nonce} udp plain 192.0.2.2".encode())
    assert listeners.heard == {"udp plain 192.0.2.2"}


def test_an_attempt_that_failed_or_printed_nothing_is_a_problem() -> None:
    assert "code 1" in finished(ProbeListeners(), 1, ["Traceback"]).problem
    assert "no report" in finished(ProbeListeners(), 0, []).problem
    assert finished(ProbeListeners(), 0, ['{"raw": {}}']).problem == ""


def test_a_pass_is_remembered_for_the_same_engine_kernel_image_and_boot(tmp_path: Path) -> None:
    info = EngineInfo(
        id="e", version="1", api_version="1", kernel="k", architecture="x", seccomp=True, root_directory="/"
    )
    path = tmp_path / "probe.json"
    assert not passed_before(path, cache_key(info, "i"))
    note_passed(path, cache_key(info, "i"))
    assert passed_before(path, cache_key(info, "i"))
    assert not passed_before(path, cache_key(info, "j"))

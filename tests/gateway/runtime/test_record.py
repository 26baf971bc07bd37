"""The record survives, and a thing is in it before it exists."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gateway.runtime.inventory.ownership import is_ours
from gateway.runtime.inventory.record import Owned, Record, Role
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.sandbox.errors import EngineError

DOOR = Owned(name="d", role=Role.DOOR, mark="", instance="x", nonce="n", generation=3)


def test_an_intent_has_a_mark_and_no_id(tmp_path: Path) -> None:
    record = Record.load(tmp_path / "state.json")
    intent = record.intend(DOOR)
    assert len(intent.mark) == 32
    assert Record.load(tmp_path / "state.json").owned == {"d": intent}
    assert is_ours(intent, "anything", intent.mark)
    assert not is_ours(intent, "anything", None)


def test_once_made_the_id_decides_and_the_mark_does_not(tmp_path: Path) -> None:
    record = Record.load(tmp_path / "state.json")
    record.intend(DOOR)
    record.made("d", "ID")
    made = Record.load(tmp_path / "state.json").of(Role.DOOR, "x")
    assert made is not None
    assert is_ours(made, "ID", None)
    assert not is_ours(made, "OTHER", made.mark)


def test_nothing_is_made_that_cannot_be_written_down_and_what_is_gone_is_forgotten_all_the_same(
    tmp_path: Path,
) -> None:
    record = Record.load(tmp_path / "state.json")
    record.intend(DOOR)
    (tmp_path / "state.tmp").mkdir()
    record.made("d", "ID")
    record.forget("d")
    assert record.owned == {}
    with pytest.raises(EngineError, match=r"The record of what runs cannot be written: .*: Is a directory"):
        record.intend(DOOR)
    assert record.owned == {}
    (tmp_path / "state.tmp").rmdir()
    record.intend(DOOR)
    assert set(Record.load(tmp_path / "state.json").owned) == {"d"}


def test_another_engine_starts_an_empty_record(tmp_path: Path) -> None:
    record = Record.load(tmp_path / "state.json")
    assert record.use_engine("A") is False
    record.intend(DOOR)
    assert record.use_engine("A") is False
    assert record.use_engine("B") is True
    assert record.owned == {}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"engine": "A"}', '{"engine": "A", "owned": [{"name": 1}]}'])
def test_a_damaged_record_is_an_empty_one(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    assert Record.load(path).owned == {}


def test_only_the_owner_reads_it(tmp_path: Path) -> None:
    Record.load(tmp_path / "state.json").intend(DOOR)
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600


def test_the_run_directory_is_closed_and_its_meeting_places_are_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(tmp_path))
    directory = RunDirectory.of("p")
    directory.create()
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(directory.control.stat().st_mode) == 0o1777
    assert stat.S_IMODE(directory.doors.stat().st_mode) == 0o1777


def test_a_run_directory_that_cannot_be_made_says_which_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "p"
    with pytest.raises(ValueError, match=rf"{below} cannot be made: Not a directory. Set STOCKADE_STATE_DIR"):
        RunDirectory(path=below, persistent=below).create()


def test_a_run_directory_too_long_for_a_socket_says_so(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(ValueError, match="STOCKADE_STATE_DIR"):
        RunDirectory(path=deep, persistent=deep).create()

"""The limit on buffers of sockets under cgroup v1: written early where we may, and never into somebody else's group."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.runtime.docker.cgroup import LIMIT, group_of, is_bounded, limited_from_the_start

BOX = "c0ffee"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Process 7 is a container's first one, 8 is somebody else's, 9 is in a line that no kernel writes."""
    lines = {7: f"9:cpu,memory:/docker/{BOX}\n0::/\n", 8: "4:memory:/user.slice\n", 9: f"0::/docker/{BOX}\n"}
    for pid, text in lines.items():
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        (tmp_path / "proc" / str(pid) / "cgroup").write_text(text)
    return tmp_path / "proc"


def test_the_group_is_there_with_its_limit_before_the_container_starts(tmp_path: Path, proc: Path) -> None:
    with limited_from_the_start(BOX, 4096, tmp_path):
        assert (tmp_path / "docker" / BOX / LIMIT).read_text() == "4096"
    assert group_of(BOX, 7, tmp_path, proc) == tmp_path / "docker" / BOX
    assert is_bounded(BOX, 7, tmp_path, proc)


def test_the_group_of_a_container_that_did_not_start_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker").chmod(0o700)

    def start() -> None:
        (tmp_path / "docker" / BOX / LIMIT).unlink()  # in a real group there is nothing to unlink
        raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"), limited_from_the_start(BOX, 1, tmp_path):
        start()
    assert list((tmp_path / "docker").iterdir()) == []


def test_without_control_groups_of_version_1_nothing_is_made(tmp_path: Path) -> None:
    with limited_from_the_start(BOX, 4096, tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()
    assert is_bounded(BOX, 7, tmp_path / "none"), "version 2 counts them as memory"


@pytest.mark.parametrize("pid", [8, 9, 10])
def test_another_process_with_that_number_is_not_taken_for_the_container(
    tmp_path: Path, proc: Path, pid: int
) -> None:
    assert group_of(BOX, pid, tmp_path, proc) is None
    assert not is_bounded(BOX, pid, tmp_path, proc)


@pytest.mark.parametrize(("text", "bounded"), [("9223372036854771712", False), ("536870912", True), ("odd", False)])
def test_only_a_number_that_is_a_limit_counts(tmp_path: Path, proc: Path, text: str, bounded: bool) -> None:
    (tmp_path / "docker" / BOX).mkdir(parents=True)
    (tmp_path / "docker" / BOX / LIMIT).write_text(text)
    assert is_bounded(BOX, 7, tmp_path, proc) is bounded

"""Another user of the machine who was there first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.runtime.inventory.rundir import RunDirectory


def test_a_directory_of_our_own_is_made_for_us_alone(tmp_path: Path) -> None:
    found = RunDirectory(path=tmp_path / "r", persistent=tmp_path / "p")
    found.create()
    found.create()
    assert found.path.stat().st_mode & 0o777 == 0o700
    assert found.persistent.stat().st_mode & 0o777 == 0o700


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "theirs")
    with pytest.raises(ValueError, match="is a link"):
        RunDirectory(path=tmp_path / "r", persistent=tmp_path / "p").create()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory away")
def test_a_directory_that_another_user_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    os.chown(tmp_path / "r", 65533, 65533)
    with pytest.raises(ValueError, match="belongs to another user"):
        RunDirectory(path=tmp_path / "r", persistent=tmp_path / "p").create()

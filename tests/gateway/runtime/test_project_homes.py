"""How far above a program its project is looked for: never up to a home, a whole disk, or a folder of many projects."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.runtime.images.projects import homes
from gateway.runtime.images.projects.disk import climb
from gateway.runtime.images.projects.finder import find_project
from registry.model.sources import ProjectSource


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of another person, with a stray manifest and a program below it; the gateway's own home is elsewhere."""
    folder = tmp_path / "people" / "alice"
    (folder / "mcp").mkdir(parents=True)
    (folder / "package.json").write_text("{}")
    (folder / "requirements.txt").write_text("mcp")
    (folder / "mcp" / "server.js").write_text("")
    (folder / "mcp" / "server.py").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "root"))
    monkeypatch.setattr(homes, "homes_of_accounts", frozenset)
    return folder


def roots(folder: Path) -> set[str]:
    """Where the projects of both languages begin."""
    at = f"{folder}/mcp"
    return {
        find_project(ProjectSource(language="node", folder=at, how="file", name="server.js")).root,
        find_project(ProjectSource(language="python", folder=at, how="file", name="server.py")).root,
    }


def test_a_manifest_above_a_program_makes_its_project_where_no_one_lives(other: Path) -> None:
    assert roots(other) == {str(other)}


def test_a_stray_manifest_in_another_account_s_home_shows_none_of_it(
    other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "homes_of_accounts", lambda: frozenset({str(other)}))
    assert roots(other) == {f"{other}/mcp"}


def test_a_home_is_known_by_its_owner_too(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: SimpleNamespace(pw_dir=str(other)))
    assert roots(other) == {f"{other}/mcp"}


def test_a_link_to_a_home_is_that_home(other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "homes_of_accounts", lambda: frozenset({str(other)}))
    (tmp_path / "link").symlink_to(other)
    assert roots(tmp_path / "link") == {f"{tmp_path}/link/mcp"}


def test_a_whole_disk_is_a_project_only_as_a_repository(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == str(other))
    assert roots(other) == {f"{other}/mcp"}
    (other / ".git").mkdir()
    assert roots(other) == {str(other)}


@pytest.mark.parametrize(
    "above",
    [
        "/home/alice", "/var/home/alice", "/Users/alice", "/mnt/c/Users/me", "/mnt/c/users/me",
        "/export/home/a", "/srv", "/data", "/opt", "/mnt", "/media", "/Volumes",
    ],
)  # fmt: skip
def test_a_folder_of_homes_or_of_many_projects_is_not_reached(above: str) -> None:
    assert list(climb(f"{above}/mcp/src")) == [f"{above}/mcp/src", f"{above}/mcp"]


def test_the_folder_that_the_entry_names_is_looked_at_wherever_it_is() -> None:
    assert list(climb("/srv")) == ["/srv"]

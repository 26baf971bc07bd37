"""The folder of a program of this machine, as a file is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.load import load_text
from registry.model.errors import ConfigError


def problems(path: Path, entry: str) -> str:
    """What is wrong with an entry in a file of that folder; nothing: empty."""
    try:
        load_text(f"version: 1\nmcpServers:\n  a: {entry}\n", path / "stockade.yaml")
    except ConfigError as error:
        return str(error)
    return ""


def test_a_folder_is_taken_from_the_file_s_own_on(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    config = load_text("mcpServers: {a: {command: python, args: [s.py], cwd: src}}", tmp_path / "stockade.yaml")
    assert config.servers["a"].cwd == str(tmp_path / "src")


def test_a_folder_may_have_a_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORK", str(tmp_path))
    assert problems(tmp_path, "{command: python, args: [s.py], cwd: '${env:WORK}'}") == ""
    assert problems(tmp_path, f"{{command: python, args: [s.py], env: {{P: {tmp_path}}}, cwd: '${{env:P}}'}}") == ""
    said = problems(tmp_path, "{command: python, args: [s.py], cwd: '${env:STOCKADE_NO}/x'}")
    assert "mcpServers.a.cwd: the environment variable STOCKADE_NO is not set" in said


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    said = problems(tmp_path, "{command: python, args: [s.py], cwd: nope}")
    assert (
        f"stockade.yaml:3:43: mcpServers.a.cwd: the folder {tmp_path}/nope, in which it starts, does not exist"
        in said
    )
    said = problems(tmp_path, f"{{command: python, args: [{tmp_path}/nope/s.py]}}")
    assert f"mcpServers.a.args: the folder {tmp_path}/nope, in which it starts, does not exist" in said


@pytest.mark.parametrize("folder", ["/", "/proc", "/var/run", "/etc"])
def test_a_folder_that_no_server_is_shown_is_refused(tmp_path: Path, folder: str) -> None:
    said = problems(tmp_path, f"{{command: python, args: [s.py], cwd: {folder}}}")
    assert "mcpServers.a.cwd: " in said
    assert "Keep the program in a folder of its own, and name that" in said


def test_what_is_not_of_this_machine_needs_no_folder(tmp_path: Path) -> None:
    assert problems(tmp_path, "{command: deno, args: [run, -A, 'jsr:@a/b@1']}") == ""

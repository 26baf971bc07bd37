"""Finding a gateway, and not taking a stranger for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.control.running import GatewayFile, Running, find_gateway, process_started, read_gateway
from gateway.runtime.inventory.rundir import RunDirectory


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(tmp_path))


def gateway(**changes: Any) -> GatewayFile:
    values: dict[str, Any] = {
        "pid": os.getpid(), "pid_started": process_started(os.getpid()), "project": "p", "config": "/x/stockade.yaml",
        "version": "1", "started": 0.0, "endpoint": "e", "admin": "a",
    }  # fmt: skip
    return GatewayFile(**{**values, **changes})


def test_a_gateway_is_found_by_its_file_and_by_its_project(tmp_path: Path) -> None:
    directory = RunDirectory.of("p")
    directory.path.mkdir()
    gateway(config=str(tmp_path / "stockade.yaml")).write(directory.gateway_file)
    info = read_gateway(directory.gateway_file)
    assert info is not None
    found = Running(directory, info)
    assert find_gateway(tmp_path / "stockade.yaml") == found
    assert find_gateway(None, "p") == found
    assert find_gateway(tmp_path / "other.yaml") is None
    assert find_gateway(tmp_path / "stockade.yaml", "q") is None


def test_a_gateway_that_runs_goes_before_a_dead_one_of_the_same_file(tmp_path: Path) -> None:
    config = str(tmp_path / "stockade.yaml")
    for project, changes in (("a", {"pid_started": "1"}), ("b", {}), ("c", {"pid_started": "1"})):
        (tmp_path / project).mkdir()
        gateway(config=config, project=project, **changes).write(tmp_path / project / "gateway.json")
    found = find_gateway(tmp_path / "stockade.yaml")
    assert found is not None
    assert found.info.project == "b"
    (tmp_path / "b" / "gateway.json").unlink()
    left = find_gateway(tmp_path / "stockade.yaml")
    assert left is not None
    assert left.info.project == "a", "`down` removes what it left"


def test_the_file_is_private(tmp_path: Path) -> None:
    gateway().write(tmp_path / "gateway.json")
    assert (tmp_path / "gateway.json").stat().st_mode & 0o777 == 0o600


def test_a_process_that_ended_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        found = gateway(pid=process.pid, pid_started=process_started(process.pid))
        assert found.alive
        process.communicate(b"\n")
    assert not found.alive


def test_a_pid_that_another_process_has_now_is_not_the_gateway() -> None:
    assert gateway().alive
    assert not gateway(pid_started="1").alive


def test_a_damaged_file_is_no_gateway(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"pid": 1}'):
        (tmp_path / "gateway.json").write_text(text)
        assert read_gateway(tmp_path / "gateway.json") is None

"""A gateway for the CLI to talk to, and ways to run the CLI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.main import build
from gateway.control.running import process_started
from tests.gateway.control.fakes import Running, gateway_for_cli


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user with nothing: an own home, state and working directory."""
    for name in ("home", "work", "s"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STOCKADE_STATE_DIR", str(tmp_path / "s"))
    for name in ("CODEX_HOME", "XDG_CONFIG_HOME", "STOCKADE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def work(home: Path) -> Path:
    return Path.cwd()


@pytest.fixture
def running(home: Path, work: Path) -> Iterator[Running]:
    """A gateway that runs for ./stockade.yaml."""
    pid = os.getpid()
    with gateway_for_cli(Path(os.environ["STOCKADE_STATE_DIR"]), work, pid, process_started(pid) or "") as found:
        yield found


@pytest.fixture
def stockade(home: Path) -> Any:
    """Run a command in this process: `stockade("ps", "--json")`."""

    def run(*args: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(build(), list(args), input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run

"""A real gateway as a real process, for end-to-end tests: its own project, state directory and ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from gateway.cli.main import build

ROOT = Path(__file__).resolve().parents[2]


@dataclass(kw_only=True)
class StockadeProcess:
    """A gateway started with `stockade up -d`, and the command line against it."""

    config: Path
    state: Path
    """STOCKADE_STATE_DIR; short, since UNIX socket paths are bounded."""
    environment: dict[str, str] = field(default_factory=dict)

    def run(
        self, *arguments: str, check: bool = True, timeout_s: float = 300, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """One `stockade` command, as a user types it."""
        result = subprocess.run(
            [sys.executable, "-m", "gateway.cli.main", "--file", str(self.config), *arguments],
            cwd=ROOT,
            env={**os.environ, "STOCKADE_STATE_DIR": str(self.state), "NO_COLOR": "1", **self.environment},
            text=True,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
        )
        if check and result.returncode != 0:
            raise AssertionError(
                f"stockade {' '.join(arguments)}: {result.returncode}\n{result.stdout}{result.stderr}"
            )
        return result

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints with `--json`."""
        return json.loads(self._asked(*arguments, "--json"))

    def json_lines(self, *arguments: str) -> Sequence[dict[str, Any]]:
        """One object a line, as `egress tail --json` prints."""
        return [json.loads(line) for line in self._asked(*arguments, "--json").splitlines() if line.strip()]

    def _asked(self, *arguments: str) -> str:
        """What the command prints, run in this process: the tests poll with it, and a process would take 0.4 s each time."""
        environment = {"STOCKADE_STATE_DIR": str(self.state), "NO_COLOR": "1", **self.environment}
        result = CliRunner().invoke(build(), ["--file", str(self.config), *arguments], env=environment)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, f"stockade {' '.join(arguments)}: {result.exit_code}\n{result.output}"
        return result.stdout

    def up(self) -> None:
        """Start it detached and wait until it is ready."""
        self.run("up", "-d", str(self.config), timeout_s=900)

    def down(self) -> None:
        """Stop it and all that it runs."""
        self.run("down", check=False)

    @property
    def gateway(self) -> dict[str, Any]:
        """What `gateway.json` says: pid, urls, project."""
        (path,) = self.state.glob("*/gateway.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def endpoint(self) -> str:
        """The aggregate endpoint's URL."""
        return str(self.gateway["endpoint"])

    def server_endpoint(self, backend: str) -> str:
        """The endpoint of one backend."""
        return self.endpoint.removesuffix("/mcp") + f"/servers/{backend}/mcp"

    def metrics(self) -> str:
        """One scrape."""
        url = str(self.gateway["admin"]).rstrip("/") + "/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text: str = answer.read().decode()
        return text


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Polls another process's state; raises AssertionError when it does not come to pass."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)

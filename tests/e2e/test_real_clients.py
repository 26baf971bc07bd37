"""The AI clients themselves, as their vendors ship them, pointed at a gateway by `stockade connect`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import docker
import pytest

from tests.e2e import lean
from tests.e2e.secluded import Secluded, secluded
from tests.e2e.stockade_process import StockadeProcess
from tests.gateway.mcp import suite

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

SERVERS = """\
version: 1
gateway: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
mcpServers:
  rogue:
    image: stockade-test-rogue:latest
"""
HELLO = {"clientInfo": {"name": "test", "title": "test", "version": "1"}}
ASK_CODEX = [
    {"id": 1, "method": "initialize", "params": HELLO},
    {"method": "initialized"},
    {"id": 2, "method": "mcpServerStatus/list", "params": {}},
]


@dataclass(frozen=True)
class Real:
    """How one of them is asked whether it reaches its servers."""

    command: tuple[str, ...]
    connected: str
    """A pattern in what it prints then, and only then."""
    stdin: str = ""
    enough: str = ""


REAL = {
    "claude-code": Real(("claude", "mcp", "list"), r"stockade: .*Connected"),
    "gemini-cli": Real(("gemini", "mcp", "list"), r"✓.* stockade: .*Connected"),
    "qwen-code": Real(("qwen", "mcp", "list"), r"✓.* stockade: .*Connected"),
    "opencode": Real(("opencode", "mcp", "list"), r"stockade .*connected"),
    "codex": Real(
        ("codex", "app-server"),
        '"rogue__',
        "".join(json.dumps(message) + "\n" for message in ASK_CODEX),
        '{"id":2,',
    ),
}


@pytest.fixture(scope="module")
def gateway(engine: docker.DockerClient, python_base: str, workspace: Path) -> Iterator[StockadeProcess]:
    with lean.running(workspace, SERVERS, engine, python_base) as process:
        yield process


@pytest.fixture(scope="module")
def space(gateway: StockadeProcess) -> Iterator[Secluded]:
    port = urlsplit(gateway.endpoint).port
    assert port is not None
    with secluded(port) as made:
        yield made


@pytest.mark.parametrize("name", REAL)
def test_it_connects_with_what_connect_wrote_until_its_token_is_taken(
    gateway: StockadeProcess, space: Secluded, name: str, tmp_path: Path
) -> None:
    real = REAL[name]
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    gateway.environment["HOME"] = str(home)
    done = gateway.run("connect", name, "--yes")
    variable = re.search(r"^export (\w+)=(\S+)$", done.stdout + done.stderr, re.MULTILINE)
    environment = {"HOME": str(home), "GEMINI_CLI_TRUST_WORKSPACE": "true", "NO_COLOR": "1"}
    if variable is not None:
        environment[variable[1]] = variable[2]

    def ask() -> str:
        command = (str(suite.program(name, real.command[0])), *real.command[1:])
        return space.run(command, cwd=work, env=environment, stdin=real.stdin, enough=real.enough)

    said = ask()
    assert re.search(real.connected, said), said
    gateway.run("client", "rm", name)
    said = ask()
    assert not re.search(real.connected, said), said

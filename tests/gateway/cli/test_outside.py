"""`ps` and `up` name the servers that a connected client still starts itself, and never fail for a client's file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.detached import told_of
from gateway.cli.outside import MAX_FILE, started_outside
from tests.gateway.control.fakes import Running

OURS: dict[str, Any] = {"stockade": {"url": "http://127.0.0.1:8420/mcp"}}
GITHUB = {"command": "npx", "args": ["-y", "server-github"], "env": {"TOKEN": "t0p-secret"}}


def cursor(home: Path, servers: dict[str, Any]) -> Path:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"mcpServers": servers}))
    return path


def test_ps_and_up_name_what_a_connected_client_starts_itself(
    stockade: Any, running: Running, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cursor(home, {"github": GITHUB, "far": {"url": "https://far.example/mcp"}, **OURS})
    sentence = (
        "! Cursor also starts github itself, outside Stockade. To end that: "
        "stockade import cursor, then stockade connect cursor --replace"
    )
    said = stockade("ps").out
    assert sentence in said.splitlines()
    (outside,) = json.loads(stockade("ps", "--json").out)["outside"]
    assert outside == {"client": "cursor", "title": "Cursor", "file": str(path), "servers": ["github"]}
    told_of([{"name": "fetch", "state": "running", "detail": "", "restarts": 0}])
    up = capsys.readouterr()
    assert sentence in up.err.splitlines()
    assert "t0p-secret" not in said + up.err + up.out


def test_what_the_gateway_has_is_to_be_replaced(stockade: Any, running: Running, home: Path) -> None:
    cursor(home, {**OURS, "fetch": GITHUB, **{f"s{number}": GITHUB for number in range(6)}})
    (line,) = [line for line in stockade("ps").out.splitlines() if "outside Stockade" in line]
    assert line == (
        "! Cursor also starts fetch, s0, s1, s2, s3 and 2 more itself, outside Stockade. To end that: "
        "stockade connect cursor --replace"
    )


@pytest.mark.parametrize(
    "servers",
    [
        {"github": GITHUB},
        OURS,
        {**OURS, "far": {"url": "https://far.example/mcp"}},
        {"notes": {"command": "stockade"}},
    ],
    ids=["not connected", "nothing else", "only a remote one", "named but not connected"],
)
def test_nothing_is_said_without_a_reason(home: Path, servers: dict[str, Any]) -> None:
    cursor(home, servers)
    assert started_outside() == []


BROKEN = [
    b"stockade",
    b'{"mcpServers": {"stockade": ',
    b'{"mcpServers": ["stockade"]}',
    b'{"mcpServers": {"stockade": {}, "x": {"command": {"path": 3}}, "y": 7, "z": {"command": []}}}',
    b'\xff\xfe"stockade"',
    b'{"mcpServers": "stockade"}',
    b'"stockade"' + b"[" * 100_000,
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("file", [".cursor/mcp.json", ".codex/config.toml", ".config/goose/config.yaml"])
def test_a_broken_file_of_a_client_costs_nothing(
    stockade: Any, running: Running, home: Path, file: str, content: bytes
) -> None:
    path = home / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert stockade("ps").code == 0


def test_a_folder_a_pipe_and_a_huge_file_are_passed_over(home: Path) -> None:
    (home / ".cursor/mcp.json").mkdir(parents=True)
    (home / ".codex").mkdir()
    os.mkfifo(home / ".codex/config.toml")
    (home / ".claude.json").write_bytes(b'{"stockade": 1}' + b" " * MAX_FILE)
    assert started_outside() == []

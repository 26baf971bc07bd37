"""`connect` tells what a client still starts itself, `--replace` takes it out, `disconnect --restore` puts it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CURSOR = {
    "fetch": {"command": "uvx", "args": ["mcp-server-fetch"], "env": {"API_TOKEN": "t0p-secret"}},
    "other": {"command": "npx", "args": ["-y", "other"]},
    "far": {"url": "https://far.example/mcp"},
}
OURS = "mcpServers:\n  fetch: {command: uvx, args: [mcp-server-fetch]}\n"


@pytest.fixture
def cursor(home: Path, work: Path) -> Path:
    """Cursor's file with three servers; the gateway has one of them."""
    (work / "stockade.yaml").write_text(OURS)
    path = home / ".cursor/mcp.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"mcpServers": CURSOR}, indent=2) + "\n")
    return path


def test_connect_names_what_the_client_still_starts_itself(stockade: Any, cursor: Path) -> None:
    result = stockade("connect", "cursor", "--yes")
    assert result.code == 0
    assert "! Cursor still starts 2 servers itself, outside the wall: fetch, other." in result.err
    assert "stockade connect cursor --replace" in result.err
    assert list(json.loads(cursor.read_text())["mcpServers"]) == [*CURSOR, "stockade"]


def test_what_the_gateway_does_not_have_is_to_be_imported_first(stockade: Any, cursor: Path, work: Path) -> None:
    (work / "stockade.yaml").write_text("mcpServers: {}\n")
    result = stockade("connect", "cursor", "--yes", "--replace")
    assert f"stockade import {cursor}" in result.err
    assert list(json.loads(cursor.read_text())["mcpServers"]) == [*CURSOR, "stockade"]


def test_replace_removes_what_the_gateway_has_and_restore_brings_it_back(stockade: Any, cursor: Path) -> None:
    before = cursor.read_bytes()
    asked = stockade("connect", "cursor", "--replace")
    assert asked.code == 1
    assert cursor.read_bytes() == before, "nothing happens without a yes"
    result = stockade("connect", "cursor", "--replace", "--yes")
    assert result.code == 0
    assert list(json.loads(cursor.read_text())["mcpServers"]) == ["other", "far", "stockade"]
    assert "Removed from it: fetch. To have them back: stockade disconnect cursor --restore" in result.err
    assert "! Cursor still starts a server itself, outside the wall: other." in result.err
    back = stockade("disconnect", "cursor", "--restore", "--yes")
    assert back.code == 0
    assert "Put back into it: fetch." in back.err
    assert cursor.read_bytes() == before
    for said in (asked, result, back):
        assert "t0p-secret" not in said.out + said.err


def test_nothing_to_put_back_is_said(stockade: Any, cursor: Path) -> None:
    result = stockade("disconnect", "cursor", "--restore", "--yes")
    assert "no backup of" in result.err


def test_a_disconnect_shows_no_token(stockade: Any, cursor: Path) -> None:
    assert stockade("connect", "cursor", "--yes", "--inline").code == 0
    token = json.loads(cursor.read_text())["mcpServers"]["stockade"]["headers"]["Authorization"].split()[1]
    result = stockade("disconnect", "cursor", "--yes")
    assert result.code == 0
    assert "Authorization" in result.out
    assert token not in result.out + result.err


@pytest.mark.parametrize(
    "text", ['mcp_servers = { a = { command = "npx", args = ["-y", "a"] } }\n', 'mcp_servers = "x"\n']
)
def test_codexs_file_never_ends_in_a_traceback(stockade: Any, home: Path, work: Path, text: str) -> None:
    (work / "stockade.yaml").write_text(OURS)
    path = home / ".codex/config.toml"
    path.parent.mkdir()
    path.write_text(text)
    result = stockade("connect", "codex", "--yes")
    assert "Traceback" not in result.err
    if result.code:
        assert path.read_text() == text
        assert "stockade connect codex --print" in result.err
    else:
        assert "stockade" in path.read_text()

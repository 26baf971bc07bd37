"""Every row of the client table against a home directory of its own."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.connect import edits
from gateway.connect.clients import BY_NAME, ROWS, Row, Syntax
from gateway.connect.connect import apply, credentials_for, installed, plan_connect, plan_disconnect, snippets
from gateway.connect.entry import Credentials
from registry.file.json_edit import EditRefused

URL = "http://127.0.0.1:8420/mcp"
TOKEN = "stockade_client_abc"
WRITABLE = [row for row in ROWS if row.writable]
OTHERS = {
    Syntax.JSON: '{\n  // kept\n  "theme": "dark",\n}\n',
    Syntax.TOML: '# kept\ntheme = "dark"\n',
    Syntax.YAML: "# kept\ntheme: dark\n",
}

rows = pytest.mark.parametrize("row", WRITABLE, ids=lambda row: row.name)


def parsed(row: Row, text: str) -> Any:
    match row.syntax:
        case Syntax.JSON:
            return edits.read(row, text)
        case Syntax.TOML:
            return tomllib.loads(text)
        case Syntax.YAML:
            return YAML(typ="safe").load(text)


def entry_in(row: Row, text: str, name: str = "stockade") -> Any:
    held = parsed(row, text)
    for key in row.container:
        held = held[key]
    return next(item for item in held if item["name"] == name) if row.listed else held[name]


@rows
def test_connect_writes_an_entry_with_the_endpoint_and_the_token(row: Row, tmp_path: Path) -> None:
    path = row.file(tmp_path)
    assert tmp_path in path.parents
    change = plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path)
    assert apply(change) is None
    text = path.read_text()
    assert URL in json.dumps(entry_in(row, text))
    assert TOKEN in json.dumps(entry_in(row, text))
    assert path.stat().st_mode & 0o777 == 0o600


@rows
def test_the_diff_never_shows_the_token(row: Row, tmp_path: Path) -> None:
    change = plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), row.file(tmp_path))
    assert TOKEN in change.after
    assert TOKEN not in change.diff()


@rows
def test_connect_then_disconnect_leaves_the_rest_of_the_file_with_its_comments(row: Row, tmp_path: Path) -> None:
    path = row.file(tmp_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OTHERS[row.syntax])
    path.chmod(0o644)
    backup = apply(plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path))
    assert backup is not None
    assert backup.read_text() == OTHERS[row.syntax]
    assert "kept" in path.read_text()
    apply(plan_disconnect(row, path))
    assert "kept" in path.read_text()
    assert parsed(row, path.read_text())["theme"] == "dark"
    assert "stockade" not in path.read_text()


@rows
def test_connecting_twice_changes_nothing_the_second_time(row: Row, tmp_path: Path) -> None:
    credentials = credentials_for(row, URL, TOKEN, by_variable=False)
    apply(plan_connect(row, credentials, row.file(tmp_path)))
    assert not plan_connect(row, credentials, row.file(tmp_path)).needed


@rows
def test_other_servers_in_the_file_stay(row: Row, tmp_path: Path) -> None:
    path = row.file(tmp_path)
    apply(plan_connect(row, Credentials(name="other", endpoint="http://127.0.0.1:1/mcp"), path))
    apply(plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path))
    assert "127.0.0.1:1/mcp" in json.dumps(entry_in(row, path.read_text(), "other"))
    apply(plan_disconnect(row, path))
    assert "127.0.0.1:1/mcp" in json.dumps(entry_in(row, path.read_text(), "other"))


@pytest.mark.parametrize("row", [row for row in ROWS if row.variables], ids=lambda row: row.name)
def test_where_the_client_knows_variables_the_file_holds_only_the_variables_name(row: Row, tmp_path: Path) -> None:
    credentials = credentials_for(row, URL, TOKEN, by_variable=True)
    apply(plan_connect(row, credentials, row.file(tmp_path)))
    text = row.file(tmp_path).read_text()
    assert TOKEN not in text
    assert "STOCKADE_TOKEN_" in text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_has_a_snippet_and_says_when_it_was_verified(row: Row) -> None:
    assert URL in snippets(URL, TOKEN, [row.name])[row.name]
    assert row.verified_on
    assert row.evidence in {"documentation", "run"}


EXPECTED = {
    "claude-code": {"type": "http", "url": URL, "headers": {"Authorization": "Bearer ${STOCKADE_TOKEN_CLAUDE_CODE}"}},
    "cursor": {"url": URL, "headers": {"Authorization": "Bearer ${env:STOCKADE_TOKEN_CURSOR}"}},
    "windsurf": {"serverUrl": URL, "headers": {"Authorization": "Bearer ${env:STOCKADE_TOKEN_WINDSURF}"}},
    "codex": {"url": URL, "bearer_token_env_var": "STOCKADE_TOKEN_CODEX"},
    "gemini-cli": {"type": "http", "url": URL, "headers": {"Authorization": "Bearer $STOCKADE_TOKEN_GEMINI_CLI"}},
    "opencode": {
        "type": "remote", "enabled": True, "url": URL,
        "headers": {"Authorization": "Bearer {env:STOCKADE_TOKEN_OPENCODE}"},
    },
    "vscode": {"type": "http", "url": URL, "headers": {"Authorization": f"Bearer {TOKEN}"}},
    "cline": {"type": "streamableHttp", "url": URL, "headers": {"Authorization": f"Bearer {TOKEN}"}},
    "claude-desktop": {"command": "stockade", "args": ["bridge", "--url", URL], "env": {"STOCKADE_TOKEN": TOKEN}},
    "goose": {
        "name": "stockade", "type": "streamable_http", "uri": URL, "enabled": True, "timeout": 300,
        "headers": {"Authorization": f"Bearer {TOKEN}"},
    },
    "continue": {
        "name": "stockade", "type": "streamable-http", "url": URL,
        "requestOptions": {"headers": {"Authorization": f"Bearer {TOKEN}"}},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_entry_has_the_shape_that_the_client_documents(name: str) -> None:
    row = BY_NAME[name]
    assert row.entry(credentials_for(row, URL, TOKEN, by_variable=True)) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "container"),
    [
        ("vscode", "servers"),
        ("zed", "context_servers"),
        ("opencode", "mcp"),
        ("goose", "extensions"),
        ("amp", "amp.mcpServers"),
    ],
)
def test_the_entry_stands_under_the_clients_own_key(name: str, container: str) -> None:
    assert list(parsed(BY_NAME[name], snippets(URL, TOKEN, [name])[name])) == [container]


def test_opencode_2_files_nest_their_servers(tmp_path: Path) -> None:
    path = tmp_path / "opencode.json"
    path.write_text('{"mcp": {"servers": {}}}')
    row = BY_NAME["opencode"]
    apply(plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path))
    assert json.loads(path.read_text())["mcp"]["servers"]["stockade"]["url"] == URL
    apply(plan_disconnect(row, path))
    assert json.loads(path.read_text()) == {"mcp": {"servers": {}}}


def test_codex_reads_its_file_from_codex_home(tmp_path: Path) -> None:
    assert BY_NAME["codex"].file(tmp_path, environ={"CODEX_HOME": "/x"}) == Path("/x/config.toml")
    assert BY_NAME["codex"].file(tmp_path, environ={}) == tmp_path / ".codex/config.toml"


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", ".config/Code/User/mcp.json"),
        ("darwin", "Library/Application Support/Code/User/mcp.json"),
        ("win32", "AppData/Roaming/Code/User/mcp.json"),
    ],
)
def test_the_file_is_where_the_system_keeps_settings(platform: str, expected: str, tmp_path: Path) -> None:
    assert BY_NAME["vscode"].file(tmp_path, platform, {}) == tmp_path / expected


def test_clients_are_found_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert installed(tmp_path) == []
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".claude.json").write_text("{}")
    assert [row.name for row in installed(tmp_path)] == ["claude-code", "cursor"]


def test_a_file_that_changed_since_the_diff_was_shown_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    row = BY_NAME["cursor"]
    change = plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path)
    path.write_text('{"new": 1}')
    with pytest.raises(EditRefused, match="changed while you were looking"):
        apply(change)
    assert path.read_text() == '{"new": 1}'


@pytest.mark.parametrize(
    ("name", "broken"), [("cursor", "{oops"), ("codex", "= x"), ("goose", "a: [b"), ("cursor", '{"mcpServers": []}')]
)
def test_a_broken_file_is_left_alone_and_named(name: str, broken: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(broken)
    row = BY_NAME[name]
    with pytest.raises(EditRefused, match="was left alone"):
        plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path)
    assert path.read_text() == broken


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "mcp.json"
    real.write_text("{}")
    link.symlink_to(real)
    row = BY_NAME["cursor"]
    apply(plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), link))
    assert link.is_symlink()
    assert URL in real.read_text()

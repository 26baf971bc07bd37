"""What an edit of a client's file leaves as it is: marks, line ends, commas, layout, comments; and what a diff hides."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.connect import edits
from gateway.connect.clients import BY_NAME, ROWS, Row, Syntax
from gateway.connect.connect import (
    BACKUP,
    apply,
    credentials_for,
    installed,
    plan_connect,
    plan_disconnect,
    plan_restore,
    started_in,
)
from gateway.connect.line_ends import edited, with_ends
from gateway.connect.masks import HIDDEN, masked
from registry.file.json_edit import EditRefused

URL = "http://127.0.0.1:8420/mcp"
TOKEN = "stockade_client_abc"

JSON = '{\n  "mcpServers": {\n    "a": {"command": "npx"} // mine\n  },\n  "theme": "dark"\n}\n'
TOML = '# kept\nmodel = "o3"\n\n[mcp_servers.a]\ncommand = "npx"  # mine\n'
YAML = 'extensions:\n    a:   # mine\n        cmd: "npx"\n        type:    stdio\n\n\n# kept\nTHEME:   dark\n'
FILES = {"cursor": JSON, "codex": TOML, "goose": YAML}
names = pytest.mark.parametrize("name", FILES)


def connected(row: Row, path: Path, removing: tuple[str, ...] = ()) -> str:
    apply(plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path, removing))
    return path.read_bytes().decode()


def round_trip(row: Row, path: Path, text: str) -> tuple[str, str]:
    """The file with Stockade in it, and without it again."""
    path.write_bytes(text.encode())
    after = connected(row, path)
    apply(plan_disconnect(row, path))
    return after, path.read_bytes().decode()


@names
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_and_line_ends_are_the_files_own(name: str, mark: str, end: str, tmp_path: Path) -> None:
    row, text = BY_NAME[name], mark + FILES[name].replace("\n", end)
    after, again = round_trip(row, tmp_path / "file", text)
    assert again == text
    assert after.startswith(mark or FILES[name][0])
    assert after.count("\ufeff") == len(mark)
    assert after.count("\n") > text.count("\n")
    assert after.count("\r\n") == (after.count("\n") if end == "\r\n" else 0)


def test_mixed_line_ends_stay_where_they_are() -> None:
    before = "a\r\nb\nc\r\nd"
    assert with_ends(before, "a\nb\nnew\nc\nd") == "a\r\nb\nnew\r\nc\r\nd"


@given(st.lists(st.sampled_from(["a", "b", "\r\n", "\n", "\r", "\ufeff", "{"]), max_size=30).map("".join))
def test_an_edit_that_changes_nothing_changes_nothing(text: str) -> None:
    assert edited(text, lambda plain: plain) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(JSON, id="a neighbour with a remark"),
        pytest.param('{\n  "mcpServers": {\n    "a": {"command": "x"},\n  },\n}\n', id="a trailing comma"),
        pytest.param('{"mcpServers": {"a": {"command": "x"},}}', id="a trailing comma on the line"),
        pytest.param('{\n\t"mcpServers": {\n\t\t"a": {"command": "x"}, // why\n\t},\n}\n', id="tabs and a remark"),
        pytest.param('{\n  "mcpServers": {},\n  "a": 1\n}', id="empty braces"),
        pytest.param('{"mcpServers":{}}', id="empty braces on the line"),
        pytest.param('{\n  "mcpServers": {\n    // none yet\n  }\n}\n', id="a remark alone"),
    ],
)
def test_a_json_file_is_as_before_when_stockade_is_gone(text: str, tmp_path: Path) -> None:
    _, again = round_trip(BY_NAME["cursor"], tmp_path / "mcp.json", text)
    assert again == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("goose", YAML, id="odd indentation and blanks"),
        pytest.param("goose", "# only a remark\nGOOSE_MODEL: x\n", id="no servers yet"),
        pytest.param("goose", "extensions: {a: {cmd: npx, type: stdio}}  # short\nz: 1\n", id="in braces"),
        pytest.param("goose", "extensions:\n  a: {cmd: npx}\nlast: 'q'", id="no line break at the end"),
        pytest.param("continue", "name:  x\nmcpServers:\n- name: a\n  command: npx # why\n\nz: 1\n", id="a list"),
        pytest.param("continue", "mcpServers:\n    -   name: a\n        command: npx\n", id="a list, indented"),
        pytest.param("continue", "mcpServers: [{name: a, command: npx}]\n", id="a list in brackets"),
    ],
)
def test_a_yaml_file_keeps_every_other_character(name: str, text: str, tmp_path: Path) -> None:
    row = BY_NAME[name]
    after, again = round_trip(row, tmp_path / "config.yaml", text)
    assert again == text
    assert "stockade" in edits.servers(row, after)
    kept = [line for line in text.splitlines() if "{a:" not in line and "[{" not in line]
    assert [line for line in after.splitlines() if line in kept] == kept, "the others stand as they did"


def test_an_entry_in_a_list_is_replaced_where_it_stands(tmp_path: Path) -> None:
    row, path = BY_NAME["continue"], tmp_path / "config.yaml"
    path.write_text("mcpServers:\n  - name: stockade\n    url: http://old\n  - name: a   # mine\n    command: npx\n")
    after = connected(row, path)
    assert list(edits.servers(row, after)) == ["stockade", "a"]
    assert "- name: a   # mine\n" in after
    assert edits.servers(row, after)["stockade"]["url"] == URL


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('mcp_servers = { a = { command = "npx", args = ["-y", "a"] } }\n', id="an inline table"),
        pytest.param("mcp_servers = {}\n", id="an empty inline table"),
        pytest.param('mcp_servers.a.command = "npx"\n', id="dotted keys"),
        pytest.param('mcp_servers.a = { command = "npx" }\nmodel = "x"\n', id="a dotted inline table"),
        pytest.param('[mcp_servers]\na = { command = "npx" }\n[other]\nx = 1\n', id="a table with an inline one"),
        pytest.param("[mcp_servers.a]\nx = 1\n[other]\ny = 1\n[mcp_servers.b]\nx = 2\n", id="tables apart"),
        pytest.param('[mcp_servers.a]\n[mcp_servers.a.env]\nK = "v"', id="no line break at the end"),
        pytest.param(
            '[mcp_servers.stockade]\nurl = "http://old"\n[mcp_servers.stockade.http_headers]\nA = "b"\n', id="older"
        ),
        pytest.param('mcp_servers = { stockade = { url = "http://old" } }\n', id="an older one, inline"),
    ],
)
def test_every_shape_of_codexs_file_is_edited(text: str, tmp_path: Path) -> None:
    row, path = BY_NAME["codex"], tmp_path / "config.toml"
    path.write_text(text)
    before = tomllib.loads(text)
    after = tomllib.loads(connected(row, path))
    assert after["mcp_servers"].pop("stockade")["url"] == URL
    before.get("mcp_servers", {}).pop("stockade", None)
    assert after == before
    apply(plan_disconnect(row, path))
    again = tomllib.loads(path.read_text())
    assert again.get("mcp_servers", {}) == before.get("mcp_servers", {})
    assert {**again, "mcp_servers": {}} == {**before, "mcp_servers": {}}


@pytest.mark.parametrize("text", ['mcp_servers = "x"\n', "mcp_servers = [1]\n", "mcp_servers = 1979-05-27\n"])
def test_a_file_of_another_shape_is_refused_in_words(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(EditRefused, match=r"was left alone: `mcp_servers` is not a table"):
        connected(BY_NAME["codex"], path)


def test_an_inline_array_takes_an_entry_too(tmp_path: Path) -> None:
    row, path = BY_NAME["vibe"], tmp_path / "config.toml"
    path.write_text('mcp_servers = [ { name = "a", command = "x" } ]\n')
    assert [one["name"] for one in tomllib.loads(connected(row, path))["mcp_servers"]] == ["a", "stockade"]


# -- diffs


SECRETS = [
    '"GITHUB_TOKEN": "SECRETVALUE"',
    "GITHUB_PERSONAL_ACCESS_TOKEN: SECRETVALUE # mine",
    "api_key = 'SECRETVALUE'",
    '"Authorization": "Bearer SECRETVALUE"',
    'http_headers = { Authorization = "Bearer SECRETVALUE", X = "y" }',
    '"args": ["--api-key=SECRETVALUE"]',
    '"args": ["--token", "SECRETVALUE", "x"]',
    '+    "--token",\n+    "SECRETVALUE",',
    "- --api-key\n- SECRETVALUE",
    '"url": "postgresql://me:SECRETVALUE@db.example/x"',
    '"x": "ghp_SECRETVALUESECRETVALUE1"',
    "env: {OPENAI_API_KEY: SECRETVALUE, A: b}",
]
OPEN = [
    '"GITHUB_TOKEN": "${env:GITHUB_TOKEN}"',
    '"GITHUB_TOKEN": "$GITHUB_TOKEN"',
    'bearer_token_env_var = "STOCKADE_TOKEN_CODEX"',
    '"Authorization": "Bearer ${STOCKADE_TOKEN_CLAUDE_CODE}"',
    '"Authorization": "Bearer {env:STOCKADE_TOKEN_OPENCODE}"',
    '"max_tokens": 5, "command": "npx", "args": ["-y", "tokenizer"]',
    '"url": "http://127.0.0.1:8420/mcp"',
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_hidden_wherever_it_stands(text: str) -> None:
    found = masked(text)
    assert "SECRETVALUE" not in found
    assert HIDDEN in found


@pytest.mark.parametrize("text", OPEN)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize("row", [row for row in ROWS if row.writable], ids=lambda row: row.name)
def test_no_diff_shows_a_token_that_is_written_replaced_or_removed(row: Row, tmp_path: Path) -> None:
    path = row.file(tmp_path)
    first = plan_connect(row, credentials_for(row, URL, "stockade_older", by_variable=False), path)
    apply(first)
    second = plan_connect(row, credentials_for(row, URL, TOKEN, by_variable=False), path)
    for change in (first, second, plan_disconnect(row, path)):
        assert change.needed
        assert "stockade_older" not in change.diff()
        assert TOKEN not in change.diff()
        assert HIDDEN in change.diff()


# -- what a client starts itself


CURSOR: dict[str, Any] = {
    "fetch": {"command": "uvx", "args": ["mcp-server-fetch"]},
    "github": {"command": "docker", "args": ["run", "x"], "env": {"GITHUB_TOKEN": "t0p-secret"}},
    "far": {"url": "https://far.example/mcp"},
    "off": {"command": "npx", "disabled": True},
    "bridge": {"command": "/usr/bin/stockade", "args": ["bridge"]},
}
TEXT = json.dumps({"mcpServers": CURSOR}, indent=4).replace('"fetch"', '// mine\n        "fetch"') + "\n"


def test_the_servers_that_a_client_starts_itself_are_known(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(TEXT)
    assert list(started_in(BY_NAME["cursor"], path)) == ["fetch", "github"]
    assert started_in(BY_NAME["cursor"], tmp_path / "none.json") == {}
    path.write_text("{broken")
    assert started_in(BY_NAME["cursor"], path) == {}


def test_what_is_replaced_comes_back_as_it_was(tmp_path: Path) -> None:
    row, path = BY_NAME["cursor"], tmp_path / "mcp.json"
    path.write_text(TEXT)
    after = connected(row, path, ("fetch", "github"))
    assert list(edits.servers(row, after)) == ["far", "off", "bridge", "stockade"]
    assert started_in(row, path) == {}
    connected(row, path)
    change = plan_restore(row, path)
    assert change is not None
    assert "t0p-secret" not in change.diff()
    apply(change)
    assert path.read_text() == TEXT
    assert plan_restore(row, path) is None, "nothing is missing any more"


def test_what_was_changed_meanwhile_stays_and_the_servers_come_back_beside_it(tmp_path: Path) -> None:
    row, path = BY_NAME["cursor"], tmp_path / "mcp.json"
    path.write_text(TEXT)
    path.write_text(connected(row, path, ("fetch", "github")).replace("far.example", "new.example"))
    change = plan_restore(row, path)
    assert change is not None
    apply(change)
    found = edits.servers(row, path.read_text())
    assert found == {**CURSOR, "far": {"url": "https://new.example/mcp"}}


@names
def test_servers_are_replaced_and_restored_in_every_format(name: str, tmp_path: Path) -> None:
    row, path = BY_NAME[name], tmp_path / "file"
    path.write_text(FILES[name])
    connected(row, path, ("a",))
    assert list(edits.servers(row, path.read_text())) == ["stockade"]
    change = plan_restore(row, path)
    assert change is not None
    apply(change)
    assert path.read_text() == FILES[name]


def test_no_backup_replaces_another(tmp_path: Path) -> None:
    row, path = BY_NAME["cursor"], tmp_path / "mcp.json"
    path.write_text(TEXT)
    for port in range(12):
        apply(plan_connect(row, credentials_for(row, f"http://127.0.0.1:{port}/mcp", "", by_variable=False), path))
    backups = list(tmp_path.glob(f"*{BACKUP}*"))
    assert len({backup.read_text() for backup in backups}) == len(backups) == 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_client_is_found_by_a_folder_that_everybody_has(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CODEX_HOME", raising=False)
    for folder in (
        ".config",
        ".cache",
        ".local/share",
        "Library/Application Support",
        ".config/Code/User",
        ".vscode",
    ):
        (tmp_path / folder).mkdir(parents=True)
    if row.name not in ("vscode",):
        assert row not in installed(tmp_path)


def test_jetbrains_is_found_by_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / ".config/JetBrains").mkdir(parents=True)
    assert BY_NAME["jetbrains"] in installed(tmp_path)
    assert BY_NAME["jetbrains"].syntax is Syntax.JSON


def test_remarks_of_the_next_table_stay_when_stockade_is_taken_out(tmp_path: Path) -> None:
    row, path = BY_NAME["codex"], tmp_path / "config.toml"
    path.write_text(TOML)
    path.write_text(connected(row, path) + "\n# of b\n[mcp_servers.b]\nx = 1\n")
    apply(plan_disconnect(row, path))
    assert path.read_text() == TOML + "\n# of b\n[mcp_servers.b]\nx = 1\n"

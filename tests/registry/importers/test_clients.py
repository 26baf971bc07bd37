"""Finding what AI clients have on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.importers.clients import find, read
from registry.model.errors import ConfigError


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def test_every_place_with_servers_is_found(tmp_path: Path) -> None:
    entry = json.dumps({"mcpServers": {"Time": {"command": "uvx", "args": ["mcp-server-time"]}}})
    write(tmp_path / ".cursor/mcp.json", entry)
    write(tmp_path / ".config/Claude/claude_desktop_config.json", entry)
    write(tmp_path / ".config/Code/User/mcp.json", '{"servers": {}} // nothing')
    write(tmp_path / ".gemini/settings.json", "not json at all")
    write(tmp_path / "project/.mcp.json", entry)
    found = find(tmp_path, tmp_path / "project")
    assert [item.title for item in found] == ["Claude Desktop", "Cursor", "Claude Code (this folder)"]
    assert found[0].servers == {"time": {"command": "uvx", "args": ["mcp-server-time"]}}


def test_codex_toml_is_read(tmp_path: Path) -> None:
    write(
        tmp_path / ".codex/config.toml",
        'model = "x"\n[mcp_servers.time]\ncommand = "uvx"\nargs = ["mcp-server-time"]\nstartup_timeout_sec = 10\n'
        '[mcp_servers.far]\nurl = "https://a.example/mcp"\nbearer_token_env_var = "FAR"\n',
    )
    (found,) = find(tmp_path)
    assert found.servers == {
        "time": {"command": "uvx", "args": ["mcp-server-time"]},
        "far": {"url": "https://a.example/mcp", "headers": {"Authorization": "Bearer ${env:FAR}"}},
    }


def test_the_clients_connection_to_stockade_is_no_server_to_import(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    ours = {"stockade": {"url": "http://127.0.0.1:8420/mcp"}, "bridge": {"command": "stockade", "args": ["bridge"]}}
    write(path, json.dumps({"mcpServers": ours}))
    assert read(path).servers == {}


def test_a_broken_file_is_an_error_when_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", "[")
    with pytest.raises(ConfigError, match="is not TOML"):
        read(tmp_path / "a.toml")


GOOSE = """\
GOOSE_MODEL: x
extensions:
  developer: {type: builtin, name: developer, enabled: true, bundled: true}
  time:
    type: stdio
    name: time
    cmd: uvx
    args: [mcp-server-time]
    envs: {A: "1"}
    env_keys: [SECRET_ONE]
    enabled: true
    timeout: 300
  far: {type: streamable_http, uri: "https://a.example/mcp", enabled: false}
"""


def test_goose_is_read_without_what_is_built_in(tmp_path: Path) -> None:
    write(tmp_path / ".config/goose/config.yaml", GOOSE)
    (found,) = find(tmp_path)
    assert found.servers == {
        "time": {"type": "stdio", "command": "uvx", "args": ["mcp-server-time"], "env": {"A": "1"}},
        "far": {"type": "streamable_http", "url": "https://a.example/mcp", "disabled": True},
    }
    assert [note.message for note in found.notes] == [
        "'env_keys' has no effect: its key ring is not read; pass each variable under `env`"
    ]


def test_lists_of_servers_are_read(tmp_path: Path) -> None:
    listed = "mcpServers:\n  - {name: My Time, command: uvx, args: [mcp-server-time]}\n  - {url: 'https://a.example/mcp'}\n"
    write(tmp_path / ".continue/config.yaml", f"name: x\n{listed}")
    write(
        tmp_path / ".vibe/config.toml", '[[mcp_servers]]\nname = "git"\ncommand = "uvx"\nargs = ["mcp-server-git"]\n'
    )
    one, two = find(tmp_path)
    assert list(one.servers) == ["my-time", "server-2"]
    assert list(two.servers) == ["git"]


@pytest.mark.parametrize(
    "place", [".config/opencode/opencode.jsonc", ".factory/mcp.json", ".config/crush/crush.json"]
)
def test_other_clients_files_are_found(tmp_path: Path, place: str) -> None:
    container = "mcpServers" if "factory" in place else "mcp"
    write(tmp_path / place, json.dumps({container: {"a": {"command": ["uvx", "x"]}}}))
    (found,) = find(tmp_path)
    assert list(found.servers) == ["a"]


def test_servers_of_single_folders_are_named_by_folder(tmp_path: Path) -> None:
    entry = {"command": "uvx", "args": ["x"]}
    projects = {"/work/one": {"mcpServers": {"a": entry, "b": entry}}, "/work/two": {"mcpServers": {}}}
    write(tmp_path / ".claude.json", json.dumps({"mcpServers": {"c": entry}, "projects": projects}))
    (found,) = find(tmp_path)
    assert list(found.servers) == ["c"]
    (note,) = found.notes
    assert note.message == "the servers of the folder /work/one are not imported: a, b"

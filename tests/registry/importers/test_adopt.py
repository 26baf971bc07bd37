"""A file as AI clients keep it is served unchanged, closed, and with a word for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.config import Config
from registry.edit import add_server, allow_host, edit_config, remove_server
from registry.load import load_config, load_text
from registry.model.errors import ConfigError


def load(value: Any, name: str = "mcp.json") -> Config:
    return load_text(value if isinstance(value, str) else json.dumps(value), Path(name))


CLAUDE = """\
{
	// Claude Desktop
	"globalShortcut": "Ctrl+Space",
	"mcpServers": {
		"GitHub Copilot": {
			"command": "docker",
			"args": ["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"],
			"env": {"GITHUB_TOKEN": "${env:GH}"},
			"autoApprove": ["get_me"], "alwaysAllow": [], "timeout": 60, "disabled": false,
		},
		"fetch": {"type": "stdio", "command": "uvx", "args": ["mcp-server-fetch"], "disabled": true},
	},
}
"""


def test_a_clients_file_loads_with_its_own_keys_comments_and_names() -> None:
    config = load(CLAUDE)
    assert list(config.servers) == ["github-copilot", "fetch"]
    assert all(server.isolated and server.network.block == {} for server in config.servers.values())
    assert config.servers["fetch"].disabled
    assert [str(warning) for warning in config.warnings] == [
        "mcp.json:5:3: mcpServers.GitHub Copilot: 'GitHub Copilot' is served as 'github-copilot', "
        "since a name has only lower-case letters, digits and -."
    ]


def test_sections_of_ours_beside_a_clients_servers_leave_the_rest_as_it_is() -> None:
    token = "b" * 64
    file = {
        "gateway": {"listen": "127.0.0.1:8520"},
        "clients": {"cursor": {"token_sha256": token, "servers": ["my-fetch"]}},
        "mcpServers": {
            "My Fetch": {"command": "uvx", "args": ["mcp-server-fetch"], "alwaysAllow": []},
            "local": {"command": "python3", "args": ["-m", "foo"]},
        },
    }
    config = load(file)
    assert list(config.servers) == ["my-fetch"]
    assert config.gateway.listen == "127.0.0.1:8520"
    assert config.clients["cursor"].servers == ("my-fetch",)
    with pytest.raises(ConfigError, match=r"gateway.lisen: unknown key 'lisen'. Did you mean 'listen'"):
        load({**file, "gateway": {"lisen": "127.0.0.1:8520"}})


def test_two_names_that_would_become_one_stay_two() -> None:
    entry = {"command": "uvx", "args": ["x"]}
    assert list(load({"mcpServers": {"My Server": entry, "my-server": entry, "MY_SERVER": entry}}).servers) == [
        "my-server",
        "my-server-2",
        "my-server-3",
    ]


def test_vs_codes_servers_and_inputs_are_read() -> None:
    config = load(
        {
            "inputs": [{"type": "promptString", "id": "gh-token", "password": True}],
            "servers": {
                "gh": {"type": "http", "url": "https://a.example/mcp", "headers": {"X": "Bearer ${input:gh-token}"}},
                "x": {
                    "command": "npx",
                    "args": ["-y", "b", "${workspaceFolder}/sub"],
                    "envFile": "${workspaceFolder}/.env",
                },
            },
        },
        "/work-folder/.vscode/mcp.json",
    )
    assert config.servers["gh"].headers == {"X": "Bearer ${secret:gh-token}"}
    assert config.servers["x"].args == ("-y", "b", "/work-folder/sub")
    assert any("is read as the secret 'gh-token'" in warning.message for warning in config.warnings)
    assert any("'envFile' has no effect" in warning.message for warning in config.warnings)


SHAPES = {
    "windsurf": ({"mcpServers": {"a": {"serverUrl": "https://a.example/mcp"}}}, {"url": "https://a.example/mcp"}),
    "gemini": ({"mcpServers": {"a": {"httpUrl": "https://a.example/mcp"}}}, {"url": "https://a.example/mcp"}),
    "cline": (
        {"mcpServers": {"a": {"type": "streamableHttp", "url": "https://a.example/mcp"}}},
        {"url": "https://a.example/mcp"},
    ),
    "zed": ({"context_servers": {"a": {"command": "uvx", "args": ["x"]}}}, {"command": "uvx", "args": ("x",)}),
    "opencode": (
        {
            "mcp": {
                "a": {
                    "type": "local",
                    "command": ["npx", "-y", "b"],
                    "enabled": True,
                    "environment": {"A": "{env:B}"},
                }
            }
        },
        {"command": "npx", "args": ("-y", "b"), "env": {"A": "${env:B}"}, "disabled": False},
    ),
    "switched off": ({"mcp": {"servers": {"a": {"command": ["uvx", "x"], "enabled": False}}}}, {"disabled": True}),
    "claude code": (
        {"mcpServers": {"a": {"command": "uvx", "args": ["x"], "env": {"A": "${B}", "C": "${D:-e}", "F": "$G"}}}},
        {"env": {"A": "${env:B}", "C": "${env:D:-e}", "F": "${env:G}"}},
    ),
    "zed's mapping": (
        {
            "context_servers": {
                "a": {"source": "custom", "command": {"path": "npx", "args": ["b"], "env": {"A": "1"}}}
            }
        },
        {"command": "npx", "args": ("b",), "env": {"A": "1"}},
    ),
    "transportType": (
        {"mcpServers": {"a": {"transportType": "streamable-http", "url": "https://a.example/mcp"}}},
        {"url": "https://a.example/mcp", "type": "http"},
    ),
    "transport_type": (
        {"mcpServers": {"a": {"transport_type": "stdio", "command": "uvx", "args": ["x"]}}},
        {"command": "uvx", "type": "stdio"},
    ),
    "an empty section before": (
        {"mcpServers": {}, "servers": {"a": {"command": "uvx", "args": ["x"]}}},
        {"command": "uvx"},
    ),
    "a client's settings before": (
        {"mcp": {"allowed": ["x"]}, "extensions": {"disabled": []}, "context_servers": {"a": {"command": "uvx x"}}},
        {"command": "uvx x"},
    ),
    "copilot": ({"mcpServers": {"a": {"command": "uvx", "args": ["x"], "tools": ["*"]}}}, {"command": "uvx"}),
}


@pytest.mark.parametrize(("value", "expected"), SHAPES.values(), ids=SHAPES)
def test_each_clients_spelling_is_understood(value: Any, expected: dict[str, Any]) -> None:
    server = load(value).servers["a"]
    assert {key: getattr(server, key) for key in expected} == expected


def test_lists_of_tools_become_our_rules() -> None:
    entry = {"command": "uvx", "args": ["x"], "includeTools": ["a", "b"], "disabledTools": ["b"]}
    tools = load({"mcpServers": {"a": entry}}).servers["a"].tools
    assert (tools.allow, tools.deny) == (("a", "b"), ("b",))


def test_what_cannot_run_behind_a_wall_is_left_out_and_the_rest_is_served() -> None:
    config = load(
        {
            "mcpServers": {
                "ok": {"command": "uvx", "args": ["x"]},
                "local": {"command": "/opt/my/server"},
                "priv": {"command": "docker", "args": ["run", "--privileged", "x"]},
                "old": {"type": "sse", "url": "https://a.example/sse"},
                "typo": {"command": "uvx", "args": ["x"], "netwrok": {"allowed_hosts": ["a.example"]}},
            }
        }
    )
    assert list(config.servers) == ["ok"]
    said = [warning.message for warning in config.warnings]
    assert len(said) == 4
    assert all(message.startswith("this server is left out: ") for message in said)


def test_a_network_in_a_clients_file_is_obeyed() -> None:
    entry = {"command": "uvx", "args": ["x"], "network": {"allowed_hosts": ["a.example"]}}
    assert load({"mcpServers": {"a": entry}}).servers["a"].network.block == {"allowed_hosts": ["a.example"]}


def test_json_with_our_version_is_ours_and_strict() -> None:
    with pytest.raises(ConfigError, match="unknown key 'autoApprove'"):
        load({"version": 1, "mcpServers": {"a": {"command": "uvx", "args": ["x"], "autoApprove": []}}})


def test_a_file_of_the_wrong_shape_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'hello'"):
        load({"hello": 1})
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"command": "uvx",}}', "utf-8")
    with pytest.raises(ConfigError, match=r"mcp\.json:1:42: is not JSON"):
        load_config(tmp_path / "mcp.json")


def test_every_section_of_a_file_is_read_and_can_be_changed(tmp_path: Path) -> None:
    def entry(name: str) -> dict[str, Any]:
        return {"command": "uvx", "args": [name]}

    value = {
        "mcpServers": {},
        "mcp": {"servers": {"One": entry("one"), "two": entry("two")}},
        "mcp_servers": {"two": entry("other"), "three": entry("three")},
    }
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(value))
    config = load_config(path)
    assert {name: server.args for name, server in config.servers.items()} == {
        "one": ("one",),
        "two": ("two",),
        "two-2": ("other",),
        "three": ("three",),
    }
    assert any("another section of this file has a server 'two' too" in one.message for one in config.warnings)
    for name in ("one", "two-2", "three"):
        edit = edit_config(path, allow_host(name, "a.example"))
        assert edit.config.servers[name].network.block == {"allowed_hosts": ["a.example"]}
    after = json.loads(edit_config(path, remove_server("two-2")).after)
    assert after["mcp_servers"] == {"three": entry("three")}
    with pytest.raises(ConfigError, match="there is already a server 'three'"):
        edit_config(path, add_server("three", entry("x")))

"""The catalog: each server is complete, and as closed as it can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.catalog import CatalogError, Overrides, entry, info, needs, search, servers
from registry.edit import add_server, edit_config
from registry.load import load_text
from registry.model.sources import ImageSource, PackageSource
from registry.model.spec import plan_source


def test_there_are_twelve() -> None:
    assert len(servers()) == 12
    assert [server.name for server in search()] == sorted(servers())


@pytest.mark.parametrize("name", sorted(servers()))
def test_every_entry_can_be_written_and_planned(name: str, tmp_path: Path) -> None:
    edit = edit_config(tmp_path / "stockade.yaml", add_server(name, entry(name)))
    server = edit.config.servers[name]
    assert isinstance(plan_source(server), PackageSource | ImageSource)
    assert server.isolated
    assert [warning for warning in edit.warnings if "network" in warning.key_path] == []


@pytest.mark.parametrize("name", sorted(servers()))
def test_every_entry_says_what_it_needs_and_why(name: str) -> None:
    server = info(name)
    assert server.tools
    assert server.homepage.startswith("https://")
    assert all(host.reason for host in server.network.allowed_hosts)
    assert server.network.allowed_hosts or server.network_note
    assert all("*" not in host.host and not host.host.startswith(".") for host in server.network.allowed_hosts)
    assert not any(item.default for item in server.env if item.secret)


def test_search_finds_by_name_tag_tool_and_words_in_any_order() -> None:
    assert [server.name for server in search("sql")] == ["sqlite", "postgres"]
    assert search("time zone convert")[0].name == "time"
    assert search("slack_post_message")[0].name == "slack"
    assert search("no-such-thing-anywhere") == []


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(CatalogError) as caught:
        info("gitub")
    assert caught.value.args[0] == "the catalog has no server 'gitub'. Did you mean 'github'?"


def test_overrides_widen_narrow_or_replace_the_network() -> None:
    more = Overrides(allow_hosts=["uploads.github.com", "api.github.com"], allow_ports=[443, 8443])
    assert entry("github", more)["network"] == {
        "isolated": True,
        "allowed_hosts": ["api.github.com", "raw.githubusercontent.com", "uploads.github.com"],
        "allowed_ports": [443, 8443],
    }
    assert entry("github", Overrides(isolated=False))["network"] == {"isolated": False}
    assert entry("github", Overrides(network={"mode": "learn"}))["network"] == {"mode": "learn"}


def test_a_database_host_becomes_a_rule_of_its_own_protocol() -> None:
    network = entry("postgres", Overrides(allow_hosts=["db.example.com:5432"]))["network"]
    assert network["allowed_hosts"] == [{"host": "db.example.com", "port": 5432, "protocol": "tcp"}]
    assert network["direct"] == "allow"


def test_secrets_are_references_and_what_is_missing_is_said() -> None:
    assert entry("slack")["env"] == {"SLACK_BOT_TOKEN": "${secret:slack-bot-token}"}
    assert [(need.kind, need.name) for need in needs("slack")] == [
        ("secret", "slack-bot-token"),
        ("env", "SLACK_TEAM_ID"),
    ]
    given = Overrides(env={"SLACK_TEAM_ID": "T1", "SLACK_BOT_TOKEN": "${env:X}"})
    assert needs("slack", given) == []
    assert [need.kind for need in needs("git")] == ["mount"]
    assert needs("git", Overrides(mounts=["./r:/repo:ro"])) == []
    assert [need.kind for need in needs("postgres")] == ["secret", "host"]


def test_a_server_that_keeps_files_gets_a_volume_unless_a_folder_is_mounted_there() -> None:
    written = entry("memory")
    assert written["storage"] == "/data"
    assert written["env"]["MEMORY_FILE_PATH"].startswith("/data/")
    mounted = entry("memory", Overrides(mounts=["./m:/data"]))
    assert (mounted["mounts"], "storage" in mounted) == (["./m:/data"], False)
    assert not any("/tmp" in str(entry(name)) for name in servers())


def test_the_package_that_a_server_runs_is_named() -> None:
    assert info("sqlite").source == "mcp-server-sqlite"
    assert info("memory").source == "@modelcontextprotocol/server-memory"
    assert info("github").source == "ghcr.io/github/github-mcp-server"
    source = plan_source(load_text(f"mcpServers: {{a: {entry('sqlite')}}}", "s.yaml").servers["a"])
    assert isinstance(source, PackageSource)
    assert source.extra_requirements == ("mcp<2",)


def test_the_written_entry_loads_again(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    edit = edit_config(tmp_path / "s.yaml", add_server("git", entry("git", Overrides(mounts=["./r:/repo"]))))
    server = load_text(edit.after, tmp_path / "s.yaml").servers["git"]
    assert (server.packages, server.mounts[0].target) == (("git",), "/repo")

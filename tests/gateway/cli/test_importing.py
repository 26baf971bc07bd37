"""`stockade import`: one change, which shows no token, and which may be made twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from registry.load import load_config
from registry.secrets import SecretStore
from tests.gateway.control.fakes import Running

TOKEN = "ghp_" + "a1B2" * 6
SERVERS = {
    "github": {
        "command": "docker",
        "args": ["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"],
        "env": {"GITHUB_TOKEN": TOKEN},
    },
    "db": {"command": "npx", "args": ["-y", "server-postgres", "postgresql://app:hunter2pw@db.example/shop"]},
    "key": {"command": "uvx", "args": ["x", "--api-key", "sk_live_12345678", "-v"]},
    "far": {"url": "https://mcp.example/mcp?key=querykey123", "headers": {"Authorization": "Bearer headertoken"}},
    "plain": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TOKEN_FILE": "/etc/hosts", "PASSWORD": "x"}},
}
VALUES = [TOKEN, "hunter2pw", "sk_live_12345678", "querykey123", "headertoken"]


@pytest.fixture
def theirs(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("STOCKADE_SECRETS_DIR", raising=False)
    path = work / "theirs.json"
    path.write_text(json.dumps({"mcpServers": SERVERS}))
    return path


@pytest.mark.parametrize(
    "options", [("--dry-run",), ("--yes",), ("--yes", "--keep-secrets"), ("--dry-run", "--keep-secrets")]
)
def test_one_diff_is_shown_and_no_token_in_it(stockade: Any, theirs: Path, options: tuple[str, ...]) -> None:
    said = stockade("import", "theirs.json", *options)
    assert said.code == 0, said.err
    assert said.out.count("+++") == 1
    for name in SERVERS:
        assert f"+  {name}:" in said.out
    assert not [value for value in VALUES if value in said.out + said.err]


def test_tokens_become_secrets_which_the_servers_are_started_with(stockade: Any, theirs: Path, work: Path) -> None:
    said = stockade("import", "theirs.json", "--yes")
    assert "theirs.json has them too: remove them there" in said.err
    assert "kept as secrets instead: github-token, postgresql-password, api-key, authorization, key." in said.err
    text = (work / "stockade.yaml").read_text()
    assert not [value for value in VALUES if value in text]
    servers = load_config(work / "stockade.yaml").servers
    store = SecretStore()
    assert store.resolve(servers["github"].env)["GITHUB_TOKEN"] == TOKEN
    assert store.resolve_list(servers["db"].args)[2] == SERVERS["db"]["args"][2]
    assert store.resolve_list(servers["key"].args) == tuple(SERVERS["key"]["args"])
    assert store.resolve(servers["far"].headers) == SERVERS["far"]["headers"]
    assert store.resolve_text(servers["far"].url or "") == SERVERS["far"]["url"]


def test_a_token_that_is_to_stay_is_written_with_a_word(stockade: Any, theirs: Path, work: Path) -> None:
    said = stockade("import", "theirs.json", "--yes", "--keep-secrets")
    assert TOKEN in (work / "stockade.yaml").read_text()
    assert "github.env.GITHUB_TOKEN: stands here in plain text" in said.err


def test_a_secret_of_the_same_name_is_never_replaced(stockade: Any, theirs: Path, work: Path) -> None:
    SecretStore().set("github-token", "mine")
    assert stockade("import", "theirs.json", "--yes").code == 0
    assert SecretStore().lookup("github-token") == "mine"
    servers = load_config(work / "stockade.yaml").servers
    assert servers["github"].env["GITHUB_TOKEN"] == "${secret:github-github-token}"
    assert SecretStore().resolve(servers["github"].env)["GITHUB_TOKEN"] == TOKEN


@pytest.mark.parametrize("runs", [True, False])
def test_a_second_import_changes_nothing_and_is_no_error(
    stockade: Any, theirs: Path, work: Path, request: pytest.FixtureRequest, runs: bool
) -> None:
    if runs:
        request.getfixturevalue("running")
    assert stockade("import", "theirs.json", "--yes").code == 0
    before = (work / "stockade.yaml").read_text()
    said = stockade("import", "theirs.json", "--yes")
    assert (said.code, said.out) == (0, "")
    assert "In ./stockade.yaml already, and left as they are: github, db, key, far, plain." in said.err
    assert (work / "stockade.yaml").read_text() == before


def test_a_running_gateway_gets_them_in_one_diff_too(
    stockade: Any, running: Running, theirs: Path, work: Path
) -> None:
    said = stockade("import", "theirs.json", "--yes")
    assert (said.code, said.out.count("+++")) == (0, 1)
    assert set(SERVERS) <= set(load_config(work / "stockade.yaml").servers)


@pytest.mark.parametrize("command", [("rm", "github"), ("egress", "allow", "github", "a.example")])
def test_no_other_change_of_the_file_shows_a_token(stockade: Any, theirs: Path, command: tuple[str, ...]) -> None:
    stockade("import", "theirs.json", "--yes", "--keep-secrets")
    said = stockade(*command)
    assert "github" in said.out
    assert not [value for value in VALUES if value in said.out + said.err]


def test_what_run_shows_hides_a_token_too(stockade: Any, work: Path) -> None:
    said = stockade("run", "time", "-y", "--no-start", "-e", f"MY_TOKEN={TOKEN}")
    assert "MY_TOKEN" in said.out
    assert TOKEN not in said.out
    assert TOKEN in (work / "stockade.yaml").read_text()


def test_a_name_that_is_no_client_and_no_file_says_what_there_is(stockade: Any, work: Path) -> None:
    said = stockade("import", "nosuch").err
    assert "'nosuch' is neither a file nor an AI client that Stockade knows. Clients: " in said
    assert "stockade run" not in said
    assert "stockade run" not in stockade("import", "cursor").err


def test_a_client_whose_servers_are_all_elsewhere_is_told_where(stockade: Any, home: Path, work: Path) -> None:
    projects = {"/work/one": {"mcpServers": {"a": {"command": "uvx"}}}}
    (home / ".claude.json").write_text(json.dumps({"projects": projects}))
    said = stockade("import", "claude-code").err
    assert "claude-code has no server to import" in said
    assert "the servers of the folder /work/one are not imported: a" in said
    (home / ".config/JetBrains").mkdir(parents=True)
    assert "Stockade cannot read JetBrains AI Assistant's servers yet" in stockade("import", "jetbrains").err


def test_a_clients_other_file_is_found_by_its_name(stockade: Any, home: Path, work: Path) -> None:
    (home / ".config/opencode").mkdir(parents=True)
    (home / ".config/opencode/opencode.jsonc").write_text('{"mcp": {"a": {"command": ["uvx", "x"]}}} // mine')
    assert stockade("import", "opencode", "--yes").code == 0
    assert list(load_config(work / "stockade.yaml").servers) == ["a"]

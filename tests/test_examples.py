"""The files in examples/ load as they are, and mean what their comments say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from egress.policy.decide import Policy, Surroundings, parse_policy
from egress.policy.explain import explain
from examples.demo.__main__ import gist
from registry.config import Config
from registry.load import load_config

EXAMPLES = Path(__file__).parents[1] / "examples"


def policy(config: Config, server: str) -> Policy:
    return parse_policy(config.servers[server].network.block)


def allowed(config: Config, server: str, target: str) -> bool:
    return explain(policy(config, server), target, Surroundings()).decision.value == "allow"


def test_the_demo_shows_the_gist_of_an_answer() -> None:

    page = 'Content type application/json, here is the raw content:\nContents of https://a.example/:\n{"a": 1}'
    assert gist(page) == '{"a": 1}'
    assert gist("Failed\nStockade blocked a.example:443 (host_not_allowed).\nmore") == (
        "Stockade blocked a.example:443 (host_not_allowed)."
    )


def test_the_demo_loads_beside_its_certificate_and_warns_of_its_overrides_alone(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "demo.yaml", tmp_path)
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    config = load_config(tmp_path / "demo.yaml")
    assert list(config.servers) == ["fetch", "time", "everything", "rogue"]
    assert {warning.key_path.split("[")[0] for warning in config.warnings} == {"egress.resolve"}


def test_the_teams_file_loads_without_a_warning() -> None:
    config = load_config(EXAMPLES / "team.yaml")
    assert config.warnings == ()
    assert config.gateway.auth is not None
    assert all(server.isolated for server in config.servers.values())


@pytest.mark.parametrize(
    ("server", "target", "expected"),
    [
        ("fetch", "https://docs.python.org/3/", True),
        ("fetch", "https://evil.example/", False),
        ("github", "http://api.github.com/", False),
        ("gitlab", "gitlab.corp.example:443", True),
        ("gitlab", "gitlab.corp.example:22", False),
        ("orders-db", "db.corp.example:5432", True),
        ("orders-db", "db.corp.example:443", False),
        ("grafana", "http://host.docker.internal:3000/", True),
        ("grafana", "http://host.docker.internal:22/", False),
        ("notes", "https://api.github.com/", False),
    ],
)
def test_the_teams_policies_decide_as_their_comments_say(server: str, target: str, expected: bool) -> None:
    assert allowed(load_config(EXAMPLES / "team.yaml"), server, target) is expected


def test_the_teams_clients_see_their_servers_only() -> None:
    config = load_config(EXAMPLES / "team.yaml")
    assert {client: config.visible_servers(client) for client in config.clients} == {
        "developers": ("fetch", "github", "gitlab", "notes"),
        "support": ("orders-db", "notes"),
        "oncall": ("github", "orders-db", "grafana"),
        "ci": ("github",),
    }


def test_a_plain_client_file_loads_with_every_server_isolated_and_reaching_nothing() -> None:
    path = EXAMPLES / "clients-file.json"
    assert list(json.loads(path.read_text())) == ["mcpServers"]
    config = load_config(path)
    assert list(config.servers) == ["fetch", "time", "memory", "everything"]
    assert all(server.isolated and not policy(config, name).rules for name, server in config.servers.items())

"""Networks that a server may join, and those that it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.load import load_text
from registry.model.errors import ConfigError

SPECIAL = (
    "host", "Host", "none", "bridge", "default", "nat", "ingress", "docker_gwbridge", "container:web", "ns:/proc/1/ns/net",
    "stockade-demo-egress-net", "stockade-demo-b-open-net", "-flag", "../x",
)  # fmt: skip


def config(*networks: str) -> str:
    listed = ", ".join(f"'{name}'" for name in networks)
    return f"version: 1\nmcpServers:\n  a:\n    command: uvx\n    args: [x]\n    network:\n      join: [{listed}]\n"


@pytest.mark.parametrize("name", SPECIAL)
def test_a_network_of_the_engine_or_of_ours_is_not_joined(name: str) -> None:
    """Red team m9: `join: [host]` was valid, and only the container runtime kept the connector out."""
    with pytest.raises(ConfigError) as caught:
        load_text(config("myapp_default", name), Path("s.yaml"))
    (problem,) = caught.value.problems
    assert (problem.line, problem.key_path) == (7, "mcpServers.a.network.join[1]")
    assert repr(name) in problem.message
    assert "docker network ls" in problem.hint


def test_a_network_of_workloads_is_joined() -> None:
    loaded = load_text(config("myapp_default", "app.net-2", "hosting"), Path("s.yaml"))
    assert loaded.servers["a"].network.policy.join == ("myapp_default", "app.net-2", "hosting")

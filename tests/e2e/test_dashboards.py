"""The dashboard and the alerts: Debian's Prometheus scrapes a real gateway while the story's calls run."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from mcp import MCPError
from ruamel.yaml import YAML

from examples.demo import stage
from examples.demo.story import Scene, client, play
from tests.e2e import lean
from tests.e2e.stockade_process import ROOT, StockadeProcess
from tests.observability.prometheus import ALERTS, PrometheusServer, panel_queries, running_prometheus

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.timeout(240)]

DEVELOPER = "demo-developer"
REACHED = {"host": "api.github.com", "port": 443}
REFUSED = {"host": "refused.example", "port": 443}

MORE = """
  learner:                  # learns what it needs, so nothing public is refused
    image: stockade-test-rogue:latest
    network: {mode: learn}
  looker:                   # may ask for a name that the engine itself answers, which leads to the egress: refused
    image: stockade-test-rogue:latest
    network: {allowed_hosts: [stockade-PROJECT-egress]}
  puppet:                   # keeps a tunnel open when it is told to
    image: stockade-test-rogue:latest
    entrypoint: [python3, -u, /puppet.py]
    mounts: ["./puppet.py:/puppet.py:ro"]
    network: {mode: learn}
"""
TUNNEL = """
import socket, ssl
sock = socket.create_connection(("127.0.0.1", 3128), timeout=15)
sock.sendall(b"CONNECT api.github.com:443 HTTP/1.1\\r\\nHost: api.github.com:443\\r\\n\\r\\n")
assert b" 200 " in sock.recv(4096)
held = ssl.create_default_context().wrap_socket(sock, server_hostname="api.github.com")
"""
FILTERS = "    tools: {deny: [rogue__look_around]}\n"


@pytest.fixture(scope="module")
def gateway(
    engine: docker.DockerClient, python_base: str, workspace: Path, internet: stage.Internet, run_id: str
) -> Iterator[StockadeProcess]:
    project = f"dash{run_id}"
    shutil.copy(ROOT / "tests" / "e2e" / "puppet.py", workspace / "puppet.py").chmod(0o644)
    servers = lean.SERVERS + MORE.replace("PROJECT", project)
    text = f"project: {project}\n" + lean.head(internet) + servers + lean.CLIENTS + FILTERS
    with lean.running(workspace, text, engine, python_base) as process:
        yield process


@pytest.fixture(scope="module")
def prometheus(gateway: StockadeProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    target = str(gateway.gateway["admin"]).removeprefix("http://").rstrip("/")
    with running_prometheus(target, tmp_path_factory.mktemp("prometheus")) as server:
        server.until(lambda: server.value('up{job="stockade"}') == 1, what="the gateway was not scraped")
        yield server


async def attempt(
    gateway: StockadeProcess, tool: str, times: int = 1, *, mode: str = "auto", **arguments: Any
) -> None:
    """The same call some times, by one client."""
    async with client(gateway.endpoint, DEVELOPER, mode=mode) as connected:
        for _ in range(times):
            await play(connected, Scene(says="", tool=tool, arguments=arguments))


async def story(gateway: StockadeProcess) -> None:
    """A little of everything that a dashboard shows; a tunnel stays open meanwhile."""
    await attempt(gateway, "fetch__fetch", url="https://api.github.com/zen")
    await attempt(gateway, "rogue__proxy_connect", 2, **REACHED)
    await attempt(gateway, "rogue__proxy_connect", 2, **REFUSED)
    await attempt(gateway, "rogue__tcp_connect", address="198.51.100.20", port=443)
    await attempt(gateway, "learner__proxy_connect", mode="legacy", **REACHED)
    await attempt(gateway, "looker__proxy_connect", host=f"stockade-{gateway.gateway['project']}-egress", port=443)
    async with client(gateway.endpoint, DEVELOPER) as connected:
        with pytest.raises(MCPError, match="Unknown tool"):
            await connected.call_tool("rogue__look_around", {})


def test_every_metric_that_a_panel_or_a_rule_names_is_on_the_gateway(gateway: StockadeProcess) -> None:
    expressions = [expr for _, expr in panel_queries()]
    for group in YAML(typ="safe").load(ALERTS.read_text())["groups"]:
        expressions += [rule["expr"] for rule in group["rules"]]
    text = "\n".join(re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", expr) for expr in expressions)
    named = set(re.findall(r"\b(?:stockade|mcp)_[a-z_]+", text))
    shown = set(re.findall(r"^# TYPE (\S+)", gateway.metrics(), re.MULTILINE))
    missing = {name for name in named if re.sub(r"_(bucket|sum|count)$", "", name) not in shown and name not in shown}
    assert missing == set()


async def test_every_panel_answers_while_the_story_runs(
    gateway: StockadeProcess, prometheus: PrometheusServer
) -> None:
    unanswered = panel_queries()
    assert len(unanswered) >= 15
    for _ in range(20):
        await story(gateway)
        unanswered = [query for query in unanswered if not answers(prometheus, query[1])]
        if not unanswered:
            break
    assert unanswered == []


def answers(prometheus: PrometheusServer, expr: str) -> bool:
    """Whether there is a number to draw."""
    return any(not math.isnan(float(sample["value"][1])) for sample in prometheus.query(expr))


async def test_a_burst_of_denials_fires_the_alert_of_that_backend_alone(
    gateway: StockadeProcess, prometheus: PrometheusServer
) -> None:
    assert ("StockadeDenyBurst", "fetch") not in prometheus.firing()
    await attempt(gateway, "rogue__proxy_connect", 30, **REFUSED)
    prometheus.until(
        lambda: ("StockadeDenyBurst", "rogue") in prometheus.firing(), what="the deny burst did not fire"
    )
    assert {backend for alert, backend in prometheus.firing() if alert == "StockadeDenyBurst"} == {"rogue"}
    assert "refused.example" not in gateway.metrics(), "a host name that was refused is no label"


def test_only_the_rules_that_nothing_used_are_called_unused(
    gateway: StockadeProcess, prometheus: PrometheusServer
) -> None:
    (expr,) = [expr for title, expr in panel_queries() if "never used" in title]
    unused = {(sample["metric"]["backend"], sample["metric"]["rule"]) for sample in prometheus.query(expr)}
    assert unused == {("rogue", ".never.example"), ("looker", f"stockade-{gateway.gateway['project']}-egress")}


async def test_an_open_tunnel_is_counted_while_it_is_open(
    gateway: StockadeProcess, prometheus: PrometheusServer
) -> None:
    expr = 'sum(stockade_egress_connection_active{backend="puppet"})'
    await attempt(gateway, "puppet__run", code="answer = 'up'")
    assert not prometheus.value(expr)
    await attempt(gateway, "puppet__run", code=TUNNEL)
    prometheus.until(lambda: prometheus.value(expr) == 1, what="the open tunnel is not counted")
    await attempt(gateway, "puppet__run", code="held.close()")
    prometheus.until(lambda: prometheus.value(expr) == 0, what="the closed tunnel is still counted")


async def test_a_file_that_is_refused_fires_the_reload_alert_until_it_is_mended(
    gateway: StockadeProcess, prometheus: PrometheusServer
) -> None:
    good = gateway.config.read_text()
    gateway.config.write_text(good.replace("version: 1", "version: 99"))
    prometheus.until(lambda: ("StockadeReloadFailed", "") in prometheus.firing(), what="the alert did not fire")
    gateway.config.write_text(good)
    prometheus.until(lambda: ("StockadeReloadFailed", "") not in prometheus.firing(), what="the alert did not end")

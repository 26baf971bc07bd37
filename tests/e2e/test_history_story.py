"""What happened outlives the gateway: `kill -9`, a restart, and a bound on what is kept."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from examples.demo import stage
from examples.demo.story import Scene, Shown, client, play
from gateway.control.running import process_started
from tests.e2e import lean
from tests.e2e.stockade_process import StockadeProcess, until

pytestmark = [pytest.mark.docker, pytest.mark.anyio, pytest.mark.timeout(180)]

MAX_ROWS = 30


@pytest.fixture(scope="module")
def gateway(
    engine: docker.DockerClient, python_base: str, workspace: Path, internet: stage.Internet
) -> Iterator[StockadeProcess]:
    text = lean.head(internet).replace("admin:", f"history: {{max_rows: {MAX_ROWS}}}, admin:")
    with lean.running(workspace, text + "mcpServers:" + lean.HOSTILE, engine, python_base) as process:
        yield process


async def call(gateway: StockadeProcess, tool: str, **arguments: Any) -> Shown:
    async with client(gateway.server_endpoint("hostile"), "") as connected:
        return await play(connected, Scene(says="", tool=tool, arguments=arguments))


async def refused(gateway: StockadeProcess, host: str) -> None:
    shown = await call(gateway, "proxy_connect", host=host, port=443)
    assert [denial["reason"] for denial in shown.denials] == ["host_not_allowed"]


def kill(gateway: StockadeProcess) -> None:
    pid = gateway.gateway["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: process_started(pid) is None, "the gateway is dead")


def open_connections(gateway: StockadeProcess) -> float:
    (value,) = re.findall(
        r'^stockade_egress_connection_active\{.*backend="hostile".*\} (\S+)', gateway.metrics(), re.M
    )
    return float(value)


def denials(gateway: StockadeProcess, host: str) -> list[dict[str, Any]]:
    return [event for event in gateway.json_lines("egress", "tail", "-n", "500") if event.get("host") == host]


async def test_events_tunnels_and_attribution_survive_kill_9(gateway: StockadeProcess) -> None:
    await refused(gateway, "before.example")
    await call(gateway, "hold", host="api.github.com", port=443)
    until(lambda: open_connections(gateway) == 1, "one tunnel is open")
    kill(gateway)
    gateway.up()

    (top,) = [row for row in gateway.json("egress", "top") if row["name"] == "before.example"]
    assert top["connections"] == 1
    assert [row["host"] for row in gateway.json("egress", "blocked")] == ["before.example"]
    (event,) = denials(gateway, "before.example")
    assert event["calls"][0]["tool"] == "proxy_connect"
    until(lambda: open_connections(gateway) == 0, "its tunnel went with the stdio server, which was started anew")
    await call(gateway, "hold", host="api.github.com", port=443)
    until(lambda: open_connections(gateway) == 1, "a new tunnel is open")
    await call(gateway, "let_go")
    until(lambda: open_connections(gateway) == 0, "the tunnel is closed")
    await refused(gateway, "after.example")
    assert denials(gateway, "after.example")
    counted = re.findall(r"^stockade_egress_connections_total\{.*host_not_allowed.*\} (\S+)", gateway.metrics(), re.M)
    assert sum(map(float, counted)) == 2, "counted on from what the egress still knew"


async def test_history_is_bounded_by_rows(gateway: StockadeProcess) -> None:
    for number in range(MAX_ROWS // 2):
        await refused(gateway, f"host{number}.example")
    kill(gateway)
    gateway.up()
    (path,) = gateway.state.rglob("history.db")
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        for table in ("events", "connections"):
            (rows,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert 0 < rows <= 2 * MAX_ROWS, table
    assert denials(gateway, f"host{MAX_ROWS // 2 - 1}.example")

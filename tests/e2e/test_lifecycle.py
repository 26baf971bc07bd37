"""Up, down, and everything that dies in between: what is left, what is adopted, what is recovered."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from examples.demo import stage
from examples.demo.story import Scene, client, play, rogue_outcome
from gateway.control.running import process_started
from tests.e2e.stockade_process import StockadeProcess, until

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

VICTIMS = {"egress": "-egress", "door": "-b-rogue-door", "backend": "-b-rogue"}

CONFIG = """
version: 1
gateway: {listen: "127.0.0.1:0", admin: "127.0.0.1:0"}
mcpServers:
  rogue:
    image: stockade-test-rogue:latest
  everything:
    command: npx
    args: ["@modelcontextprotocol/server-everything", streamableHttp]
    transport: http
    port: 3001
"""


@pytest.fixture
def gateway(engine: docker.DockerClient, python_base: str, workspace: Path) -> Iterator[StockadeProcess]:
    """A gateway of this test's own, up."""
    stage.build_rogue(engine, python_base, "stockade-test-rogue:latest")
    config = workspace / "stockade.yaml"
    config.write_text(CONFIG)
    process = StockadeProcess(config=config, state=workspace / "s")
    try:
        process.up()
        yield process
    finally:
        process.down()


def names(engine: docker.DockerClient, project: str, *, stopped: bool = True) -> list[str]:
    """Names of the project's containers (sparse: one that goes away meanwhile is no error)."""
    found = [
        container.attrs["Names"][0].lstrip("/") for container in engine.containers.list(all=stopped, sparse=True)
    ]
    return sorted(name for name in found if project in name)


def ours(engine: docker.DockerClient, project: str) -> tuple[list[str], list[str]]:
    """Names of the containers and networks that carry the project's name."""
    return names(engine, project), sorted(n.name for n in engine.networks.list() if project in n.name)


def containers_of(gateway: StockadeProcess) -> dict[str, list[str]]:
    return {backend["name"]: backend["containers"] for backend in gateway.json("ps")["backends"]}


async def echo(gateway: StockadeProcess, text: str) -> str:
    async with client(gateway.endpoint, "") as connected:
        result = await connected.call_tool("everything__echo", {"message": text})
        return str(result.content[0].text)


async def blocked(gateway: StockadeProcess) -> str:
    """The status line with which the proxy refuses a host of the rogue."""
    async with client(gateway.endpoint, "") as connected:
        scene = Scene(says="", tool="rogue__proxy_connect", arguments={"host": "evil.example", "port": 443})
        return str(rogue_outcome(await play(connected, scene)).get("status", ""))


async def test_down_leaves_no_container_network_process_or_socket(
    gateway: StockadeProcess, engine: docker.DockerClient
) -> None:
    found = gateway.gateway
    assert ours(engine, found["project"])[0]
    gateway.run("down")
    assert ours(engine, found["project"]) == ([], [])
    assert process_started(found["pid"]) is None
    assert not list(gateway.state.glob("*/control.sock"))


async def test_after_sigkill_the_next_start_adopts_what_runs_and_removes_what_is_orphaned(
    gateway: StockadeProcess, engine: docker.DockerClient
) -> None:
    before = containers_of(gateway)
    project = gateway.gateway["project"]
    os.kill(gateway.gateway["pid"], signal.SIGKILL)
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("  rogue:\n    image: stockade-test-rogue:latest\n", ""))
    gateway.up()
    after = containers_of(gateway)
    assert after["everything"] == before["everything"]
    assert not [name for name in ours(engine, project)[0] if "rogue" in name]
    assert "again" in await echo(gateway, "again")


async def test_down_cleans_up_after_a_gateway_that_was_killed(
    gateway: StockadeProcess, engine: docker.DockerClient
) -> None:
    found = gateway.gateway
    os.kill(found["pid"], signal.SIGKILL)
    gateway.run("down")
    assert ours(engine, found["project"]) == ([], [])


@pytest.mark.parametrize("part", ["egress", "door", "backend"])
async def test_a_killed_part_comes_back_and_the_policy_with_it(
    gateway: StockadeProcess, engine: docker.DockerClient, part: str
) -> None:
    project = gateway.gateway["project"]
    before = names(engine, project)
    (victim,) = [name for name in before if name.endswith(VICTIMS[part])]
    engine.containers.get(victim).kill()

    def recovered() -> bool:
        states = {b["name"]: b["state"] for b in gateway.json("ps")["backends"]}
        return len(names(engine, project, stopped=False)) == len(before) and set(states.values()) == {"running"}

    until(recovered, f"{part} back")
    assert "403 empty_policy" in await blocked(gateway)
    assert "still here" in await echo(gateway, "still here")


def test_up_for_a_file_that_is_up_reads_it_again_and_starts_nothing(gateway: StockadeProcess) -> None:
    before = gateway.gateway
    result = gateway.run("up", "-d", str(gateway.config))
    assert "already running" in result.stdout + result.stderr
    assert gateway.gateway == before


def images(engine: docker.DockerClient) -> set[str]:
    """The names of Stockade's images. (Untagged ones come and go with whatever else is built on this engine.)"""
    return {tag for image in engine.images.list() for tag in image.tags if tag.startswith("stockade-")}


def test_a_second_start_builds_no_image(gateway: StockadeProcess, engine: docker.DockerClient) -> None:
    gateway.run("down")
    before = images(engine)
    gateway.up()
    assert images(engine) == before
    (log,) = gateway.state.glob("*/gateway.log")
    assert "Building " not in log.read_text()

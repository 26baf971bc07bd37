"""Up, down, and everything that dies in between: what is left, what is adopted, what is recovered."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from examples.demo import stage
from examples.demo.story import Scene, client, play, rogue_outcome
from tests.e2e.stockade_process import StockadeProcess

pytestmark = [pytest.mark.docker, pytest.mark.anyio]

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


def ours(engine: docker.DockerClient, project: str) -> tuple[list[str], list[str]]:
    """Names of the containers and networks that carry the project's name."""
    containers = [c.name for c in engine.containers.list(all=True) if project in c.name]
    return sorted(containers), sorted(n.name for n in engine.networks.list() if project in n.name)


def containers_of(gateway: StockadeProcess) -> dict[str, list[str]]:
    return {backend["name"]: backend["containers"] for backend in gateway.json("ps")["backends"]}


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Polls another process's state; raises AssertionError when it does not come to pass."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.1)


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
    assert not Path(f"/proc/{found['pid']}").exists()
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
    names = [c.name for c in engine.containers.list() if project in c.name]
    wanted = {"egress": "egress", "door": "rogue", "backend": "rogue"}[part]
    (victim,) = [n for n in names if wanted in n and (part == "egress" or ("door" in n) == (part == "door"))]
    engine.containers.get(victim).kill()

    def recovered() -> bool:
        running = [c for c in engine.containers.list() if project in c.name]
        states = {b["name"]: b["state"] for b in gateway.json("ps")["backends"]}
        return len(running) == len(names) and set(states.values()) == {"running"}

    until(recovered, f"{part} back")
    assert "403 empty_policy" in await blocked(gateway)
    assert "still here" in await echo(gateway, "still here")


def test_a_second_gateway_for_the_same_file_is_refused_with_words(gateway: StockadeProcess) -> None:
    result = gateway.run("up", "-d", str(gateway.config), check=False)
    assert result.returncode == 1
    assert "already" in result.stdout + result.stderr


def test_a_second_start_builds_no_image(gateway: StockadeProcess, engine: docker.DockerClient) -> None:
    gateway.run("down")
    before = {image.id for image in engine.images.list()}
    gateway.up()
    assert {image.id for image in engine.images.list()} == before

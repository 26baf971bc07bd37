"""Many backends on one egress: a hundred doors as processes, twenty (or a hundred: STOCKADE_SOAK=1) as containers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from egress.net.limits import RESERVED_FDS
from examples.demo import stage
from observability.events import Decision
from tests.e2e.test_egress_attack import GET, SOAK, egress_memory_mib, processes
from tests.egress.site import Site, site
from tests.gateway.runtime.real import Yard, yard

DOORS = 100
CONTAINERS = 100 if SOAK else 20


@pytest.mark.anyio
@pytest.mark.netns
@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
async def test_a_hundred_doors_on_one_egress_each_with_its_own_policy() -> None:
    """Every one reaches its own host and not the next one's; then the egress is killed, and all come back."""
    names = [f"b{number}" for number in range(DOORS)]
    policies = {name: {"allowed_hosts": ["web.example" if i % 2 else "db.example"]} for i, name in enumerate(names)}
    async with site(policies) as running:
        starting = asyncio.Semaphore(8)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(start(running, starting, name))
        assert running.egress is not None
        print(f"\n{DOORS} doors: {report(running.egress.pid)}; a door: {report(running.doors['b0'].pid)}")
        await ask_all(running, names)
        running.egress.kill()
        running.egress.wait()
        running.start_egress()
        await running.link.wait_connected(15)
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(running.link.wait_door(name, 30))
        await ask_all(running, names[:10])


async def start(running: Site, starting: asyncio.Semaphore, name: str) -> None:
    async with starting:
        await running.start_door(name)


async def ask_all(running: Site, names: list[str]) -> None:
    asking = asyncio.Semaphore(4)

    async def ask(number: int, name: str) -> None:
        own, other = ("web.example", "db.example") if number % 2 else ("db.example", "web.example")
        async with asking:
            answer = await running.inside(name, f"print(http('{own}')[-5:], http('{other}')[:30])")
        assert answer == "hello HTTP/1.1 403 host_not_allowed", name

    async with asyncio.TaskGroup() as tasks:
        for number, name in enumerate(names):
            tasks.create_task(ask(number, name))


def report(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return f"{resident:.1f} MiB, {len(os.listdir(f'/proc/{pid}/fd'))} descriptors"


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(1200 if SOAK else 300)
def test_a_crowd_of_containers_on_one_egress(internet: stage.Internet) -> None:
    """Each is served, each only under its own policy, and the egress has room to spare."""
    with yard() as crowd:
        names = [f"b{number}" for number in range(CONTAINERS)]
        servers = {
            name: crowd.rogue(network={"allowed_hosts": ["direct.example"]} if number % 2 else {})
            for number, name in enumerate(names)
        }
        crowd.up(servers, egress={"resolve": [f"direct.example:80:{internet.address}"]})
        for number, name in enumerate(names):
            answer = crowd.ask(GET + "answer = get()", name, 120)
            assert ("hello from direct.example" in answer) == bool(number % 2), name
        assert len(crowd.containers()) == 2 * CONTAINERS + 1
        print(f"\n{CONTAINERS} backends: egress {egress_memory_mib(crowd):.1f} MiB, {descriptors(crowd)} descriptors")
        assert descriptors(crowd) < 10 * CONTAINERS + RESERVED_FDS
        allowed = {name for name in names for e in crowd.egress_events(name) if e.decision is Decision.ALLOW}
        assert allowed == set(names[1::2])


def descriptors(crowd: Yard) -> int:
    info = crowd.portal.call(crowd.engine.inspect, crowd.sandbox.egress.container)
    assert info is not None
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(info.pid))

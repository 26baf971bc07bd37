"""Warm instances: which session gets one, when the next is made, that none is left over. In memory, then on an engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.containers import policies
from gateway.runtime.supervise import warm
from gateway.runtime.supervise.supervisor import Supervisor
from gateway.runtime.supervise.warm import MAX_OWN
from observability.events import BackendState
from tests.gateway.runtime.real import Yard, yard
from tests.gateway.runtime.test_supervisor import TIME, Stage, config

pytestmark = pytest.mark.anyio
OWN = {**TIME, "sessions": "per-client"}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("gateway.runtime.sandbox.backoff.FIRST_S", 0.001)
    monkeypatch.setattr(policies, "interface_addresses", list)
    return Stage(tmp_path)


def ready(supervisor: Supervisor, backend: str = "clock") -> list[str]:
    """The warm instances that run."""
    pool = supervisor.warm.pools.get(backend)
    running = [keeper for keeper in pool.keepers if keeper.state is BackendState.RUNNING] if pool is not None else []
    return sorted(keeper.id for keeper in running)


async def test_an_eager_per_client_backend_has_a_warm_instance_before_any_call(stage: Stage) -> None:
    async with stage.running(config({"clock": OWN})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 1)
        (spare,) = ready(supervisor)
        first = await supervisor.instance("clock", "one")
        assert first.id == spare
        await stage.until(lambda: len(ready(supervisor)) == 1)
        assert ready(supervisor) != [spare], "a new one, not the one that has a session"
    assert stage.engine.containers == {}


async def test_a_lazy_backend_has_no_spare_until_its_first_session(stage: Stage) -> None:
    async with stage.running(config({"clock": {**OWN, "start": "lazy"}})) as supervisor:
        assert stage.engine.running() == ["stockade-p-egress"]
        assert (await supervisor.instance("clock", "one")).id == "clock/one"
        await stage.until(lambda: len(ready(supervisor)) == 1)
        (spare,) = ready(supervisor)
        assert (await supervisor.instance("clock", "two")).id == spare


async def test_an_auto_backend_has_spares_once_a_session_has_a_container_of_its_own(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        await supervisor.instance("clock", "modern")  # the shared one of the other protocol generation
        assert supervisor.warm.pools == {}
        await supervisor.instance("clock", "one")
        await stage.until(lambda: len(ready(supervisor)) == 1)


async def test_a_session_that_asks_again_gets_the_same_instance_and_after_its_end_another(stage: Stage) -> None:
    async with stage.running(config({"clock": OWN})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 1)
        first = await supervisor.instance("clock", "one")
        assert await supervisor.instance("clock", "one") is first
        await supervisor.release(first.id)
        again = await supervisor.instance("clock", "one")
        assert again.id != first.id
        assert first.id not in supervisor.keepers


async def test_a_warm_instance_that_had_a_session_never_has_a_second_one(stage: Stage) -> None:
    async with stage.running(config({"clock": OWN})) as supervisor:
        given = []
        for number in range(12):
            instance = await supervisor.instance("clock", f"s{number}")
            given.append(instance.id)
            if number % 3:
                await supervisor.release(instance.id)
            await stage.until(lambda: len(ready(supervisor)) == 1)
        assert len(set(given)) == len(given)


async def test_a_warm_instance_that_dies_is_replaced_and_is_not_handed_out(stage: Stage) -> None:
    async with stage.running(config({"clock": OWN})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 1)
        (spare,) = ready(supervisor)
        stage.engine.die(stage.names.backend(spare))
        got = await supervisor.instance("clock", "one")
        assert got.id != spare
        await stage.until(lambda: len(ready(supervisor)) == 1 and spare not in supervisor.keepers)


async def test_warm_instances_that_never_hold_are_given_up_until_the_next_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __contains__(self, name: object) -> bool:
            return "clock-" in str(name) and not str(name).endswith("-door")

    async with stage.running(config({"clock": {**OWN, "spares": 2}})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 2)
        monkeypatch.setattr(stage.engine, "exits_at_once", Broken())
        for spare in ready(supervisor):
            stage.engine.die(stage.names.backend(spare))
        pool = supervisor.warm.pools["clock"]
        await stage.until(lambda: pool.backoff.broken_at is not None and not pool.keepers)
        log = len(stage.engine.log)
        await stage.until(lambda: not any("clock" in name for name in stage.engine.running()))
        assert [line for line in stage.engine.log[log:] if line.startswith("create")] == []
        monkeypatch.setattr(stage.engine, "exits_at_once", set())
        await supervisor.instance("clock", "one")
        await stage.until(lambda: len(ready(supervisor)) == 2)


async def test_warm_instances_count_against_the_cap(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.supervise.supervisor.MAX_OWN", 3)
    async with stage.running(config({"clock": {**OWN, "spares": 8}})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 3)
        for number, left in ((1, 2), (2, 1), (3, 0)):
            await supervisor.instance("clock", f"s{number}")
            assert len(supervisor.warm.pools["clock"].keepers) <= left
        await supervisor.release(next(iter(supervisor.warm.lent.values())).id)
        await stage.until(lambda: len(ready(supervisor)) == 1)
    assert MAX_OWN == warm.MAX_OWN == 32


async def test_fewer_spares_in_the_file_are_fewer_containers_and_no_session_notices(stage: Stage) -> None:
    async with stage.running(config({"clock": {**OWN, "spares": 3}})) as supervisor:
        mine = await supervisor.instance("clock", "one")
        await stage.until(lambda: len(ready(supervisor)) == 3)
        await supervisor.apply(config({"clock": {**OWN, "spares": 0}}))
        await stage.until(lambda: sum("clock" in name for name in stage.engine.running()) == 2)
        assert await supervisor.instance("clock", "one") is mine


async def test_a_changed_command_replaces_the_warm_instances_and_a_removed_backend_has_none(stage: Stage) -> None:
    async with stage.running(config({"clock": OWN})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 1)
        (old,) = ready(supervisor)
        await supervisor.apply(config({"clock": {**OWN, "env": {"A": "b"}}}))
        await stage.until(lambda: len(ready(supervisor)) == 1)
        (new,) = ready(supervisor)
        assert new != old
        assert ("A", "b") in stage.engine.named(stage.names.backend(new)).plan.env
        await supervisor.apply(config({}))
        assert stage.engine.running() == ["stockade-p-egress"]


async def test_a_restart_of_the_backend_replaces_its_warm_instances(stage: Stage) -> None:
    async with stage.running(config({"clock": OWN})) as supervisor:
        await stage.until(lambda: len(ready(supervisor)) == 1)
        before = ready(supervisor)
        await supervisor.restart("clock")
        await stage.until(lambda: len(ready(supervisor)) == 1)
        assert ready(supervisor) != before


async def test_a_session_that_ends_does_not_make_its_backend_look_down(stage: Stage) -> None:
    async with stage.running(config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        mine = await supervisor.instance("clock", "one")
        await stage.until(lambda: len(ready(supervisor)) == 1)
        assert await supervisor.instance("clock", "one") is mine, "not the spare: this one is its own already"
        await supervisor.release(mine.id)
        assert stage.states("clock")[-1] is BackendState.RUNNING


# on a real engine


@pytest.fixture
def real() -> Iterator[Yard]:
    with yard() as found:
        yield found


def running(place: Yard) -> dict[str, str]:
    """The container of each instance of the rogue, with when it was started."""
    found: dict[str, Any] = {}
    for name, keeper in list(place.supervisor.keepers.items()):
        pair = keeper.instance
        if keeper.state is BackendState.RUNNING and pair is not None:
            info = place.portal.call(place.engine.inspect, pair.container)
            if info is not None:
                found[name] = (info.id, info.started_at)
    return found


@pytest.mark.docker
def test_the_second_session_is_served_by_a_pair_that_was_running_and_shares_nothing(real: Yard) -> None:
    real.up({"rogue": real.rogue(sessions="per-client", start="lazy")})
    assert [name for name in real.containers() if "rogue" in name] == []
    write = "import os; here = True; open('/tmp/mine', 'w').write('first'); answer = sorted(os.listdir('/tmp'))"
    assert real.ask(write, "rogue", session="one") == ["mine"]
    real.until(lambda: len(running(real)) == 2)
    before = running(real)
    (spare,) = set(before) - {"rogue/one"}
    assert real.ask("import os; answer = 'here' in globals(), os.listdir('/tmp')", session="two") == [False, []]
    assert real.pair(session="two").id == spare
    assert running(real)[spare] == before[spare], "the same start of the same container"
    doors = {pair.door.container for pair in (real.pair(session="one"), real.pair(session="two")) if pair.door}
    assert len(doors) == 2
    real.until(lambda: len(running(real)) == 3)

    (killed,) = set(running(real)) - {"rogue/one", spare}
    real.kill(running(real)[killed][0])
    real.until(lambda: killed not in real.supervisor.keepers and len(running(real)) == 3)
    assert real.ask("answer = open('/tmp/mine').read()", session="one") == "first"

    real.portal.call(real.supervisor.release, spare)
    assert spare not in running(real)
    assert real.ask("import os; answer = os.listdir('/tmp')", session="three") == []

    real.down()
    assert real.containers() == []
    assert real.networks() == []

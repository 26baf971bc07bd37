"""The probe itself: it passes behind a door, and notices the networks that do not isolate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.runtime.containers import door
from gateway.runtime.containers.probe import Attempt, Probe, listening, verdict
from gateway.runtime.sandbox.errors import BackendUnavailable
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    with yard() as found:
        found.up({}, probe=True)
        yield found


async def on_network(site: Yard, internal: bool) -> Attempt:
    async with listening() as ears:
        return await Probe(site.sandbox.context, site.image).on_network(ears, internal=internal)


def test_behind_a_door_nothing_arrives_and_the_control_does(site: Yard) -> None:
    assert site.sandbox.refusal == ""
    assert site.sandbox.isolation.last is not None
    control, door = site.sandbox.isolation.last
    assert door.heard == frozenset()
    assert door.problem == ""
    assert {way.split()[0] for way in control.heard} == {"tcp", "udp"}
    assert {what.replace("Operation not permitted", "denied") for what in door.report["raw"].values()} == {"denied"}


def test_an_ordinary_network_is_noticed(site: Yard) -> None:
    attempt = site.portal.call(on_network, site, False)
    assert attempt.heard
    assert "Isolation does not hold" in verdict(attempt, attempt)


def test_a_plain_internal_network_is_noticed(site: Yard) -> None:
    """The network that looks closed: the host's services answer on the bridge's own address."""
    attempt = site.portal.call(on_network, site, True)
    assert attempt.problem == ""
    assert any(way.startswith("tcp plain") for way in attempt.heard), attempt
    assert "Isolation does not hold" in verdict(attempt, attempt)


def test_the_probe_leaves_nothing_behind(site: Yard) -> None:
    assert site.containers() == [f"stockade-{site.project}-egress"]
    assert site.networks() == [f"stockade-{site.project}-egress-net"]


def test_a_pass_counts_until_something_changes_and_can_be_asked_for_again(site: Yard) -> None:
    site.sandbox.isolation.last = None
    assert site.portal.call(site.sandbox.test_isolation) == ""
    assert site.sandbox.isolation.last is None, "nothing was run"

    async def again() -> str:
        return await site.sandbox.test_isolation(force=True)

    assert site.portal.call(again) == ""
    assert site.sandbox.isolation.last is not None


def test_an_engine_that_does_not_isolate_gets_no_isolated_backend(
    site: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door's network is not empty: the probe gets out, isolated backends are refused with the way out."""

    honest = door.door_plan

    def leaky(*args: object, **more: object) -> object:
        plan = honest(*args, **more)  # type: ignore[arg-type]
        return replace(plan, network=f"stockade-{site.project}-egress-net", sysctls=(), dns=())

    monkeypatch.setattr(door, "door_plan", leaky)

    async def again() -> str:
        return await site.sandbox.test_isolation(force=True)

    problem = site.portal.call(again)
    assert "Isolation does not hold on this engine" in problem
    site.sandbox.refusal = problem
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue()}))
    with pytest.raises(BackendUnavailable, match="does not hold"):
        site.pair()
    assert site.containers() == [f"stockade-{site.project}-egress"]

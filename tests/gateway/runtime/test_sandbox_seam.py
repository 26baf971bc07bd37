"""The keeper of instances on a sandbox that knows no container: what it asks for, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.runtime.sandbox.base import Sandbox
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError
from gateway.runtime.supervise.supervisor import Supervisor
from registry.config import Config
from tests.gateway.runtime.fake_sandbox import FakeSandbox
from tests.gateway.runtime.test_supervisor import LAZY, TIME, config

pytestmark = pytest.mark.anyio


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> FakeSandbox:
    monkeypatch.setattr("gateway.runtime.sandbox.backoff.FIRST_S", 0.001)
    return FakeSandbox()


@asynccontextmanager
async def running(sandbox: Sandbox, first: Config, *, remove: bool = True) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(sandbox, lambda event: None)
    await supervisor.apply(first)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(supervisor.run())
        await supervisor.wait_begun()
        try:
            yield supervisor
        finally:
            await supervisor.stop(remove=remove)
            await task


async def test_a_backend_starts_after_its_policy_and_is_stopped_before_the_sandbox_closes(
    sandbox: FakeSandbox,
) -> None:
    async with running(sandbox, config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
    assert sandbox.log == [
        "open",
        "adopt",
        "update egress",
        "prepare clock",
        "start clock",
        "stop clock",
        "close and remove",
        "clear",
    ]


async def test_an_instance_that_cannot_be_restarted_is_stopped_and_another_one_prepared(sandbox: FakeSandbox) -> None:
    async with running(sandbox, config({"clock": TIME})) as supervisor:
        first = await supervisor.instance("clock")
        sandbox.log.clear()
        sandbox.made[0].crash()
        assert await supervisor.instance("clock") is not first
        assert sandbox.log == ["stop clock", "prepare clock", "start clock"]


async def test_a_changed_server_is_down_before_its_policy_is_pushed_and_the_new_one_up_after_it(
    sandbox: FakeSandbox,
) -> None:
    async with running(sandbox, config({"clock": TIME})) as supervisor:
        await supervisor.instance("clock")
        sandbox.log.clear()
        await supervisor.apply(config({"clock": {**TIME, "env": {"A": "b"}}}))
        await supervisor.instance("clock")
        assert sandbox.log == ["stop clock", "update egress", "prepare clock", "start clock"]


async def test_what_is_adopted_runs_on_and_is_not_started_again(sandbox: FakeSandbox) -> None:
    sandbox.left = ["clock", "gone"]
    async with running(sandbox, config({"clock": LAZY})) as supervisor:
        assert (await supervisor.instance("clock")).id == "clock"
        assert sandbox.log == ["open", "adopt clock gone", "update egress"]


async def test_a_sandbox_that_could_not_be_opened_late_starts_nothing_and_ends(sandbox: FakeSandbox) -> None:
    far = {"url": "https://web.example/mcp"}
    async with running(sandbox, config({"far": far})) as supervisor:
        sandbox.egress_fails = "No egress today."
        with pytest.raises(EngineError, match="No egress today"):
            await supervisor.apply(config({"far": far, "clock": TIME}))
        for asked in (supervisor.restart, supervisor.instance):
            with pytest.raises(BackendUnavailable, match="stockade reload"):
                await asked("clock")
        assert sandbox.log == ["open", "close and remove"]
        sandbox.egress_fails = ""
        await supervisor.apply(config({"far": far, "clock": TIME}))
        await supervisor.instance("clock")


async def test_a_gateway_that_leaves_its_backends_running_releases_and_removes_nothing(sandbox: FakeSandbox) -> None:
    async with running(sandbox, config({"clock": TIME}), remove=False) as supervisor:
        await supervisor.instance("clock")
        sandbox.log.clear()
    assert sandbox.log == ["release clock", "close and leave"]


async def test_a_sandbox_that_does_not_open_is_cleared_and_every_caller_hears_why(sandbox: FakeSandbox) -> None:
    sandbox.egress_fails = "No egress today."
    supervisor = Supervisor(sandbox, lambda event: None)
    await supervisor.apply(config({"clock": TIME}))
    with pytest.raises(EngineError, match="No egress today"):
        await supervisor.run()
    with pytest.raises(BackendUnavailable, match="No egress today"):
        await supervisor.instance("clock")
    assert sandbox.log == ["open", "clear"]

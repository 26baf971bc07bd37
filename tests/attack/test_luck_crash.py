"""Bad luck: a shared server ends, and what it is after that differs from what it was (red team M7)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server
from tests.gateway.mcp.test_aggregate import MANY

pytestmark = pytest.mark.anyio
SHARED = config({"one": server(sessions="shared")})


def known(running: Gateway) -> dict[str, str]:
    """What the admin, `stockade tools ls`, the page and the labels say: name and description."""
    return {tool["name"]: tool["description"] for tool in running.endpoint.tools("one")}


async def seen(client: Any) -> dict[str, str]:
    """What a client sees."""
    listed = (await client.request("tools/list"))["result"]["tools"]
    return {tool["name"]: tool["description"] for tool in listed}


async def crash(running: Gateway, count: str) -> None:
    """The backend's process ends; the next one lists other tools."""
    (instance,) = running.supervisor.instances.values()
    assert instance.process is not None
    running.supervisor.commands["one"] = (*MANY, count, "--changed")
    instance.process.kill()
    await instance.process.wait()
    await eventually(lambda: not running.endpoint._backends["one"].peers())


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_after_a_crash_the_admin_sees_the_tools_that_clients_see(connect: Any) -> None:
    async with gateway(SHARED, {"one": (*MANY, "2")}) as running, connect(running.url("one")) as client:
        before = await seen(client)
        assert known(running) == before
        await crash(running, "4")
        assert await client.text("tool_1") == "tool_1"  # a call first: its connection is nobody's own
        after = await seen(client)
        assert set(after) == {f"tool_{number}" for number in range(4)}
        assert after["tool_0"] != before["tool_0"]
        assert known(running) == after


async def test_after_a_crash_the_admin_sees_the_new_tools_also_when_no_client_lists_them() -> None:
    async with gateway(SHARED, {"one": (*MANY, "2")}) as running, legacy(running.url("one")) as client:
        await seen(client)
        await crash(running, "3")
        assert await client.text("tool_1") == "tool_1"
        await eventually(lambda: len(known(running)) == 3)

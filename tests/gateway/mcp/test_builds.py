"""While an image is being built: greetings and lists do not wait, calls not for long, and clients hear of what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server
from tests.gateway.mcp.test_views import until_heard, watching

pytestmark = pytest.mark.anyio
PATIENT_S = 3600.0
"""As if the supervisor waited for a build without end."""


@asynccontextmanager
async def building(patience_s: float, **more: Any) -> AsyncIterator[tuple[Gateway, asyncio.Event]]:
    """A gateway one of whose servers is being built, and what ends the build."""
    done = asyncio.Event()
    async with gateway(config({"slow": server(**more), "quick": server(http=True)})) as running:
        running.supervisor.builds["slow"] = (time.time() - 60, done)
        running.supervisor.build_patience_s = patience_s
        yield running, done
        done.set()


@pytest.mark.parametrize("patience_s", [PATIENT_S, 0.0])
@pytest.mark.parametrize("connect", [legacy, modern])
@pytest.mark.parametrize("route", ["", "slow"])
async def test_greetings_and_lists_wait_for_no_build_and_are_announced_after_it(
    route: str, connect: Any, patience_s: float
) -> None:
    async with building(patience_s) as (running, done):
        async with asyncio.timeout(30), connect(running.url(route)) as client:
            if connect is modern:
                greeted = (await client.request("server/discover"))["result"]
                assert greeted["capabilities"]["tools"]
            listed = (await client.request("tools/list"))["result"]
            (missing,) = [one for one in listed["_meta"]["stockade/unavailable"] if one["backend"] == "slow"]
            assert "its image is being built" in missing["reason"]
            assert not any(is_of_slow(tool["name"], route) for tool in listed["tools"])
            async with watching(client) as heard:
                done.set()
                while not any(is_of_slow(name, route) for name in await names(client)):
                    await until_heard(heard, "notifications/tools/list_changed")


def is_of_slow(tool: str, route: str) -> bool:
    return bool(route) or tool.startswith("slow__")


async def names(client: Any) -> list[str]:
    return [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]


async def test_a_lazy_server_that_its_first_call_builds_is_announced_too() -> None:
    async with building(0.0, start="lazy") as (running, done):
        async with asyncio.timeout(30), legacy(running.url("slow")) as client:
            async with watching(client) as heard:
                assert await names(client) == []
                done.set()
                while "echo" not in await names(client):
                    await until_heard(heard, "notifications/tools/list_changed")


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_call_is_told_of_the_build_and_the_next_one_after_it_finds_the_server(connect: Any) -> None:
    async with building(0.0) as (running, done):
        async with asyncio.timeout(30), connect(running.url("slow")) as client:
            for _ in range(5):  # no failure that counts: the last one does not say "it failed 5 times; wait a little"
                said = await client.call("echo")
                assert said["error"]["message"].endswith(" slow: its image is still being built.")
            done.set()
            assert "result" in await client.call("echo")

"""The faults of `test_faults`, by a backend that speaks HTTP: the caller is told which and why, and the session goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.gateway.mcp.clients import Legacy, legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
FAULTY = (sys.executable, "-m", "tests.fixture_server.faulty_http")


@pytest.fixture
async def running() -> AsyncIterator[Gateway]:
    settings = config({"bad": server(http=True, call_timeout_s=10)}, gateway={"start_timeout_s": 30})
    async with gateway(settings, {"bad": FAULTY}) as found:
        yield found


SAID = {
    "garbage": "it does not speak HTTP",
    "huge": "it answered with more than 16777216 bytes",
    "half": "it closed the connection before the response was complete",
    "noresult": "no response to the request",
    "html": "",
    "error500": "answered HTTP 500",
    "empty": "",
    "sse_half": "before it answered",
    "sse_flood": "it sent an event of more than 16777216 bytes",
    "sse_other": "before it answered",
    "wrong_id": "",
    "never": "did not answer tools/call within 10 s",
}


@pytest.mark.parametrize("connect", [legacy, modern])
@pytest.mark.parametrize("tool", SAID)
async def test_the_caller_is_told_and_the_same_session_goes_on(running: Gateway, connect: Any, tool: str) -> None:
    async with connect(running.url("bad")) as client, connect(running.url("bad")) as other:
        assert await client.text("ok") == "ok"
        failing = asyncio.ensure_future(client.call(tool))
        assert await other.text("ok") == "ok", "others do not notice"
        async with asyncio.timeout(30):
            said = await failing
        assert "error" in said, said
        assert said["error"]["message"].startswith("Server bad"), said
        assert SAID[tool] in said["error"]["message"]
        assert "not yours" not in str(said)
        assert await client.text("ok") == "ok"
        assert running.supervisor.started == [("bad", "")]


async def test_a_crash_is_told_and_the_backend_comes_back(running: Gateway) -> None:
    async with legacy(running.url("bad")) as client, legacy(running.url("bad")) as other:
        assert await client.text("ok") == await other.text("ok") == "ok"
        hanging = asyncio.ensure_future(other.call("never"))
        await eventually(lambda: running.endpoint.inflight.count() > 0)
        said = await client.call("crash")
        assert said["error"]["code"] == -32000
        assert (await hanging)["error"]["code"] in (-32000, -32001)
        async with asyncio.timeout(30):
            while "error" in (said := await client.call("ok")):
                await asyncio.sleep(0.05)
        assert len(running.supervisor.started) == 2


async def test_an_end_that_nobody_noticed_yet_is_waited_for_no_longer_than_that(running: Gateway) -> None:
    async with legacy(running.url("bad")) as client:
        assert await client.text("ok") == "ok"
        running.supervisor.unaware = True
        assert (await client.call("crash"))["error"]["code"] == -32000
        asking = await waiting_call(running, client)
        running.supervisor.unaware = False
        async with asyncio.timeout(60):
            assert "error" not in await asking
        assert len(running.supervisor.started) == 2


async def waiting_call(running: Gateway, client: Legacy) -> asyncio.Future[Any]:
    """A call that waits for the process, since its port is closed now; one made before may still break on its way."""
    async with asyncio.timeout(30):
        while True:
            asked = running.supervisor.asked
            asking = asyncio.ensure_future(client.call("ok"))
            await eventually(lambda: asking.done() or running.supervisor.asked > asked + 1)  # noqa: B023
            if not asking.done():
                return asking


async def test_a_backend_can_ask_only_so_much_at_once(running: Gateway) -> None:
    async with modern(running.url("bad"), capabilities={"sampling": {}}) as client:
        assert await client.text("ok") == "ok"
        result = (await client.call("ask_flood"))["result"]
        assert 0 < len(result["inputRequests"]) <= 64
        await eventually(lambda: any("more than 64" in str(event) for event in running.events))


@pytest.mark.parametrize(
    "refusal",
    [
        '{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}',
        "Bad Request: No valid session ID provided",
    ],
    ids=["server-everything", "the Python SDK before 2"],
)
async def test_a_backend_that_forgot_the_session_and_says_400_gets_a_new_one(refusal: str) -> None:
    command = ("env", f"FAULTY_SESSIONS={refusal}", *FAULTY)
    async with gateway(config({"bad": server(http=True)}), {"bad": command}) as running:
        async with legacy(running.url("bad")) as client:
            assert await client.text("ok") == "ok"
            assert await client.text("forget") == "who are you?"
            assert await client.text("ok") == "ok"

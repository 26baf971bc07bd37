"""Backends that fail: the caller is told which and why, others do not notice, and the same session goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import FIXTURE, Gateway, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
FAULTY = (sys.executable, "-m", "tests.fixture_server.faulty")


@asynccontextmanager
async def faulty(**more: Any) -> AsyncIterator[Gateway]:
    settings = config({"bad": server(**more)}, gateway={"call_timeout_s": 60, "start_timeout_s": 30})
    async with gateway(settings, {"bad": FAULTY}) as running:
        yield running


@pytest.mark.parametrize("tool", ["crash", "half"])
async def test_a_crash_is_told_to_the_caller_and_the_same_session_goes_on(tool: str) -> None:
    async with faulty() as running, legacy(running.url("bad")) as client:
        assert await client.text("ok", {"text": "1"}) == "ok 1"
        said = await client.call(tool)
        assert said["error"]["code"] == -32000
        assert said["error"]["message"].startswith("Server bad: ")
        assert said["error"]["data"] == {"backend": "bad"}
        assert await client.text("ok", {"text": "2"}) == "ok 2"
        assert len(running.supervisor.started) == 2
        assert [event.error for event in running.calls() if event.tool == tool] == ["-32000"]


async def test_a_crash_fails_the_calls_in_flight_of_other_clients_too_and_only_those() -> None:
    async with faulty() as running, legacy(running.url("bad")) as alice, legacy(running.url("bad")) as bob:
        hanging = asyncio.ensure_future(bob.call("never"))
        await eventually(lambda: running.endpoint.inflight.count() > 0)
        await alice.call("crash")
        assert (await hanging)["error"]["code"] == -32000
        assert await bob.text("ok") == "ok "


async def test_a_call_that_is_never_answered_ends_in_time_and_is_cancelled() -> None:
    async with faulty(call_timeout_s=3) as running, legacy(running.url("bad")) as client:
        said = await client.call("never")
        assert said["error"]["code"] == -32001
        assert "did not answer tools/call within 3 s" in said["error"]["message"]
        process = running.supervisor.instances["bad", ""]
        async with asyncio.timeout(30):
            await eventually(lambda: any(line.startswith("cancelled") for line in process.errors))
        assert await client.text("ok") == "ok "


async def test_garbage_between_the_messages_is_skipped_and_said_once() -> None:
    async with faulty() as running, legacy(running.url("bad")) as client:
        assert await client.text("garbage") == "after the garbage"
        assert await client.text("garbage") == "after the garbage"
        notices = [event for event in running.events if getattr(event, "code", "") == "backend_garbage"]
        assert len(notices) == 1


async def test_an_answer_without_a_result_is_an_error() -> None:
    async with faulty() as running, legacy(running.url("bad")) as client:
        assert "neither a result nor an error" in (await client.call("noresult"))["error"]["message"]


async def test_a_line_of_50_mb_fails_its_call_and_no_other() -> None:
    async with faulty() as running, legacy(running.url("bad")) as alice, legacy(running.url("bad")) as bob:
        huge = asyncio.ensure_future(alice.call("huge"))
        assert await bob.text("ok") == "ok "
        said = await huge
        assert said["error"]["code"] == -32000
        assert "limit is 16777216" in said["error"]["message"]
        assert await alice.text("ok") == "ok "
        assert running.supervisor.started == [("bad", "")]


@pytest.mark.parametrize("tool", ["flood", "list_flood"])
async def test_a_flood_does_not_keep_other_backends_from_answering(tool: str) -> None:
    settings = config({"bad": server(), "good": server(http=True)}, gateway={"call_timeout_s": 120})
    async with gateway(settings, {"bad": FAULTY, "good": (*FIXTURE, "--http", "0")}) as running:
        async with legacy(running.url("bad")) as client, legacy(running.url("good")) as other:
            assert await other.text("test_simple_text")
            flooded = asyncio.ensure_future(client.text(tool))
            answered = 0
            while not flooded.done():
                assert await other.text("test_simple_text")
                answered += 1
            assert await flooded == "flooded"
            assert answered >= 2


async def test_a_backend_that_never_starts_gives_an_error_and_is_not_asked_again_at_once() -> None:
    hang = ("env", "FAULTY_START=hang", *FAULTY)
    settings = config({"bad": server()}, gateway={"start_timeout_s": 1})
    async with gateway(settings, {"bad": hang}) as running, httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        }
        headers = {"accept": "application/json, text/event-stream"}
        said = (await http.post(running.url("bad"), json=message, headers=headers, timeout=30)).json()
        assert said["error"]["message"].startswith("Server bad")
        assert said["error"]["code"] in (-32000, -32001)


async def test_a_backend_that_the_supervisor_refuses_is_named_with_the_reason() -> None:
    async with faulty() as running:
        async with legacy(running.url()) as client:
            await client.text("bad__ok")
            running.supervisor.refuse["bad"] = "it exited 5 times in a minute (exit code 7)"
            await client.call("bad__crash")
            said = await client.call("bad__ok")
            assert said["error"]["message"] == "Server bad: it exited 5 times in a minute (exit code 7)"
            running.supervisor.refuse.clear()
            async with asyncio.timeout(30):
                while "error" in (said := await client.call("bad__ok")):
                    await asyncio.sleep(0.05)
            assert said["result"]["content"][0]["text"] == "ok "


async def test_a_dead_backend_is_left_out_of_the_list_and_the_answer_says_so() -> None:
    settings = config({"good": server(http=True), "dead": server()})
    async with gateway(settings, {"dead": FAULTY}) as running:
        running.supervisor.refuse["dead"] = "its image does not build"
        async with legacy(running.url()) as client:
            result = (await client.request("tools/list"))["result"]
            assert {tool["name"].partition("__")[0] for tool in result["tools"]} == {"good"}
            (said,) = result["_meta"]["stockade/unavailable"]
            assert (said["backend"], said["shown"]) == ("dead", "left out")
            # It may have been tried before, when the gateway started: then the reason goes on with "(it failed 2 times".
            assert said["reason"].startswith("Server dead: its image does not build")
            running.supervisor.refuse.clear()
            async with asyncio.timeout(30):
                while "_meta" in (result := (await client.request("tools/list"))["result"]):
                    await asyncio.sleep(0.1)
            assert any(tool["name"] == "dead__ok" for tool in result["tools"])


async def test_a_slow_backend_does_not_block_the_list() -> None:
    hang = ("env", "FAULTY_START=hang", *FAULTY)
    settings = config({"good": server(http=True), "slow": server()})
    async with gateway(settings, {"slow": hang}) as running, modern(running.url()) as client:
        async with asyncio.timeout(60):
            while not (result := (await client.request("tools/list"))["result"])["tools"]:
                pass
        assert [entry["backend"] for entry in result["_meta"]["stockade/unavailable"]] == ["slow"]


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_client_that_vanishes_cancels_its_call(era: str) -> None:
    async with gateway(config({"fixture": server()})) as running:
        url = running.url("fixture")
        async with legacy(url) if era == "legacy" else modern(url) as client:
            await client.text("test_simple_text")
            task = asyncio.ensure_future(client.call("wait", {"seconds": 30}))
            async with asyncio.timeout(30):
                await eventually(lambda: running.endpoint.inflight.count() > 0)
                task.cancel()
                processes = running.supervisor.instances.values()
                await eventually(lambda: any("cancelled wait" in process.errors for process in processes))
                await eventually(lambda: not (running.endpoint.inflight.count()))
        assert running.calls()[-1].error == "client_gone"


async def test_a_legacy_client_cancels_by_a_notification() -> None:
    async with gateway(config({"fixture": server()})) as running, legacy(running.url("fixture")) as client:
        await client.text("test_simple_text")
        task = asyncio.ensure_future(
            client.request("tools/call", {"name": "wait", "arguments": {"seconds": 30}}, "x")
        )
        async with asyncio.timeout(30):
            await eventually(lambda: running.endpoint.inflight.count() > 0)
            await client.notify("notifications/cancelled", {"requestId": "x", "reason": "enough"})
            assert (await task)["error"]["code"] == -32800
            processes = running.supervisor.instances.values()
            await eventually(lambda: any("cancelled wait" in process.errors for process in processes))


async def test_an_http_backend_that_restarts_serves_the_same_client_session() -> None:
    async with gateway(config({"fixture": server(http=True)})) as running, legacy(running.url("fixture")) as client:
        assert await client.text("test_simple_text")
        said = await client.call("crash")
        assert said["error"]["code"] == -32000
        async with asyncio.timeout(30):
            while "error" in (said := await client.call("test_simple_text")):
                await asyncio.sleep(0.05)
        assert len(running.supervisor.started) == 2


async def test_calls_in_flight_are_finished_when_the_gateway_stops() -> None:
    async with gateway(config({"fixture": server(http=True)})) as running, legacy(running.url("fixture")) as client:
        await client.text("test_simple_text")
        waiting = asyncio.ensure_future(client.text("wait", {"seconds": 0.5}))
        await eventually(lambda: running.endpoint.inflight.count() > 0)
        closing = asyncio.ensure_future(running.endpoint.close(5))
        assert await waiting == "waited"
        await closing
        assert (await client.post({"jsonrpc": "2.0", "id": 5, "method": "ping"})).status_code == 503


async def test_what_waits_for_a_backend_when_the_gateway_stops_gets_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A backend that is still starting: its callers were cut off with an internal error of ours when all tasks ended."""
    hang = ("env", "FAULTY_START=hang", *FAULTY)
    async with gateway(config({"slow": server()}), {"slow": hang}) as running:
        async with (
            modern(running.url("slow")) as calling,
            modern(running.url("slow")) as one,
            modern(running.url()) as all_,
        ):
            call = asyncio.ensure_future(calling.call("ok"))
            list_of_one = asyncio.ensure_future(one.request("tools/list"))
            list_of_all = asyncio.ensure_future(all_.request("tools/list"))
            await eventually(lambda: running.supervisor.started)
            await asyncio.sleep(0.1)  # both wait now; if not, the test shows nothing, and does not fail
            await running.endpoint._tasks.close()
            said = await call
            assert (said["error"]["data"]["backend"], calling.status) == ("slow", 200)
            assert (await list_of_one)["error"]["data"]["backend"] == "slow"
            assert (await list_of_all)["result"]["_meta"]["stockade/unavailable"][0]["backend"] == "slow"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_result_of_a_megabyte_and_unknown_fields_pass_unchanged() -> None:
    async with faulty() as running, legacy(running.url("bad")) as client:
        response = await client.post({"jsonrpc": "2.0", "id": 3, "method": "tools/list"})
        assert '"x-vendor":{"deep":[1.5]}' in response.text
        assert all(tool["inputSchema"] == {"type": "object"} for tool in response.json()["result"]["tools"])
    async with gateway(config({"fixture": server()})) as running, legacy(running.url("fixture")) as client:
        assert len(await client.text("big", {"bytes": 1_000_000})) == 1_000_000

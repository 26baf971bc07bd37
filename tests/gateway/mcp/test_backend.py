"""What one client's connections to a backend may cost the others: nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.mcp.upstream import backend as backend_module
from gateway.mcp.wire import http_client
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import FIXTURE, config, eventually, gateway, server

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ["legacy", ""])
async def test_a_client_whose_greeting_a_backend_refuses_changes_nothing_for_the_others(era: str) -> None:
    command = ("env", f"FIXTURE_ERA={era}", *FIXTURE, "--http", "0")
    async with gateway(config({"web": server(http=True)}), {"web": command}) as running:
        url = running.url("web")
        backend = running.endpoint._backends["web"]
        async with legacy(url) as usual, legacy(url, capabilities={"roots": 5}) as odd, legacy(url) as late:
            assert "result" in await usual.call("echo", {"value": 1})
            for _ in range(3):
                assert "error" in await odd.call("echo", {"value": 1})
            for client in (usual, late):
                assert "result" in await client.call("echo", {"value": 1})
                assert backend.own_peer(client.headers["mcp-session-id"]) is not None
            assert running.endpoint.trouble("web") == ""


async def test_the_cap_of_session_containers_holds_for_a_crowd_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "MAX_OWN", 2)
    servers = {"pipe": server(sessions="per-client", start="lazy")}
    async with gateway(config(servers)) as running, AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(100))
        clients = [await stack.enter_async_context(legacy(running.url())) for _ in range(5)]
        said = await asyncio.gather(*(client.call("pipe__wait", {"seconds": 3}) for client in clients))
        assert len([one for one in said if "result" in one]) == 2, said
        refused = [one["error"]["message"] for one in said if "error" in one]
        assert all("2 client sessions use it already" in message for message in refused), refused
        assert "result" in await clients[0].call("pipe__echo", {"value": 1}), "there is room again, at once"


async def test_a_backend_with_all_its_connections_taken_refuses_what_is_new_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_client, "_MAX_OPEN", 8)
    async with gateway(config({"web": server(http=True)})) as running, modern(running.url("web")) as client:
        async with asyncio.timeout(100):
            assert "result" in await client.call("echo", {"value": 1})
            first = [asyncio.ensure_future(client.call("wait", {"seconds": 5})) for _ in range(6)]
            await eventually(lambda: running.endpoint.inflight.count() == 6)
            more = await asyncio.gather(*(client.call("wait", {"seconds": 5}) for _ in range(6)))
            refused = [one["error"]["message"] for one in more if "error" in one]
            assert refused == ["Server web: 8 connections to it are open already"] * len(refused)
            assert len(refused) > 3
            assert all("result" in one for one in await asyncio.gather(*first))
            assert "result" in await client.call("echo", {"value": 1})


async def test_streams_of_idle_sessions_leave_connections_for_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "_MAX_OPEN", 8)
    async with gateway(config({"web": server(http=True)})) as running, AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(100))
        for _ in range(10):
            client = await stack.enter_async_context(legacy(running.url("web")))
            assert "result" in await client.call("echo", {"value": 1})
        assert len({*running.endpoint._backends["web"].peers()}) > 10, "none was lost"

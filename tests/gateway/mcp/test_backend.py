"""What one client's connections to a backend may cost the others: nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.mcp import backend as backend_module
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import FIXTURE, config, gateway, server

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

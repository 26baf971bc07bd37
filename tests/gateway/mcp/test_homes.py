"""Where a client session lives on a pipe: it stays in the process where its first call went."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.upstream import backend as backend_module
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
ROOTS: dict[str, Any] = {"roots": {}}
LAZY = """
import json, sys
state, n, able = None, 0, {}
def say(**m): print(json.dumps({"jsonrpc": "2.0", **m}), flush=True)
def ask():
    global n
    n += 1
    say(id=f"s{n}", method="roots/list")
for line in sys.stdin:
    m = json.loads(line)
    method, params = m.get("method"), m.get("params", {})
    if method == "initialize":
        able = params["capabilities"]
        say(id=m["id"], result={"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "lazy", "version": "1"}})
    elif method == "notifications/initialized" and "eager" in sys.argv and "roots" in able:
        ask()
    elif method == "tools/list":
        tools = [{"name": t, "inputSchema": {"type": "object"}} for t in ("open", "look", "able", "hold")]
        say(id=m["id"], result={"tools": tools})
    elif method == "tools/call":
        tool, args = params["name"], params.get("arguments", {})
        if tool == "open":
            state = args.get("what")
            if "roots" in able or "rude" in sys.argv:
                ask()
        if tool == "hold":
            state = args.get("what")
        said = sorted(able) if tool == "able" else state
        say(id=m["id"], result={"content": [{"type": "text", "text": json.dumps(said)}]})
    elif method and "id" in m:
        say(id=m["id"], error={"code": -32601, "message": "no"})
"""


def lazy(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", LAZY, *arguments)


async def no_roots(_method: str, _params: dict[str, Any]) -> dict[str, Any]:
    return {"roots": []}


def asks(running: Gateway) -> bool:
    return running.endpoint._backends["lazy"].homes.asks


@pytest.mark.parametrize("route", ["lazy", ""], ids=["alone", "aggregate"])
@pytest.mark.parametrize("able", [ROOTS, {}], ids=["roots", "nothing"])
@pytest.mark.parametrize("start", ["eager", "lazy"])
async def test_a_session_stays_where_its_first_call_went_when_the_server_asks_during_it(
    route: str, able: dict[str, Any], start: str
) -> None:
    prefix = "" if route else "lazy__"
    async with gateway(config({"lazy": server(start=start)}), {"lazy": lazy("rude")}) as running:
        url = running.url(route)
        async with legacy(url, capabilities=able) as one, legacy(url, capabilities=able) as other:
            one.answer = other.answer = no_roots
            await other.text(f"{prefix}hold", {"what": "in the middle"})
            assert await one.text(f"{prefix}open", {"what": "opened"}) == '"opened"'
            await eventually(lambda: asks(running))
            for _ in range(3):
                assert await one.text(f"{prefix}look") == '"opened"'
            async with asyncio.timeout(30):
                assert await other.text(f"{prefix}look") == '"opened"', (
                    "it shares the process, and was not moved either"
                )
            assert running.supervisor.started == [("lazy", "")]


async def test_a_modern_clients_state_stays_too() -> None:
    async with gateway(config({"lazy": server()}), {"lazy": lazy("rude")}) as running:
        async with modern(running.url("lazy")) as client:
            await client.text("open", {"what": "opened"})
            await eventually(lambda: asks(running))
            assert await client.text("look") == '"opened"'


@pytest.mark.parametrize("what", [(), ("eager",)], ids=["during a call", "after the greeting"])
async def test_a_server_that_asks_hears_what_this_client_can_do(what: tuple[str, ...]) -> None:
    async with gateway(config({"lazy": server()}), {"lazy": lazy(*what)}) as running:
        url = running.url("lazy")
        async with legacy(url, capabilities=ROOTS) as first:
            first.answer = no_roots
            await first.text("open", {"what": "first"})
            await eventually(lambda: asks(running))
            able: dict[str, Any] = {"elicitation": {}, "roots": {}}
            async with legacy(url) as plain, legacy(url) as plain_too, legacy(url, capabilities=able) as rich:
                rich.answer = no_roots
                assert await plain.text("able") == "[]"
                assert await plain_too.text("able") == "[]"
                assert await rich.text("able") == '["elicitation", "roots"]'
                await rich.text("hold", {"what": "rich"})
                await plain.text("hold", {"what": "plain"})
                assert await rich.text("look") == '"rich"'
                assert await first.text("look") == '"first"'
                homes = [session for _, session in running.supervisor.started]
                assert homes.count("quiet") == 1, "those that cannot be asked share one process"
                rich_home = rich.headers["mcp-session-id"][:12]
                assert rich_home in homes


async def test_a_sessions_own_process_starts_at_initialize() -> None:
    async with gateway(config({"lazy": server()}), {"lazy": lazy("eager")}) as running:
        async with legacy(running.url("lazy"), capabilities=ROOTS) as client:
            client.answer = no_roots
            home = ("lazy", client.headers["mcp-session-id"][:12])
            await eventually(lambda: home in running.supervisor.started)
            await eventually(lambda: running.endpoint._backends["lazy"].own_peer(client.headers["mcp-session-id"]))
            assert await client.text("able") == '["roots"]'
            assert running.supervisor.started.count(home) == 1
        async with legacy(running.url("lazy"), capabilities=ROOTS) as client:
            await client.http.delete(client.url, headers=client.headers)
            home = f"lazy/{client.headers['mcp-session-id'][:12]}"
        backend = running.endpoint._backends["lazy"]
        await eventually(lambda: not backend._opening and not backend._releasing)
        assert ("lazy", home.partition("/")[2]) not in running.supervisor.instances


async def test_a_lazy_server_is_not_started_by_a_greeting() -> None:
    async with gateway(config({"lazy": server(start="lazy")}), {"lazy": lazy("eager")}) as running:
        async with legacy(running.url(), capabilities=ROOTS) as client:
            await client.request("ping")
            assert running.supervisor.started == []


async def test_that_a_server_asks_is_remembered_by_the_next_run(tmp_path: Path) -> None:
    settings = config({"lazy": server()})
    async with gateway(settings, {"lazy": lazy()}, cache_dir=tmp_path) as running:
        async with legacy(running.url("lazy"), capabilities=ROOTS) as client:
            client.answer = no_roots
            await client.text("open", {"what": "x"})
            await eventually(lambda: asks(running))
    async with gateway(settings, {"lazy": lazy()}, cache_dir=tmp_path) as running:
        async with legacy(running.url("lazy"), capabilities=ROOTS) as client:
            assert await client.text("able") == '["roots"]'


async def test_a_client_chooses_anew_once_its_process_is_gone() -> None:
    async with gateway(config({"lazy": server()}), {"lazy": lazy("rude")}) as running:
        async with legacy(running.url("lazy"), capabilities=ROOTS) as client:
            client.answer = no_roots
            await client.text("open", {"what": "x"})
            await eventually(lambda: asks(running))
            await running.supervisor.instances["lazy", ""].stop()
            await eventually(lambda: not running.endpoint._backends["lazy"].peers())
            assert await client.text("able") == '["roots"]'


async def test_a_prepared_process_that_was_never_used_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway(config({"lazy": server()}), {"lazy": lazy("eager")}) as running:
        backend = running.endpoint._backends["lazy"]
        async with legacy(running.url("lazy"), capabilities=ROOTS) as client:
            client.answer = no_roots

            def own() -> object:
                return backend.own_peer(client.headers["mcp-session-id"])

            await eventually(own)
            monkeypatch.setattr(backend_module, "IDLE_OWN_S", -1.0)
            backend.reap()
            assert not own()
            assert "_meta" not in (await client.call("able"))["result"]
            backend.reap()
            assert "stockade/session" in (await client.call("able"))["result"]["_meta"]

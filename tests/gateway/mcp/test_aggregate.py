"""Many backends as one: names, lists, changes, pins, and what is kept."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.call.messages import Peer
from observability.events import ToolChange, ToolEvent
from tests.gateway.mcp.clients import Legacy, Modern, legacy, messages, modern
from tests.gateway.mcp.fakes import FIXTURE, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
MANY = (sys.executable, "-m", "tests.fixture_server.many")
FAULTY = (sys.executable, "-m", "tests.fixture_server.faulty")


async def tools(client: Legacy | Modern) -> list[dict[str, Any]]:
    """All pages."""
    await client.settled()
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        result = (await client.request("tools/list", cursor))["result"]
        found += result["tools"]
        if "nextCursor" not in result:
            return found
        cursor = {"cursor": result["nextCursor"]}


async def test_hundreds_of_tools_of_a_backend_that_paginates_are_all_there() -> None:
    servers = {"many": server(), "more": server()}
    async with gateway(config(servers), {"many": (*MANY, "650"), "more": (*MANY, "650")}) as running:
        async with legacy(running.url()) as client:
            found = await tools(client)
            assert len(found) == len({tool["name"] for tool in found}) == 1300
            assert await client.text("many__tool_649") == "tool_649"
            bad = await client.request("tools/list", {"cursor": "made-up"})
            assert bad["error"]["code"] == -32602


async def test_names_are_the_same_with_one_server_or_two_and_conflicts_are_resolved_and_reported() -> None:
    servers = {"one": server(prefix=""), "two": server(prefix=""), "three": server(prefix="x")}
    commands = dict.fromkeys(servers, (*MANY, "3"))
    async with gateway(config(servers), commands) as running, modern(running.url()) as client:
        found = [tool["name"] for tool in await tools(client)]
        assert found == [
            *(f"tool_{n}" for n in range(3)),
            *(f"two__tool_{n}" for n in range(3)),
            *(f"x__tool_{n}" for n in range(3)),
        ]
        assert await client.text("tool_1") == "tool_1"
        assert await client.text("two__tool_1") == "tool_1"
        renamed = [e for e in running.events if isinstance(e, ToolEvent) and e.change is ToolChange.RENAMED]
        assert {(event.backend, event.tool) for event in renamed} == {("two", f"tool_{n}") for n in range(3)}


async def test_instructions_are_merged_and_capabilities_are_declared() -> None:
    servers = {"one": server(http=True), "two": server(http=True)}
    async with gateway(config(servers)) as running:
        async with asyncio.timeout(60):
            while True:
                async with legacy(running.url()) as client:
                    said = client.result.get("instructions", "")
                if said.count("A server for tests.") == 2:
                    break
        assert said == "# one\nA server for tests.\n\n# two\nA server for tests."
        assert client.result["capabilities"]["tools"] == {"listChanged": True}
        async with modern(running.url()) as other:
            result = (await other.request("server/discover"))["result"]
            assert result["supportedVersions"] == ["2026-07-28"]
            assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "stockade"


@pytest.mark.parametrize("http", [False, True], ids=["stdio", "http"])
async def test_a_changed_list_is_told_to_old_and_new_clients(http: bool) -> None:
    async with gateway(config({"one": server(http=http)})) as running:
        async with legacy(running.url()) as old, modern(running.url()) as new, modern(running.url()) as doer:
            await doer.request("tools/list")
            before = {tool["name"] for tool in await tools(old)}
            heard: asyncio.Queue[Any] = asyncio.Queue()
            stream = old.http.stream("GET", old.url, headers=old.headers)
            message = new.message("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
            listen = new.http.stream("POST", new.url, json=message, headers=new.routing(message))
            async with stream as get, listen as post, asyncio.TaskGroup() as tasks:

                async def read(response: Any, who: str) -> None:
                    async for line in response.aiter_lines():
                        for said in messages(line, "text/event-stream"):
                            heard.put_nowait((who, said))

                readers = [tasks.create_task(read(get, "old")), tasks.create_task(read(post, "new"))]
                async with asyncio.timeout(30):
                    who, ack = await heard.get()
                    assert (who, ack["method"]) == ("new", "notifications/subscriptions/acknowledged")
                    assert ack["params"]["notifications"] == {"toolsListChanged": True}
                    await doer.call("one__test_trigger_tool_change")
                    told: dict[str, Any] = {}
                    while len(told) < 2:
                        who, said = await heard.get()
                        if said["method"] == "notifications/tools/list_changed":
                            told[who] = said
                assert told["new"]["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == message["id"]
                for reader in readers:
                    reader.cancel()
            assert "one__extra_tool_0" in {tool["name"] for tool in await tools(new)} - before


async def test_a_watched_resource_is_told_to_who_watches_it() -> None:
    async with gateway(config({"one": server(http=True)})) as running:
        async with modern(running.url()) as watcher, modern(running.url()) as doer:
            await doer.request("resources/list")
            wanted = {"notifications": {"resourceSubscriptions": ["test://watched-resource"]}}
            message = watcher.message("subscriptions/listen", wanted)
            headers = watcher.routing(message)
            async with watcher.http.stream("POST", watcher.url, json=message, headers=headers) as response:
                lines = response.aiter_lines()
                seen: list[dict[str, Any]] = []
                async with asyncio.timeout(30):
                    while len(seen) < 2:
                        line = await anext(lines)
                        seen += messages(line, "text/event-stream")
                        if len(seen) == 1 and line.startswith("data"):
                            await doer.call("one__touch")
            assert "test://watched-resource" in seen[0]["params"]["notifications"]["resourceSubscriptions"]
            assert seen[1]["method"] == "notifications/resources/updated"
            assert seen[1]["params"]["uri"] == "test://watched-resource"


async def test_who_leaves_while_a_resource_begins_to_be_watched_leaves_nothing_behind() -> None:
    async with gateway(config({"one": server(http=True)})) as running:
        async with modern(running.url()) as client:
            await client.request("resources/list")
            wanted = {"notifications": {"resourceSubscriptions": ["test://watched-resource"]}}
            backend = running.endpoint._backends["one"]
            for turns in range(40):
                message = client.message("subscriptions/listen", wanted)
                listening = asyncio.ensure_future(
                    client.http.post(client.url, json=message, headers=client.routing(message))
                )
                for _ in range(turns):
                    await asyncio.sleep(0)
                if turns % 4 == 3:
                    await eventually(lambda: running.endpoint._subscriptions._watched)
                listening.cancel()
                await asyncio.wait([listening])
            await eventually(lambda: not running.endpoint._subscriptions._watched)
            await eventually(lambda: not any(map(watches_a_resource, backend.peers())))


def watches_a_resource(peer: Peer) -> bool:
    return any("resourceSubscriptions" in call.params.get("notifications", {}) for call in peer.calls.values())


async def test_a_lazy_backend_is_listed_from_what_is_kept_and_started_by_its_first_call(tmp_path: Path) -> None:
    settings = config({"lazy": server(start="lazy")})
    async with gateway(settings, cache_dir=tmp_path) as running, modern(running.url()) as client:
        first = {tool["name"] for tool in await tools(client)}
        assert "lazy__echo" in first
    async with gateway(settings, cache_dir=tmp_path) as running, modern(running.url()) as client:
        assert {tool["name"] for tool in await tools(client)} == first
        async with legacy(running.url("lazy")) as old:
            assert old.result["serverInfo"]["name"] == "stockade-fixture"
        assert running.supervisor.started == []
        assert await client.text("lazy__echo", {"value": 1}) == '{"value": 1}'
        assert len(running.supervisor.started) == 1


@pytest.mark.parametrize("mode", ["warn", "strict"])
async def test_a_changed_definition_is_told_and_hidden_where_it_must_be(mode: str, tmp_path: Path) -> None:
    settings = config({"one": server(pin=mode)})
    async with gateway(settings, {"one": (*MANY, "2")}, cache_dir=tmp_path) as running:
        async with modern(running.url("one")) as client:
            assert len(await tools(client)) == 2
    async with gateway(settings, {"one": (*MANY, "3", "--changed")}, cache_dir=tmp_path) as running:
        async with modern(running.url("one")) as client:
            seen = {tool["name"] for tool in await tools(client)}
            changes = {(e.tool, e.change) for e in running.events if isinstance(e, ToolEvent)}
            if mode == "warn":
                assert seen == {"tool_0", "tool_1", "tool_2"}
                assert changes == {("tool_0", ToolChange.CHANGED), ("tool_2", ToolChange.ADDED)}
                return
            assert seen == {"tool_1"}
            assert changes == {("tool_0", ToolChange.HIDDEN), ("tool_2", ToolChange.HIDDEN)}
            assert "error" in await client.call("tool_0")
            running.endpoint.approve("one", "tool_0")
            assert {tool["name"] for tool in await tools(client)} == {"tool_0", "tool_1"}
            assert await client.text("tool_0") == "tool_0"
            with pytest.raises(KeyError):
                running.endpoint.approve("one", "nothing")


async def test_an_idle_session_expires_and_its_process_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.endpoint._HOUSEKEEPING_S", 0.1)
    settings = config({"one": server(sessions="per-client")})
    async with gateway(settings, {"one": FIXTURE}) as running, legacy(running.url("one")) as client:
        await client.text("test_simple_text")
        monkeypatch.setattr("gateway.mcp.call.sessions.IDLE_S", 0.0)
        running.endpoint.expire_sessions(0.0)
        async with asyncio.timeout(30):
            await eventually(lambda: running.supervisor.released)
        assert (await client.post({"jsonrpc": "2.0", "id": 1, "method": "ping"})).status_code == 404
        assert running.meters.sessions[0]["protocol_version"] == "2025-11-25"


async def test_the_connections_of_single_sessions_have_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.upstream.backend.MAX_OWN", 2)
    settings = config({"one": server(sessions="per-client")})
    async with gateway(settings, {"one": FAULTY}) as running:
        url = running.url("one")
        async with legacy(url) as a, legacy(url) as b, legacy(url) as c, legacy(url) as d:
            for client in (a, b, c):
                assert await client.text("ok") == "ok "
            await eventually(lambda: len(running.supervisor.released) == 1)
            said = await a.call("ok")
            assert "Session ended" in said["error"]["message"], (
                "not served by a new process as if nothing had happened"
            )
            stuck = [asyncio.ensure_future(client.call("never")) for client in (b, c)]
            await eventually(lambda: not (running.endpoint.inflight.count() < 2))
            refused = await d.call("ok")
            assert "2 client sessions use it already" in refused["error"]["message"]
            for call in stuck:
                call.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)

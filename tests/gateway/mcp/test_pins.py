"""`pin: strict` holds on every way to a tool: what was not listed, pinned and unchanged is not called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server, token_digest
from tests.gateway.mcp.test_aggregate import MANY, tools

pytestmark = pytest.mark.anyio
STRICT = config({"one": server(pin="strict")})


def called(running: Gateway) -> list[str]:
    """The tools that the backend's processes were really asked for."""
    said = [line for instance in running.supervisor.instances.values() for line in instance.errors]
    return sorted(line.removeprefix("called ") for line in said if line.startswith("called "))


@pytest.mark.parametrize("connect", [legacy, modern])
@pytest.mark.parametrize(("route", "prefix"), [("", "one__"), ("one", "")], ids=["aggregate", "per-backend"])
async def test_a_tool_that_was_never_listed_cannot_be_called_by_name(connect: Any, route: str, prefix: str) -> None:
    async with gateway(STRICT, {"one": (*MANY, "2")}) as running, connect(running.url(route)) as client:
        for name in ("secret", "tool_00", "TOOL_0", "tool_2"):
            said = await client.call(prefix + name)
            assert said["error"] == {"code": -32602, "message": f"Unknown tool: {prefix}{name}"}, said
        assert await client.text(f"{prefix}tool_0") == "tool_0"
        assert called(running) == ["tool_0"]


async def test_the_first_request_of_all_is_a_call_and_the_list_is_read_before_it() -> None:
    async with gateway(STRICT, {"one": (*MANY, "2")}) as running, modern(running.url("one")) as client:
        assert await client.text("tool_1") == "tool_1"
        assert "error" in await client.call("secret")


async def test_without_strict_pins_a_tool_that_no_list_has_still_passes() -> None:
    async with gateway(config({"one": server()}), {"one": (*MANY, "2")}) as running:
        async with modern(running.url()) as client:
            assert await client.text("one__secret") == "secret"


async def test_search_mode_opens_no_other_way() -> None:
    clients = {"a": {"token_sha256": token_digest("a"), "tools": {"mode": "search"}}}
    settings = config({"one": server(pin="strict")}, clients=clients)
    async with gateway(settings, {"one": (*MANY, "2")}) as running, modern(running.url(), token="a") as client:
        assert "error" in await client.call("call_tool", {"name": "one__secret"})
        assert await client.text("call_tool", {"name": "one__tool_0"}) == "tool_0"
        assert called(running) == ["tool_0"]


@pytest.mark.parametrize("start", ["eager", "lazy"])
async def test_a_changed_tool_stays_hidden_over_restarts_of_the_gateway(start: str, tmp_path: Path) -> None:
    settings = config({"one": server(pin="strict", start=start)})
    async with gateway(settings, {"one": (*MANY, "2")}, cache_dir=tmp_path) as running:
        async with modern(running.url("one")) as client:
            assert await client.text("tool_0") == "tool_0"
    changed = {"one": (*MANY, "2", "--changed")}
    for _ in range(3):
        async with gateway(settings, changed, cache_dir=tmp_path) as running, modern(running.url("one")) as client:
            assert "error" in await client.call("tool_0"), "before anybody asked for the list"
            assert {tool["name"] for tool in await tools(client)} == {"tool_1"}
            assert "error" in await client.call("tool_0")
            assert called(running) == []
            assert [one.tool for one in running.endpoint.differences("one")] == ["tool_0"]
    async with gateway(settings, changed, cache_dir=tmp_path) as running, modern(running.url("one")) as client:
        await tools(client)
        running.endpoint.approve("one", "tool_0")
        assert await client.text("tool_0") == "tool_0"


@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_backend_that_turns_while_it_runs_is_found_out_at_the_next_call(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.view.listing.FRESH_S", 0.0)
    async with gateway(STRICT, {"one": (*MANY, "2", "--turncoat")}) as running, connect(running.url("one")) as client:
        assert await client.text("tool_0") == "tool_0"
        assert "error" in await client.call("tool_0")
        assert await client.text("tool_1") == "tool_1"
        assert called(running) == ["tool_0", "tool_1"]


async def test_a_session_with_a_process_of_its_own_is_judged_by_that_process() -> None:
    settings = config({"one": server(pin="strict", sessions="per-client")})
    async with gateway(settings, {"one": (*MANY, "2")}) as running:
        async with legacy(running.url("one")) as first:
            assert await first.text("tool_0") == "tool_0"
            running.supervisor.commands["one"] = (*MANY, "2", "--changed")
            async with legacy(running.url("one")) as second:
                assert "error" in await second.call("tool_0")
                assert await second.text("tool_1") == "tool_1"


async def test_a_mode_that_becomes_strict_judges_what_is_known_already(tmp_path: Path) -> None:
    async with gateway(STRICT, {"one": (*MANY, "2")}, cache_dir=tmp_path) as running:
        async with modern(running.url("one")) as client:
            await tools(client)
    off = config({"one": server(pin="off")})
    async with gateway(off, {"one": (*MANY, "2", "--changed")}, cache_dir=tmp_path) as running:
        async with modern(running.url("one")) as client:
            assert len(await tools(client)) == 2
            running.endpoint.apply(STRICT)
            assert {tool["name"] for tool in await tools(client)} == {"tool_1"}
            assert "error" in await client.call("tool_0")

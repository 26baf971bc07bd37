"""On `/mcp` a name or URI belongs to who had it first: no backend can take what its neighbours serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.view import claims as claims_module
from gateway.mcp.view.claims import Claims
from gateway.mcp.view.listing import Kind
from gateway.mcp.view.names import NameTable, reserved_starts
from observability.events import NoticeEvent, ToolChange, ToolEvent
from tests.gateway.mcp.clients import Modern, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server, token_digest

pytestmark = pytest.mark.anyio
COVETOUS = (sys.executable, "-m", "tests.fixture_server.covetous")
FILE = "file:///home/notes.txt"


def commands(**lists: str) -> dict[str, tuple[str, ...]]:
    return {name: (*COVETOUS, name, *said.split()) for name, said in lists.items()}


async def read(client: Modern, uri: str = FILE) -> str:
    said = await client.request("resources/read", {"uri": uri})
    return str(said["result"]["contents"][0]["text"]) if "result" in said else str(said["error"]["code"])


async def shown(client: Modern, method: str = "resources/list", kind: str = "resources") -> list[tuple[str, str]]:
    items = (await client.request(method))["result"][kind]
    return [(item.get("uri") or item.get("uriTemplate"), item["name"]) for item in items]


def notices(running: Gateway) -> list[str]:
    found = [event for event in running.events if isinstance(event, NoticeEvent)]
    return [event.backend for event in found if event.code == "resource_contested"]


@pytest.fixture(autouse=True)
def lists_are_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.view.listing.FRESH_S", 0.0)


async def test_a_backend_that_later_lists_a_neighbours_uri_does_not_get_it(tmp_path: Path) -> None:
    settings = config({"evil": server(), "good": server()})
    wanted = commands(evil=f"later={FILE}", good=f"now={FILE}")
    async with gateway(settings, wanted, cache_dir=tmp_path) as running, modern(running.url()) as client:
        await client.settled()
        assert await shown(client) == [(FILE, "good")]
        assert await read(client) == "good"
        await client.call("evil__grow")
        assert await shown(client) == [(FILE, "good")], "though evil stands first in the file"
        assert await read(client) == "good"
        assert notices(running) == ["evil"], "once, however often the lists are read"
        async with modern(running.url("evil")) as other:
            assert await read(other) == "evil"
    # the next life: evil lists it from the start, and stands first
    wanted = commands(evil=f"now={FILE}", good=f"now={FILE}")
    async with gateway(settings, wanted, cache_dir=tmp_path) as running, modern(running.url()) as client:
        await client.settled()
        assert await shown(client) == [(FILE, "good")]
        assert await read(client) == "good"
        assert notices(running) == ["evil"]
        running.endpoint.apply(config({"evil": server()}))
        assert await read(client) == "evil", "who leaves the configuration owns nothing"


def test_the_order_of_the_file_decides_between_first_lists_and_never_again() -> None:
    listed = Claims()
    listed.retain(["one", "two"])
    assert listed.take(Kind.TOOLS, "a", "two") == "two"
    listed.read(Kind.TOOLS, "two")
    assert listed.take(Kind.TOOLS, "a", "one") == "one", "it stands first, and had not been heard yet"
    listed.read(Kind.TOOLS, "one")
    assert listed.take(Kind.TOOLS, "b", "two") == "two"
    assert listed.take(Kind.TOOLS, "b", "one") == "two", "it had been heard"
    again = Claims(listed.contested)
    again.retain(["one", "two"])
    assert again.take(Kind.TOOLS, "b", "one") == "two", "and after a restart"


async def test_of_two_that_list_it_from_the_start_the_first_in_the_file_has_it() -> None:
    wanted = commands(one=f"now={FILE}", two=f"now={FILE}")
    settings = config({"one": server(start="lazy"), "two": server(start="lazy")})
    async with gateway(settings, wanted) as running:
        for name in ("two", "one"):  # not in the order of the file, and before anybody asked for the aggregate
            async with modern(running.url(name)) as client:
                await client.request("tools/list")
        async with modern(running.url()) as client:
            await client.settled()
            assert await shown(client) == [(FILE, "one")]


async def test_a_template_cannot_be_taken_over_either() -> None:
    template = "file:///home/{+path}"
    wanted = commands(evil=f"later=template:{template} later=template:{{+all}}", good=f"now=template:{template}")
    async with gateway(config({"evil": server(), "good": server()}), wanted) as running:
        async with modern(running.url()) as client:
            await client.settled()
            assert await read(client) == "good"
            await client.call("evil__grow")
            listed = await shown(client, "resources/templates/list", "resourceTemplates")
            assert listed == [("{+all}", "evil"), (template, "good")]
            assert await read(client) == "good"
            assert await read(client, "https://elsewhere.example/") == "evil"


async def test_the_owner_keeps_what_it_stops_listing_while_it_stands_in_the_file() -> None:
    listed = Claims()
    listed.retain(["evil", "good"])
    listed.read(Kind.RESOURCES, "evil")
    assert listed.take(Kind.RESOURCES, FILE, "good") == "good"
    assert listed.take(Kind.RESOURCES, FILE, "evil") == "good"
    assert listed.contested == {"resources": {FILE: "good"}}
    listed.retain(["evil"])
    assert listed.take(Kind.RESOURCES, FILE, "evil") == "evil"
    assert listed.contested == {}


async def test_a_client_that_may_not_see_the_owner_reads_from_who_it_may_see() -> None:
    clients = {"a": {"token_sha256": token_digest("a"), "servers": ["evil"]}}
    wanted = commands(evil=f"now={FILE}", good=f"now={FILE}")
    async with gateway(config({"good": server(), "evil": server()}, clients=clients), wanted) as running:
        async with modern(running.url(), token="a") as client:
            await client.settled()
            assert await shown(client) == [(FILE, "evil")]
            assert await read(client) == "evil"


@pytest.mark.parametrize("coveted", ["search", "good__search"], ids=["bare", "prefixed"])
async def test_a_backend_without_a_prefix_cannot_take_a_neighbours_tool(coveted: str) -> None:
    prefix: dict[str, Any] = {"prefix": ""} if coveted == "search" else {}
    settings = config({"evil": server(prefix=""), "good": server(**prefix)})
    wanted = commands(evil=f"later=tool:{coveted}", good="now=tool:search")
    async with gateway(settings, wanted) as running, modern(running.url()) as client:
        await client.settled()
        assert await client.text(coveted) == "good"
        await client.call("grow")
        tools = {tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]}
        assert {coveted, f"evil__{coveted}"} <= tools
        assert await client.text(coveted) == "good"
        assert await client.text(f"evil__{coveted}") == "evil"
        renamed = [e for e in running.events if isinstance(e, ToolEvent) and e.change is ToolChange.RENAMED]
        assert (renamed[-1].backend, renamed[-1].tool) == ("evil", coveted)


def test_beginnings_are_reserved_for_those_whose_they_are() -> None:
    starts = reserved_starts({"one": "", "two": "two", "three": "x"}, "__")
    assert starts["one"] == ("three__", "two__", "x__")
    assert starts["two"] == ("three__",)
    table = NameTable("__", reserved=starts)
    table.add("one", "", ["two__search", "plain"])
    table.add("two", "two", ["search"])
    assert table.owner("two__search") == ("two", "search")
    assert table.owner("one__two__search") == ("one", "two__search")
    assert table.owner("plain") == ("one", "plain")


def test_a_backend_with_other_names_each_time_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "_MAX_CLAIMS", 10)
    listed = Claims()
    for number in range(50):
        listed.take(Kind.RESOURCES, f"x:{number}", "evil")
        listed.prune([(Kind.RESOURCES, "x:1"), (Kind.RESOURCES, f"x:{number}")])
    assert listed.owner(Kind.RESOURCES, "x:1") == "evil"
    assert len(listed.in_order(Kind.RESOURCES, {f"x:{n}" for n in range(50)})) <= 11


@pytest.mark.parametrize("kept", [{"resources": 5}, {"resources": {"x:": 5}}, {"nonsense": {}}, {}])
def test_what_is_kept_may_be_damaged(kept: Any) -> None:
    assert Claims(kept).contested == {}

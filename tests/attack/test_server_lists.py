"""A server lists what clients refuse, or more than anybody wants to read: the other servers' lists must not suffer."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.route.pages import MAX_PAGE, PAGE
from gateway.mcp.view.items import MAX_ITEM, MAX_LIST
from observability.events import NoticeEvent
from tests.attack import shapes
from tests.attack.scripted import script
from tests.gateway.mcp import suite
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import FIXTURE, Gateway, config, gateway, server

pytestmark = pytest.mark.anyio
KEYS = {"tools": "name", "prompts": "name", "resources": "uri", "resourceTemplates": "uriTemplate"}

PYTHON_OLD = """
import asyncio, json, sys
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
async def main():
    async with streamablehttp_client(sys.argv[1]) as (read, write, _), ClientSession(read, write) as client:
        await client.initialize()
        print(json.dumps({
            "tools": [one.name for one in (await client.list_tools()).tools],
            "prompts": [one.name for one in (await client.list_prompts()).prompts],
            "resources": [str(one.uri) for one in (await client.list_resources()).resources],
            "resourceTemplates": [one.uriTemplate for one in (await client.list_resource_templates()).resourceTemplates],
        }))
asyncio.run(main())
"""
PYTHON_NEW = """
import asyncio, json, sys
from mcp import Client
async def main():
    async with Client(sys.argv[1]) as client:
        print(json.dumps({
            "tools": [one.name for one in (await client.list_tools()).tools],
            "prompts": [one.name for one in (await client.list_prompts()).prompts],
            "resources": [one.uri for one in (await client.list_resources()).resources],
            "resourceTemplates": [one.uri_template for one in (await client.list_resource_templates()).resource_templates],
        }))
asyncio.run(main())
"""
TYPESCRIPT = """
const client = new Client({ name: 'ts', version: '1' }, {});
await client.connect(new StreamableHTTPClientTransport(new URL(process.argv[2])));
console.log(JSON.stringify({
  tools: (await client.listTools()).tools.map(one => one.name),
  prompts: (await client.listPrompts()).prompts.map(one => one.name),
  resources: (await client.listResources()).resources.map(one => one.uri),
  resourceTemplates: (await client.listResourceTemplates()).resourceTemplates.map(one => one.uriTemplate),
}));
process.exit(0);
"""
IMPORTS = {
    "sdk": "import { Client } from '@modelcontextprotocol/sdk/client/index.js';"
    "import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';",
    "client": "import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client';",
}


def reader(client: str, folder: Path) -> tuple[str, ...]:
    """The command of a program that reads all lists with an official client and prints their keys."""
    match client:
        case "python 1":
            path = f"import sys; sys.path.insert(0, {str(suite.python_sdk())!r})\n"
            return (sys.executable, "-S", "-c", path + PYTHON_OLD)
        case "python 2":
            return (sys.executable, "-c", PYTHON_NEW)
        case _:
            package = {"typescript 1": "sdk", "typescript 2": "client"}[client]
            place = suite.package(package).parents[2] / f"reader-{folder.name}.mjs"
            place.write_text(IMPORTS[package] + TYPESCRIPT)
            return (suite.node(), str(place))


def bad(folder: Path) -> tuple[str, ...]:
    return script(
        folder,
        tools_list={"tools": shapes.tools()},
        prompts_list={"prompts": shapes.prompts()},
        resources_list={"resources": shapes.resources("uri")},
        resources_templates_list={"resourceTemplates": shapes.resources("uriTemplate")},
    )


async def output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    return out.decode()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("client", ["python 1", "python 2", "typescript 1", "typescript 2"])
async def test_no_item_of_one_server_costs_a_client_the_others(client: str, tmp_path: Path) -> None:
    """Red team M3 and trials B1/B2: each of these made the SDKs refuse everybody's list."""
    settings = config({"bad": server(), "good": server()})
    async with gateway(settings, {"bad": bad(tmp_path), "good": FIXTURE}) as running:
        async with legacy(running.url()) as raw:
            for kind in ("tools/list", "prompts/list", "resources/list", "resources/templates/list"):
                while "stockade/unavailable" in (await raw.request(kind))["result"].get("_meta", {}):
                    await asyncio.sleep(0.1)
        said = json.loads((await output(*reader(client, tmp_path), running.url())).splitlines()[-1])
    assert {"bad__good", "bad__noschema", "good__echo"} <= set(said["tools"])
    assert {"bad__good", "good__test_simple_prompt"} <= set(said["prompts"])
    assert {"x://good", "x://nameless", "test://static-text"} <= set(said["resources"])
    assert {"x://good", "x://nameless", "test://template/{id}/data"} <= set(said["resourceTemplates"])
    assert len([name for name in said["tools"] if name.startswith("bad__tool")]) > 60


async def test_what_is_left_out_is_named_where_an_administrator_looks(tmp_path: Path) -> None:
    async with gateway(config({"bad": server()}), {"bad": bad(tmp_path)}) as running:
        async with legacy(running.url()) as client:
            await client.settled()
        found = running.endpoint.flaws("bad")
        assert "of its tools cannot be shown and are left out: " in found["left_out"][0]
        assert "'tool3' (its inputSchema is not one of an object)" in found["left_out"][0]
        assert "'noschema' (inputSchema)" in found["reshaped"][0]
        assert all(text.replace("…", "").isascii() for text in found["left_out"])
        notices = [
            event for event in running.events if isinstance(event, NoticeEvent) and event.code == "items_left_out"
        ]
        assert [(notice.backend, notice.count > 10) for notice in notices][:1] == [("bad", True)]


# --- sizes


async def answers(running: Gateway) -> dict[str, Any]:
    async with legacy(running.url()) as client:
        return await client.settled()


async def test_an_item_that_is_too_large_is_left_out(tmp_path: Path) -> None:
    """Red team M4 (a): one description of 12 MB was in every client's list."""
    tools = [
        {"name": "words", "description": "x" * MAX_ITEM, "inputSchema": shapes.OBJECT},
        {"name": "schema", "inputSchema": {**shapes.OBJECT, "properties": {"a": {"description": "x" * MAX_ITEM}}}},
        {"name": "meta", "_meta": {"a": "x" * MAX_ITEM}, "inputSchema": shapes.OBJECT},
        {"name": "good", "description": "x" * 50_000, "inputSchema": shapes.OBJECT},
    ]
    command = script(tmp_path, tools_list={"tools": tools})
    async with gateway(config({"big": server()}), {"big": command}, cache_dir=tmp_path / "kept") as running:
        said = await answers(running)
        assert [tool["name"] for tool in said["tools"]] == ["big__good"]
        (left_out,) = running.endpoint.flaws("big")["left_out"]
        assert "3 of its tools" in left_out
        assert "the limit is 262144" in left_out
        await running.endpoint._list_cache.close()
        assert (tmp_path / "kept" / "lists.json").stat().st_size < MAX_ITEM


async def test_a_list_without_an_end_is_cut(tmp_path: Path) -> None:
    """Every page leads to another, and all are full."""
    page = [
        {"name": f"tool{number}", "description": "x" * 100_000, "inputSchema": shapes.OBJECT} for number in range(100)
    ]
    pages = {"tools": page, "nextCursor": "0"}
    command = script(tmp_path, tools_list=pages)
    async with gateway(config({"big": server()}), {"big": command}, cache_dir=tmp_path / "kept") as running:
        said = await answers(running)
        assert len(json.dumps(said)) <= MAX_LIST + 1000
        assert 30 < len(said["tools"]) < 42
        (left_out,) = running.endpoint.flaws("big")["left_out"]
        assert left_out.startswith(f"{100 - len(said['tools'])} of its tools cannot be shown")
        assert f"the list is larger than {MAX_LIST} bytes" in left_out
        asked = [line for line in running.supervisor.instances["big", ""].errors if "tools/list" in line]
        assert asked
        assert not any("cursor" in line for line in asked), "no page is asked for once the list is full"


async def test_many_items_of_one_server_leave_room_for_the_others_on_the_first_page(tmp_path: Path) -> None:
    """Many clients read one page only; the first server in the file filled it."""
    crowd = [{"name": f"tool{number}", "inputSchema": shapes.OBJECT} for number in range(5000)]
    large = [
        {"name": f"tool{number}", "description": "x" * 200_000, "inputSchema": shapes.OBJECT} for number in range(20)
    ]
    names = ("many", *(f"large{number}" for number in range(4)), "calm")
    commands = {name: script(tmp_path, name, tools_list={"tools": large}) for name in names}
    commands["many"] = script(tmp_path, "many", tools_list={"tools": crowd})
    commands["calm"] = script(
        tmp_path, "calm", tools_list={"tools": [{"name": "only", "inputSchema": shapes.OBJECT}]}
    )
    async with (
        gateway(config({name: server() for name in names}), commands) as running,
        legacy(running.url()) as client,
    ):
        said = await client.settled()
        assert "calm__only" in [tool["name"] for tool in said["tools"]]
        found: set[str] = set()
        cursor = None
        while True:
            page = (await client.request("tools/list", {"cursor": cursor} if cursor else {}))["result"]
            assert len(page["tools"]) <= PAGE
            assert len(json.dumps(page)) <= MAX_PAGE + 1000
            fresh = {tool["name"] for tool in page["tools"]}
            assert not fresh & found
            found |= fresh
            if (cursor := page.get("nextCursor")) is None:
                break
        assert len(found) == 5000 + 4 * 20 + 1


async def test_kept_lists_are_held_to_the_same_shape_and_size(tmp_path: Path) -> None:
    """The file may come from a version that looked at nothing."""
    command = script(tmp_path, tools_list={"tools": [{"name": "good", "inputSchema": shapes.OBJECT}]})
    settings, kept = config({"one": server(start="lazy")}), tmp_path / "kept"
    async with gateway(settings, {"one": command}, cache_dir=kept) as running:
        await answers(running)
        await running.endpoint._list_cache.close()
    document = json.loads((kept / "lists.json").read_text())
    entry = document["backends"]["one"]
    entry["lists"]["tools"] = [*shapes.tools(), {"name": "large", "description": "x" * MAX_ITEM}]
    entry["legacy"] |= {"instructions": "x" * 5_000_000, "serverInfo": 5, "capabilities": {"tools": None}}
    (kept / "lists.json").write_text(json.dumps(document))
    async with gateway(settings, {"one": command}, cache_dir=kept) as running:
        async with legacy(running.url("one")) as client:
            assert len(json.dumps(client.result)) < 100_000
            names = [tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]]
        assert "large" not in names
        assert "good" in names
        assert running.supervisor.started == []


async def test_a_modern_client_reads_sound_answers_too(tmp_path: Path) -> None:
    said = {"tools": shapes.tools(), "ttlMs": "soon", "cacheScope": 5, "_meta": 7, "x": 1}
    command = script(tmp_path, tools_list=said)
    async with gateway(config({"one": server()}), {"one": command}) as running:
        for route in ("", "one"):
            async with modern(running.url(route)) as client:
                result = await client.settled()
                assert result["ttlMs"] == 0
                assert result["cacheScope"] == "private"
                assert "_meta" not in result

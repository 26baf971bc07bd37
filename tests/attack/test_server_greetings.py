"""A server's greeting, or its pages, are not as clients want them: its tools can be used all the same, and others' too."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attack import shapes
from tests.attack.scripted import GREETING, script
from tests.attack.test_server_lists import IMPORTS, output
from tests.gateway.mcp import suite
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import FIXTURE, config, gateway, server

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.timeout(300)]
TOOLS = {"tools": [{"name": "only", "inputSchema": shapes.OBJECT}]}

PYTHON_OLD = """
import asyncio, json, sys
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamablehttp_client
async def main():
    for url in sys.argv[1:]:
        async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as client:
            await client.initialize()
            print(json.dumps([one.name for one in (await client.list_tools()).tools]))
asyncio.run(main())
"""
PYTHON_NEW = """
import asyncio, json, sys
from mcp import Client
async def main():
    for url in sys.argv[1:]:
        async with Client(url) as client:
            print(json.dumps([one.name for one in (await client.list_tools()).tools]))
asyncio.run(main())
"""
TYPESCRIPT = """
for (const url of process.argv.slice(2)) {
  const client = new Client({ name: 'ts', version: '1' }, {});
  try {
    await client.connect(new StreamableHTTPClientTransport(new URL(url)));
    console.log(JSON.stringify((await client.listTools()).tools.map(one => one.name)));
  } catch (error) { throw new Error(`${url}: ${error}`); }
  await client.close();
}
process.exit(0);
"""


def reader(client: str, folder: Path) -> tuple[str, ...]:
    """The command of a program that greets each URL with an official client and prints the names of its tools."""
    match client:
        case "python 1":
            path = f"import sys; sys.path.insert(0, {str(suite.python_sdk())!r})\n"
            return (sys.executable, "-S", "-c", path + PYTHON_OLD)
        case "python 2":
            return (sys.executable, "-c", PYTHON_NEW)
        case _:
            package = {"typescript 1": "sdk", "typescript 2": "client"}[client]
            place = suite.package(package).parents[2] / f"greeter-{folder.name}.mjs"
            place.write_text(IMPORTS[package] + TYPESCRIPT)
            return (suite.node(), str(place))


def odd(folder: Path) -> dict[str, tuple[str, ...]]:
    """The commands of servers that are each odd in one way, and have a tool."""
    found = {}
    for number, more in enumerate(shapes.GREETINGS):
        said = {**GREETING, "capabilities": {"tools": {}}, **more}
        found[f"greeting-{number}"] = script(folder, f"greeting{number}", initialize=said, tools_list=TOOLS)
    for number, more in enumerate(shapes.PAGES):
        found[f"page-{number}"] = script(folder, f"page{number}", tools_list={**TOOLS, **more})
    return found


@pytest.mark.parametrize("client", ["python 1", "python 2", "typescript 1", "typescript 2"])
async def test_no_greeting_and_no_page_costs_a_client_a_tool(client: str, tmp_path: Path) -> None:
    """Trials B1/B2: `instructions: null` broke the greeting of /servers/NAME/mcp, and one list all lists of /mcp."""
    commands = odd(tmp_path)
    empty = {
        f"empty-{number}": script(tmp_path, f"empty{number}", tools_list=page)
        for number, page in enumerate(shapes.NO_LISTS)
    }
    servers = {name: server() for name in (*commands, *empty, "good")}
    async with gateway(config(servers), {**commands, **empty, "good": FIXTURE}) as running:
        async with legacy(running.url()) as raw:
            await all_listed(raw, set(empty))
        routes = [*commands, "good", ""]
        said = await output(*reader(client, tmp_path), *map(running.url, routes))
    found = dict(zip(routes, [json.loads(line) for line in said.splitlines() if line.startswith("[")], strict=True))
    assert {name: found[name] for name in commands} == {name: ["only"] for name in commands}
    assert "echo" in found["good"]
    assert {*(f"{name}__only" for name in commands), "good__echo"} <= set(found[""])


async def all_listed(raw: Any, failing: set[str]) -> None:
    """Wait until no server but those is missing from the list of all."""
    async with asyncio.timeout(120):
        while True:
            result = (await raw.request("tools/list"))["result"]
            if {one["backend"] for one in result.get("_meta", {}).get("stockade/unavailable", ())} <= failing:
                return
            await asyncio.sleep(0.1)

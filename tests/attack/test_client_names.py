"""A client that may not use some tools and prompts asks for them by names that their server may take for the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.attack.scripted import GREETING, script
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, gateway, server, token_digest

pytestmark = pytest.mark.anyio
NAMES = [
    "Secret_tool", "SECRET_TOOL", "secret_tool ", " secret_tool", "secret_tool\t", "\uff53ecret_tool", "secret_tool\u200b",
    "secret\u00ad_tool", "secret_tool\x00", "secret-tool", "secret.tool", "secrettool", "\u017fecret_tool",
]  # fmt: skip
OBJECT = {"type": "object"}
ANSWERS: dict[str, Any] = {
    "tools_list": {"tools": [{"name": name, "inputSchema": OBJECT} for name in ("open_tool", "secret_tool")]},
    "prompts_list": {"prompts": [{"name": "open_prompt"}, {"name": "secret_tool"}]},
    "tools_call": {"content": [{"type": "text", "text": "called"}]},
    "prompts_get": {"messages": []},
    "completion_complete": {"completion": {"values": []}},
}
HIDDEN = {"deny": ["*secret_tool"]}
CLIENTS = {
    "denied": {"token_sha256": token_digest("denied"), "tools": HIDDEN, "prompts": HIDDEN},
    "searching": {"token_sha256": token_digest("searching"), "tools": {**HIDDEN, "mode": "search"}},
    "free": {"token_sha256": token_digest("free")},
}


def asked(running: Gateway) -> list[str | None]:
    """The names that the server was asked for."""
    lines = [line for instance in running.supervisor.instances.values() for line in instance.errors]
    found = [json.loads(line.removeprefix("asked ")) for line in lines if line.startswith("asked ")]
    return [
        params.get("name") or (params.get("ref") or {}).get("name")
        for method, params in found
        if "list" not in method
    ]


async def refusals(client: Any, start: str) -> None:
    for name in NAMES:
        ref = {"type": "ref/prompt", "name": start + name}
        for method, params in (
            ("tools/call", {"name": start + name, "arguments": {}}),
            ("prompts/get", {"name": start + name}),
            ("completion/complete", {"ref": ref, "argument": {"name": "a", "value": "b"}}),
        ):
            said = await client.request(method, params)
            assert said["error"]["message"].startswith("Unknown "), (name, said)


async def test_no_other_spelling_of_a_hidden_name_reaches_the_server(tmp_path: Path) -> None:
    """Red team m1: with a `deny` each of these reached the server, which may fold and trim names."""
    command = script(tmp_path, **ANSWERS)
    async with gateway(config({"one": server()}, clients=CLIENTS), {"one": command}) as running:
        for route, start in (("", "one__"), ("one", "")):
            async with legacy(running.url(route), token="denied") as client:
                await client.settled()
                await refusals(client, start)
                assert await client.text(start + "open_tool") == "called"
            async with legacy(running.url(route), token="searching") as client:
                for name in NAMES:
                    said = await client.call("call_tool", {"name": start + name, "arguments": {}})
                    assert said["error"]["message"].startswith("Unknown tool"), said
            async with modern(running.url(route), token="denied") as client:
                said = await client.request("tools/call", {"name": start + "Secret_tool", "arguments": {}})
                assert said["error"]["message"].startswith("Unknown tool")
        assert set(asked(running)) <= {None, "open_tool"}


async def test_a_servers_own_filter_renames_and_fixed_arguments_hold_too(tmp_path: Path) -> None:
    for tools in (HIDDEN, {"fixed": {"secret_tool": {"path": "/safe"}}}, {"rename": {"secret_tool": "other"}}):
        command = script(tmp_path, **ANSWERS)
        async with gateway(config({"one": server(tools=tools)}), {"one": command}) as running:
            async with legacy(running.url("one")) as client:
                for name in NAMES:
                    said = await client.call(name)
                    assert said["error"]["message"].startswith("Unknown tool"), said
            assert set(asked(running)) <= {None}


async def test_a_name_that_is_listed_meanwhile_can_be_called(tmp_path: Path) -> None:
    """The list is read again before a name is refused, so a filter does not freeze what a server offers."""
    greeting = {**GREETING, "capabilities": {"tools": {"listChanged": True}}}
    answers = {**ANSWERS, "initialize": greeting}
    command = script(tmp_path, **{**answers, "tools_list": {"tools": []}})
    async with gateway(config({"one": server()}, clients=CLIENTS), {"one": command}) as running:
        async with legacy(running.url("one"), token="denied") as client:
            assert (await client.request("tools/list"))["result"]["tools"] == []
            script(tmp_path, **answers)  # it has a tool now, and does not tell
            for known in running.endpoint._backends["one"].catalog.lists.values():
                known.read -= 3600
            assert await client.text("open_tool") == "called"


async def test_without_a_filter_a_name_that_no_list_has_goes_through(tmp_path: Path) -> None:
    command = script(tmp_path, **ANSWERS)
    async with gateway(config({"one": server()}, clients=CLIENTS), {"one": command}) as running:
        async with legacy(running.url("one"), token="free") as client:
            assert await client.text("unlisted") == "called"

"""Parameters of every shape, to every method, on every route and in both eras: an answer each, and no error of ours."""

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest

from tests.gateway.mcp.clients import Modern, legacy, modern
from tests.gateway.mcp.fakes import config, gateway, server, token_digest

pytestmark = pytest.mark.anyio
VALUES: list[Any] = [None, True, -1, 1.5, 10**30, "", "x", "one__echo", "\ud800", [], [[]], {}, {"a": {"b": []}}]
KEYS: dict[str, tuple[str, ...]] = {
    "tools/list": ("cursor",),
    "prompts/list": ("cursor",),
    "tools/call": ("name", "arguments", "inputResponses", "requestState"),
    "prompts/get": ("name", "arguments"),
    "resources/read": ("uri",),
    "resources/subscribe": ("uri",),
    "resources/unsubscribe": ("uri",),
    "completion/complete": ("ref", "argument", "context"),
    "logging/setLevel": ("level",),
    "tasks/get": ("taskId",),
    "tasks/update": ("taskId", "inputResponses"),
    "tasks/list": ("cursor",),
    "server/discover": ("x",),
    "ping": ("x",),
    "made/up": ("x",),
}
FILLED: dict[str, dict[str, Any]] = {
    "tools/call": {"name": "one__echo"},
    "prompts/get": {"name": "one__test_simple_prompt"},
    "completion/complete": {"ref": {"type": "ref/prompt", "name": "one__test_prompt_with_arguments"}},
}
REFS: list[Any] = [
    {"type": kind, key: value}
    for kind, key in (("ref/prompt", "name"), ("ref/resource", "uri"), (5, "name"))
    for value in VALUES[::2]
]
META: list[Any] = [5, [], {"progressToken": {}}, {"progressToken": [1]}, {"progressToken": None}]


def cases() -> list[tuple[str, dict[str, Any]]]:
    found = [
        (method, {**FILLED.get(method, {}), key: value})
        for method, keys in KEYS.items()
        for key, value in itertools.product(keys, VALUES)
    ]
    found += [("completion/complete", {"ref": ref, "argument": {"name": "a", "value": "b"}}) for ref in REFS]
    return found


@pytest.mark.parametrize("mode", ["list", "search"])
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_every_shape_gets_an_answer(connect: Any, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    clients = {"a": {"token_sha256": token_digest("a"), "tools": {"mode": mode}}}
    async with gateway(config({"one": server(http=True)}, clients=clients)) as running:
        for route in ("", "one"):
            async with connect(running.url(route), token="a") as client:
                await client.settled()
                for method, params in cases():
                    message = (
                        client.message(method, params)
                        if isinstance(client, Modern)
                        else {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
                    )
                    headers = routed(client, message) if isinstance(client, Modern) else client.headers
                    headers = {**headers, "content-type": "application/json"}
                    response = await client.http.post(client.url, content=json.dumps(message), headers=headers)
                    assert response.status_code < 500, (method, params, response.text)
                    assert "Internal error" not in response.text, (method, params, response.text)
                if not isinstance(client, Modern):
                    for meta in META:
                        said = await client.request("tools/call", {"name": "x", "_meta": meta})
                        assert "error" in said
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def routed(client: Modern, message: dict[str, Any]) -> dict[str, str]:
    """The headers that fit the message, where it can be put into headers at all."""
    params = message["params"]
    name = params.get("name") or params.get("uri") or params.get("taskId")
    headers = {**client.headers, "mcp-method": message["method"]}
    return {**headers, "mcp-name": name} if isinstance(name, str) and name.isascii() else headers

"""One client opens sessions until another one's process should have to go (red team M11)."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import pytest

from gateway.mcp.upstream import backend
from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server, token_digest

pytestmark = pytest.mark.anyio
PID = """
import json, os, sys
greeting = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
said = {
    "initialize": greeting,
    "tools/list": {"tools": [{"name": "pid", "inputSchema": {"type": "object"}}]},
    "tools/call": {"content": [{"type": "text", "text": str(os.getpid())}]},
}
for line in sys.stdin:
    message = json.loads(line)
    if "id" in message:
        result = said.get(message["method"])
        member = {"result": result} if result else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **member}), flush=True)
"""
COMMANDS = {"one": (sys.executable, "-S", "-c", PID)}
CLIENTS = {name: {"token_sha256": token_digest(name)} for name in ("alice", "bob")}
OWN = config({"one": server(sessions="per-client")}, clients=CLIENTS)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "MAX_OWN", 4)  # then one client may have three


async def many(stack: contextlib.AsyncExitStack, running: Gateway, token: str, count: int) -> list[Any]:
    """So many sessions of one client, each with its process."""
    clients = []
    for _ in range(count):
        client = await stack.enter_async_context(legacy(running.url("one"), token=token))
        assert await client.text("pid")
        clients.append(client)
    return clients


async def test_a_client_that_opens_many_sessions_ends_its_own_and_nobody_elses() -> None:
    async with gateway(OWN, COMMANDS) as running, contextlib.AsyncExitStack() as stack:
        (alice,) = await many(stack, running, "alice", 1)
        process = await alice.text("pid")
        bobs = await many(stack, running, "bob", 6)
        assert await alice.text("pid") == process, "her process holds her state"
        assert await bobs[-1].text("pid")


async def test_the_session_that_had_to_go_is_told_so_and_does_not_go_on_in_another_process() -> None:
    async with gateway(OWN, COMMANDS) as running, contextlib.AsyncExitStack() as stack:
        first, *_ = await many(stack, running, "bob", 4)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "pid", "arguments": {}}}
        response = await first.post(message)
        assert response.status_code == 404
        assert "Session ended: another session of the same client needed a process of one" in response.text
        stranger = {**first.headers, "authorization": "Bearer alice"}
        answer = await first.http.post(first.url, json=message, headers=stranger)
        assert (answer.status_code, "Session not found" in answer.text) == (404, True), "nobody else hears why"


async def test_where_only_others_could_go_a_new_session_is_refused_with_the_reason() -> None:
    async with gateway(OWN, COMMANDS) as running, contextlib.AsyncExitStack() as stack:
        alices = await many(stack, running, "alice", 3)
        await many(stack, running, "bob", 1)
        processes = [await alice.text("pid") for alice in alices]
        running.endpoint._backends["one"].owners.may_end = lambda _owner: False  # bob's own one is busy
        late = await stack.enter_async_context(legacy(running.url("one"), token="bob"))
        said = await late.call("pid")
        assert "another client's is not ended for this one" in said["error"]["message"]
        assert [await alice.text("pid") for alice in alices] == processes


async def test_a_client_without_sessions_is_told_at_its_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2026-07-28: its principal stands for it."""
    async with gateway(OWN, COMMANDS) as running, contextlib.AsyncExitStack() as stack:
        bob = await stack.enter_async_context(modern(running.url("one"), token="bob"))
        process = await bob.text("pid")
        monkeypatch.setattr(backend, "IDLE_OWN_S", -1.0)
        running.endpoint._backends["one"].reap()
        await eventually(lambda: running.supervisor.released)
        said = await bob.call("pid")
        assert said["result"]["content"][0]["text"] != process
        assert "was not used for" in said["result"]["_meta"]["stockade/session"]
        assert "stockade/session" not in (await bob.call("pid"))["result"].get("_meta", {}), "once"

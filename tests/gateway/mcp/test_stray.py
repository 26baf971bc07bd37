"""What a server says on its standard output that is no message, and answers that cannot be read: nothing hangs."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from gateway.mcp.wire import unreadable
from gateway.mcp.wire.lines import Lines
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
SERVER = """
import json, sys
out = sys.stdout.buffer
def put(data):
    out.write(data.encode() if isinstance(data, str) else data); out.flush()
for line in sys.stdin:
    m = json.loads(line)
    method, n = m.get("method"), m.get("id")
    ok = {"jsonrpc": "2.0", "id": n, "result": {"content": [{"type": "text", "text": "ok"}]}}
    if method == "initialize":
        put(json.dumps({"jsonrpc": "2.0", "id": n, "result": {"protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}}, "serverInfo": {"name": "stray", "version": "1"}}}) + "\\n")
    elif method == "tools/list":
        put(json.dumps({"jsonrpc": "2.0", "id": n, "result": {"tools": [
            {"name": "say", "inputSchema": {"type": "object"}}]}}) + "\\n")
    elif method == "tools/call":
        text = m["params"]["arguments"]["text"]
        text = text.replace("PRETTY", json.dumps(ok, indent=2)).replace("ECHO", json.dumps(m, indent=2))
        text = text.replace("OK", json.dumps(ok)).replace("ID", str(n))
        put(text.encode("latin-1"))
        if m["params"]["arguments"].get("exit"): sys.exit(3)
    elif n is not None:
        put(json.dumps({"jsonrpc": "2.0", "id": n, "error": {"code": -32601, "message": "no"}}) + "\\n")
"""
STRAY = (sys.executable, "-c", SERVER)


def stray(running: Gateway) -> list[str]:
    return [line for instance in running.supervisor.instances.values() for line in instance.stray]


ANSWER = '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"%s"}]}}\n'
TAKEN = {
    "id as text": (ANSWER % ('"ID"', "ok"), "ok"),
    "id as a fraction": (ANSWER % ("ID.0", "ok"), "ok"),
    "over several lines": ("PRETTY\n", "ok"),
    "over several lines, with a carriage return": ("PRETTY\r\n", "ok"),
    "after a line": ("starting\nOK\n", "ok"),
    "after its request, printed": ("ECHO\nOK\n", "ok"),
    "printed over several lines first": ("PRETTY\nOK\n", "ok"),
    "printed with a prefix first": ("sending: OK\nOK\n", "ok"),
    "after the beginning of an object": ('{\n  "a": 1,\nOK\n', "ok"),
    "a byte that is no UTF-8": (ANSWER % ("ID", "caf\xe9!"), "caf\N{REPLACEMENT CHARACTER}!"),
    "half a pair": (ANSWER % ("ID", "a\\ud83d"), "a\N{REPLACEMENT CHARACTER}"),
}
REFUSED = {
    "array": ("[OK]\n", "an array of messages"),
    "long array": ("[OK, {" + '"x": 1' + " " * 100_000 + "}]\n", "an array of messages"),
    "NaN": ('{"jsonrpc":"2.0","id":ID,"result":{"x":NaN}}\n', "NaN is not JSON"),
    "Infinity, id last": ('{"result":{"x":-Infinity},"jsonrpc":"2.0","id":ID}\n', "-Infinity is not JSON"),
    "no comma": ('{"jsonrpc": "2.0", "id": ID "result": {}}\n', "not JSON"),
    "no end": ('{"jsonrpc": "2.0", "id": ID, "result": {"a\n', "not JSON"),
    "no end, then a line": ('{"jsonrpc": "2.0", "id": ID, "result": {\ndone\n', "not JSON"),
    "null for an id": (
        '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}\n',
        "Parse error",
    ),
    "no result": ('{"jsonrpc":"2.0","id":"ID"}\n', "neither a result nor an error"),
}


@pytest.mark.parametrize("what", TAKEN)
async def test_an_answer_in_an_unusual_form_is_taken(what: str) -> None:
    text, expected = TAKEN[what]
    async with gateway(config({"stray": server(call_timeout_s=20)}), {"stray": STRAY}) as running:
        async with legacy(running.url("stray")) as client:
            for _ in range(2):
                assert await client.text("say", {"text": text}) == expected


@pytest.mark.parametrize("what", REFUSED)
async def test_an_answer_that_cannot_be_read_ends_its_call_at_once_with_the_reason(what: str) -> None:
    text, expected = REFUSED[what]
    async with gateway(config({"stray": server(call_timeout_s=20)}), {"stray": STRAY}) as running:
        async with legacy(running.url("stray")) as client:
            for _ in range(2):
                said = await client.call("say", {"text": text})
                assert expected in said["error"]["message"], said
                assert what == "null for an id" or said["error"]["message"].startswith("Server stray: "), said
            assert await client.text("say", {"text": "OK\n"}) == "ok"
            if what not in ("null for an id", "no result"):
                await eventually(lambda: len(stray(running)) >= 2)


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("error: API key is required\nOK\n", ["error: API key is required"]),
        ("one\r\n\n  two\nOK\nthree\n", ["one", "  two", "three"]),
        ('{"not": "ours"}\nOK\n', ['{"not": "ours"}']),
        ('{"no JSON\nOK\n', ['{"no JSON']),
        ('{\n  "a": 1\n}\nOK\n', ["{", '  "a": 1', "}"]),
        ("caf\xe9\nOK\n", ["caf\N{REPLACEMENT CHARACTER}"]),
        ("x" * 100_000 + "\nOK\n", ["x" * 8192]),
    ],
)
async def test_lines_that_are_no_messages_go_to_the_log(text: str, logged: list[str]) -> None:
    async with gateway(config({"stray": server(call_timeout_s=20)}), {"stray": STRAY}) as running:
        async with legacy(running.url("stray")) as client:
            assert await client.text("say", {"text": text}) == "ok"
            await eventually(lambda: len(stray(running)) >= len(logged))
            assert stray(running) == logged


@pytest.mark.parametrize("end", ["\n", ""])
async def test_what_a_server_says_before_it_ends_is_logged(end: str) -> None:
    async with gateway(config({"stray": server(call_timeout_s=20)}), {"stray": STRAY}) as running:
        async with legacy(running.url("stray")) as client:
            said = await client.call("say", {"text": "fatal: no key\nbye" + end, "exit": True})
            assert "error" in said
            await eventually(lambda: stray(running) == ["fatal: no key", "bye"])


async def test_a_flood_of_lines_is_logged_in_part_and_says_so() -> None:
    async with gateway(config({"stray": server(call_timeout_s=60)}), {"stray": STRAY}) as running:
        async with legacy(running.url("stray")) as client:
            assert await client.text("say", {"text": "x\n" * 30_000 + "OK\n"}) == "ok"
            lines = stray(running)
            assert {"x", "(lines of its standard output are left out here)"} == set(lines)
            assert len(lines) < 3_000


PRETTY: list[dict[str, Any]] = [{"a": [{"b": {}}], "c": []}, {"d": {"e": "}\n{"}}]


@pytest.mark.parametrize("size", range(1, 80))
def test_objects_over_several_lines_come_out_whole_however_they_are_split(size: int) -> None:
    text = "".join(f"log\n{json.dumps(one, indent=2)}\n" for one in PRETTY).encode() + b'{"f": 1}\n'
    lines, found = Lines(1000), []
    for at in range(0, len(text), size):
        for line in lines.feed(text[at : at + size]):
            if isinstance(line, bytes) and unreadable.is_beginning(line):
                lines.continue_after(line)
            else:
                found.append(json.loads(line))  # type: ignore[arg-type]
    assert found == [*PRETTY, {"f": 1}]
    assert b"\n".join(lines.rest()).split() == [b"log", b"log"]


@pytest.mark.parametrize(
    "line",
    [
        b'sending {"jsonrpc": "2.0", "id": 4, "result": {}}',
        b'{"jsonrpc": "2.0", "id": 4, "method": "tools/call"',
        b'{"user": {"id": 4}',
        b'{"jsonrpc": "2.0", "id": 5, "result": {',
    ],
)
def test_what_is_printed_for_people_is_no_answer(line: bytes) -> None:
    assert (
        unreadable.call_number(line.partition(b"sending ")[0] if line.startswith(b"sending") else line, [4]) is None
    )

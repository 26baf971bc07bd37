"""What a hostile backend, or a client that wants more than it may, tries at the endpoint."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.call.caller import Caller
from gateway.mcp.call.eras import to_modern
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.task_table import TaskTable
from gateway.mcp.downstream.auth import Denied, Gate
from gateway.mcp.downstream.http import HostGuard, Refused
from gateway.mcp.view.annotate import denial_line
from gateway.mcp.view.pins import Pins
from gateway.mcp.view.templates import TemplatePattern
from gateway.mcp.view.views import View
from gateway.mcp.wire.http_client import Pool, dial_url
from gateway.sse import SseParser
from observability.events import Certainty, Decision, EgressEvent, Phase, Reason
from registry.model.fields import Pin
from tests.gateway.mcp.clients import ACCEPT, legacy
from tests.gateway.mcp.fakes import config, gateway, server, token_digest
from tests.serving import serving

# --- URI templates are a backend's text


def old_pattern(template: str) -> re.Pattern[str]:
    """The meaning of a template as a regular expression, which is not safe to run."""
    parts, end = [], 0
    for found in re.finditer(r"\{([+#./;?&]?)([^{}]*)\}", template):
        parts.append(re.escape(template[end : found.start()]))
        parts.append({"": "[^/]*", "?": r"(?:\?.*)?", "&": "(?:&.*)?", "#": "(?:#.*)?"}.get(found[1], ".*"))
        end = found.end()
    return re.compile("".join([*parts, re.escape(template[end:])]), re.DOTALL)


PIECES = st.lists(
    st.sampled_from(["a", "b", "/", "?", "&", "#", "{x}", "{+x}", "{?x}", "{&x}", "{#x}", "{/x}"]), max_size=8
)


@given(PIECES.map("".join), st.text("ab/?&#", max_size=10))
def test_a_template_matches_what_its_expression_would(template: str, uri: str) -> None:
    assert TemplatePattern(template).matches(uri) is bool(old_pattern(template).fullmatch(uri))


@pytest.mark.parametrize("operator", ["+", "", "/", "?"])
def test_a_template_of_many_expressions_does_not_keep_the_gateway_busy(operator: str) -> None:
    """As a regular expression this took longer than anybody waits: 18 s at 8 expressions, 40 times that at 10."""
    for count in (8, 16, 17, 4000):
        assert not TemplatePattern("a" + f"{{{operator}x}}a" * count + "!").matches("a" * 2000)
    assert not TemplatePattern("{+x}").matches("a" * 100_000)


# --- what an http backend may send


class Hears:
    def __init__(self) -> None:
        self.broken: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        return

    def on_data(self, data: bytes) -> None:
        return

    def on_end(self) -> None:
        self.on_broken("it ended")

    def on_broken(self, why: str) -> None:
        if not self.broken.done():
            self.broken.set_result(why)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-%d: " + b"y" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\nX-%d: y\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-%d: " + b"y" * 1000 + b"\r\n"),
    ],
)
async def test_headers_without_an_end_are_cut_off(start: bytes, more: bytes) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(start)
        for number in range(20_000):
            writer.write(more % number if b"%d" in more else more)
            await writer.drain()

    async with serving(flood) as port:
        pool = Pool(dial_url("127.0.0.1", port, None))
        connection, hears = await pool.take(), Hears()
        connection.request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", hears)
        async with asyncio.timeout(60):
            assert "headers without an end" in await hears.broken
        pool.close()


def test_an_event_stream_in_small_pieces_is_not_split_again_for_each() -> None:
    """A megabyte in 200,000 pieces: quadratic work would take minutes."""
    parser = SseParser(16 * 1024 * 1024)
    for _ in range(200_000):
        assert parser.feed(b"data:" if parser._rest == b"" else b"xxxxx") == []
    assert len(parser.feed(b"\n\n")[0].data) == 999_995


def test_empty_lines_of_data_count_towards_the_limit_too() -> None:
    parser = SseParser(100_000)
    parser.feed(b"data:\n" * 12_000)
    with pytest.raises(ValueError, match="more than 100000 bytes"):
        parser.feed(b"data:\n" * 12_000)


def test_a_carriage_return_between_two_pieces_is_one_line_end() -> None:
    parser = SseParser(1000)
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\ndata: b\r\n\r") == []
    assert [event.data for event in parser.feed(b"\n")] == [b"a\nb"]


def test_an_event_has_its_name_id_and_delay_whatever_the_pieces_are() -> None:
    text = b": ping\r\n\r\nevent: egress\r\nid: 7\r\ndata: {\r\ndata:}\r\n\r\nretry: 20\n\ndata: last\n\n"
    expected = [("egress", "7", None, b"{\n}"), ("message", None, 20, b""), ("message", None, None, b"last")]
    for size in (1, 2, 7, len(text)):
        parser = SseParser(1000)
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert [tuple(event) for piece in pieces for event in parser.feed(piece)] == expected


# --- what grows


def test_a_backend_with_other_tools_each_time_does_not_fill_the_pins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mcp.view.pins._MAX_PINNED", 500)
    for mode in (Pin.WARN, Pin.STRICT):
        pins = Pins(lambda event: None, tmp_path)
        pins.apply({"bad": mode})
        for turn in range(30):
            pins.seen("bad", [{"name": f"t{turn}-{number}"} for number in range(100)])
            pins.seen("bad", [{"name": "same", "description": str(turn)}])
        assert len(pins._pinned["bad"]) <= 600
        assert len(pins._told) <= 500


def test_a_huge_task_is_kept_by_its_id_alone() -> None:
    tasks, alice = TaskTable(), Principal("alice")
    for task in ({"taskId": "t1", "content": "x" * 1_000_000}, {"taskId": "x" * 100_000}):
        tasks.learn({"resultType": "task", **task}, alice, "bad", "tool")
    assert [known.task for known in tasks.of(alice, ["bad"])] == [{"taskId": "t1"}]
    assert tasks.find("t1", Principal("bob"), ["bad"]) == []


def test_one_principal_cannot_push_out_the_tasks_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.mcp.call.task_table._MAX_TASKS", 5)
    tasks, alice, bob = TaskTable(), Principal("alice"), Principal("bob")

    def begin(who: Principal, task_id: str) -> None:
        tasks.learn({"task": {"taskId": task_id}}, who, "one", "tool")

    begin(bob, "precious")
    for number in range(100):
        begin(alice, f"t{number}")
    assert len(tasks.of(alice, ["one"])) == 5
    assert len(tasks.find("precious", bob, ["one"])) == 1
    tasks.learn({"taskId": "plain", "resultType": "complete"}, bob, "one", "tool")
    assert tasks.find("plain", bob, ["one"]) == [], "a result that speaks of a task is none"


@pytest.mark.anyio
async def test_names_and_ids_that_a_client_chose_are_bounded() -> None:
    async with gateway(config({"one": server()})) as running, legacy(running.url()) as client:
        long = "x" * 100_000
        response = await client.post({"jsonrpc": "2.0", "id": long, "method": "ping"})
        assert response.status_code == 400
        response = await client.post({"jsonrpc": "2.0", "id": 10**600, "method": "ping"})
        assert response.status_code == 400
        response = await client.post({"jsonrpc": "2.0", "id": 1, "method": f"a/{long}"})
        assert response.status_code == 400
        for method, key in (("tools/call", "name"), ("resources/read", "uri"), ("tasks/get", "taskId")):
            assert "is longer than" in (await client.request(method, {key: long}))["error"]["message"]
        for number in range(20):
            await client.call(f"one__{number}" + "y" * 60_000)
        view = running.endpoint._visibility.view("", "")
        assert isinstance(view, View)
        assert all(len(key) <= 512 for _, _, _, key in view._decided)
        assert all(len(event.request_id) <= 512 and len(event.method) <= 512 for event in running.calls())
        message = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {"protocolVersion": "2025-11-25", "capabilities": {"x": long}, "clientInfo": {"name": "x"}},
        }
        said = (await client.http.post(client.url, json=message, headers=ACCEPT)).json()
        assert "greeting is larger" in said["error"]["message"]


@pytest.mark.anyio
async def test_deep_nesting_is_an_error_and_no_crash() -> None:
    async with gateway(config({"one": server()})) as running, legacy(running.url()) as client:
        for depth in (200, 900, 5_000, 100_000):
            nested = b"[" * depth + b"]" * depth
            for method, key in ((b"initialize", b"capabilities"), (b"tools/call", b"arguments"), (b"x/y", b"z")):
                body = b'{"jsonrpc":"2.0","id":1,"method":"%b","params":{"protocolVersion":"2025-11-25","%b":%b}}'
                headers = {**client.headers, "content-type": "application/json"}
                response = await client.http.post(client.url, content=body % (method, key, nested), headers=headers)
                assert response.status_code in (200, 400, 413), (depth, method)
        assert "result" in await client.request("ping")


HOSTILE_TOOLS = """
import json, sys
deep = "[" * 900 + "]" * 900
greeting = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}
def say(number, member): print('{"jsonrpc": "2.0", "id": %d, %s}' % (number, member), flush=True)
items = [
    '{"name": "' + chr(92) + 'ud800' * 1 + 'x' * 80 + '", "inputSchema": {}}',
    '{"name": "deep", "inputSchema": ' + deep + '}',
    '{"name": "nan", "inputSchema": {"maximum": NaN, "minimum": Infinity}}',
    '{"name": "' + 'y' * 100000 + '"}',
    '{"name": "talks", "description": "' + chr(92) + 'udfff", "inputSchema": {}}',
    '{"name": 5}', '[]', 'null',
    '{"name": "good", "inputSchema": {"type": "object"}}',
]
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message: continue
    if message["method"] == "initialize":
        say(message["id"], '"result": ' + json.dumps(greeting))
    elif message["method"] == "tools/list":
        say(message["id"], '"result": {"tools": [' + ",".join(items) + "]}")
    else:
        say(message["id"], '"error": {"code": -32601, "message": "no"}')
"""


@pytest.mark.anyio
async def test_one_backends_unreadable_tools_do_not_take_the_others_along(tmp_path: Path) -> None:
    """A lone surrogate in a long name broke every client's view; a deep schema broke the file of kept lists, and with it
    the gateway; NaN is no JSON for most clients."""
    search = {"seeker": {"token_sha256": token_digest("s"), "tools": {"mode": "search"}}}
    settings = config({"bad": server(), "one": server()}, clients=search, gateway={"anonymous": "always"})
    commands = {"bad": (sys.executable, "-c", HOSTILE_TOOLS)}
    async with gateway(settings, commands, cache_dir=tmp_path) as running, legacy(running.url()) as client:
        names: set[str] = set()
        async with asyncio.timeout(60):
            while not any(name.startswith("bad") for name in names) or "one__echo" not in names:
                names = {tool["name"] for tool in (await client.request("tools/list"))["result"]["tools"]}
        assert {name for name in names if name.startswith("bad")} == {"bad__good", "bad__talks"}
        assert "result" in await client.call("one__echo")
        await running.endpoint._list_cache.close()
        assert (tmp_path / "lists.json").exists()
        async with legacy(running.url(), token="s") as seeker:
            assert "result" in await seeker.call("find_tool", {"query": "good"})


@pytest.mark.anyio
async def test_an_id_that_no_log_can_take_is_refused() -> None:
    async with gateway(config({"one": server()})) as running, legacy(running.url()) as client:
        for body in (
            rb'{"jsonrpc":"2.0","id":"\ud800","method":"ping"}',
            rb'{"jsonrpc":"2.0","id":1,"method":"x/\udfff"}',
        ):
            headers = {**client.headers, "content-type": "application/json"}
            assert (await client.http.post(client.url, content=body, headers=headers)).status_code == 400


def test_a_legacy_client_cannot_hand_a_modern_backend_state_that_was_never_sealed() -> None:
    caller = SimpleNamespace(capabilities={}, client=None, level=None)
    sent = to_modern({"name": "x", "requestState": "forged", "inputResponses": {"q": {}}}, cast(Caller, caller))
    assert set(sent) == {"name", "_meta"}


# --- advice that people paste


@pytest.mark.parametrize(
    "host", ["$(id).x", "`id`", "a;reboot", "a|b", r"\036\040id\041", "a b", "a\nb", "-x'", "--yes"]
)
def test_a_name_that_is_no_host_is_never_part_of_a_command(host: str) -> None:
    event = EgressEvent(
        time=1.0,
        seq=1,
        epoch="e",
        connection=1,
        phase=Phase.DECIDED,
        decision=Decision.DENY,
        reason=Reason.DIRECT_ATTEMPT,
        backend="bad",
        host=host,
        port=53,
    )
    assert "allow" not in denial_line(event, Certainty.CERTAIN).replace("not_allowed", "")


# --- who is asking


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["forwarded", "x-forwarded-for", "x-real-ip", "via"])
async def test_what_a_reverse_proxy_passes_on_does_not_come_from_this_machine(name: str) -> None:
    gate = Gate(config({}), None)
    assert (await gate.admit({}, "127.0.0.1", "/mcp")).client == ""
    with pytest.raises(Denied):
        await gate.admit({name: "127.0.0.1"}, "127.0.0.1", "/mcp")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "authorization",
    ["Bearer ", "Bearer", "Basic YTpi", "bearer alice ", "Bearer alice,bob", "Bearer \x00alice", "Bearer alicE"],
)
async def test_a_token_is_taken_whole_or_not_at_all(authorization: str) -> None:
    gate = Gate(config({}, clients={"alice": {"token_sha256": token_digest("alice")}}), None)
    if authorization == "bearer alice ":
        assert (await gate.admit({"authorization": authorization}, "127.0.0.1", "/mcp")).client == "alice"
        return
    with pytest.raises(Denied):
        await gate.admit({"authorization": authorization}, "127.0.0.1", "/mcp")
    with pytest.raises(Denied):
        await gate.admit({}, "127.0.0.1", "/mcp")


@pytest.mark.parametrize(
    "host",
    ["", "localhost.", "localhost.:8420", "127.0.0.1.", "127.1:8420", "0.0.0.0:8420", "[::]:8420", "[::ffff:127.0.0.1]:8420",
     "localhost.evil.example", "evil.example:8420", "localhost:8420@evil.example", "localhost, evil.example", "2130706433",
     "localhost:84 20", "localhost:x", "[::1].evil.example", "[::1]:80.evil.example", "::1", "[::1%lo]:8420"],
)  # fmt: skip
def test_a_host_that_is_not_exactly_this_machine_is_refused(host: str) -> None:
    guard = HostGuard("127.0.0.1:8420", (), ())
    with pytest.raises(Refused) as refused:
        guard.check({"host": host})
    assert refused.value.status == 421


@pytest.mark.parametrize(
    "origin",
    ["null", "", "file://", "http://evil.example", "http://localhost.evil.example", "https://localhost@evil.example",
     "http://localhost/evil", "chrome-extension://localhost", "http://127.0.0.1:80,http://evil.example", "http://"],
)  # fmt: skip
def test_a_web_page_from_elsewhere_is_refused(origin: str) -> None:
    guard = HostGuard("127.0.0.1:8420", (), ())
    with pytest.raises(Refused) as refused:
        guard.check({"host": "127.0.0.1:8420", "origin": origin})
    assert refused.value.status == 403


Send = Callable[[httpx2.AsyncClient, str, dict[str, Any]], Awaitable[httpx2.Response]]


@pytest.mark.anyio
async def test_a_session_of_another_client_is_of_no_use() -> None:
    clients = {name: {"token_sha256": token_digest(name)} for name in ("alice", "bob")}
    async with gateway(config({"one": server(), "two": server()}, clients=clients)) as running:
        async with legacy(running.url("one"), token="alice") as alice, legacy(running.url("one"), token="bob") as bob:
            stolen = {**bob.headers, "mcp-session-id": alice.headers["mcp-session-id"]}
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            for message in (
                ping,
                {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
                {"jsonrpc": "2.0", "id": "stockade-1", "result": {}},
            ):
                assert (await bob.http.post(bob.url, json=message, headers=stolen)).status_code == 404
            assert (await bob.http.delete(bob.url, headers=stolen)).status_code == 404
            assert (await bob.http.get(bob.url, headers=stolen)).status_code == 404
            assert (await bob.http.post(running.url(), json=ping, headers=alice.headers)).status_code == 404
            assert (await bob.http.post(running.url("two"), json=ping, headers=alice.headers)).status_code == 404
            assert "result" in await alice.request("ping")

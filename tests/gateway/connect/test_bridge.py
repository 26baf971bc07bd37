"""The bridge between a real MCP server over HTTP and a client on standard streams, in both eras."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway.connect.bridge import Bridge
from gateway.control.listen import bind_tcp
from tests.gateway.control.fakes import serving

pytestmark = pytest.mark.anyio

MODERN = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}


class Ends:
    """Both ends of a bridge, in this process."""

    def __init__(self) -> None:
        self._in: asyncio.Queue[bytes] = asyncio.Queue()
        self._out: asyncio.Queue[str] = asyncio.Queue()

    def send(self, message: Any) -> None:
        self._in.put_nowait((message if isinstance(message, str) else json.dumps(message)).encode() + b"\n")

    def request(self, request_id: int | str, method: str, **params: Any) -> None:
        self.send({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})

    def close(self) -> None:
        self._in.put_nowait(b"")

    async def receive(self) -> Any:
        async with asyncio.timeout(60):
            return json.loads(await self._out.get())


@asynccontextmanager
async def bridged(app: Any, token: str = "", written: list[str] | None = None) -> AsyncIterator[Ends]:
    ends = Ends()
    listener = bind_tcp("127.0.0.1:0", "x")

    def write(line: str) -> None:
        if written is not None:
            written.append(line)
        ends._out.put_nowait(line)

    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    async with asyncio.timeout(120), serving(app, listener), asyncio.TaskGroup() as tasks:
        tasks.create_task(Bridge(url, token, ends._in.get, write).run())
        yield ends
        ends.close()


class Recording:
    """An endpoint that notes each request and answers as it is told."""

    def __init__(self, *answers: Any) -> None:
        self.seen: list[tuple[str, dict[str, str], Any]] = []
        self.answers = list(answers)
        self.cancelled = asyncio.Event()

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/mcp", self.handle, methods=["GET", "POST", "DELETE"])])

    async def handle(self, request: Request) -> Response:
        body = await request.body()
        message = json.loads(body) if body else None
        self.seen.append((request.method, dict(request.headers), message))
        if request.method != "POST":
            return Response(status_code=405)
        answer = self.answers.pop(0)
        return answer if isinstance(answer, Response) else answer(message)

    def hanging(self, _: Any) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            try:
                yield b": open\n\n"
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

        return StreamingResponse(stream(), media_type="text/event-stream")


def result(headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return lambda message: JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": fields}, headers=headers)


OPENED = {"headers": {"mcp-session-id": "s1"}, "protocolVersion": "2025-11-25"}
ACCEPTED = Response(status_code=202)


async def test_a_legacy_session_carries_its_id_and_version_in_the_headers() -> None:
    endpoint = Recording(result(**OPENED), ACCEPTED, result(tools=[]))
    async with bridged(endpoint.app(), token="t") as ends:
        ends.request(0, "initialize", protocolVersion="2025-11-25")
        assert (await ends.receive())["result"]["protocolVersion"] == "2025-11-25"
        ends.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        ends.request(1, "tools/list")
        assert (await ends.receive())["id"] == 1
    first, *later = endpoint.seen
    assert "mcp-session-id" not in first[1]
    for _, headers, _ in later:
        assert (headers["mcp-session-id"], headers["mcp-protocol-version"]) == ("s1", "2025-11-25")
        assert headers["authorization"] == "Bearer t"
    assert {method for method, _, _ in later} == {"POST", "GET", "DELETE"}


async def test_a_modern_request_has_its_routing_headers_made_from_the_body() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
    endpoint = Recording(result(tools=[{"name": "wéather", "inputSchema": schema}]), result(content=[]))
    async with bridged(endpoint.app()) as ends:
        ends.request(1, "tools/list", **MODERN)
        await ends.receive()
        ends.request(2, "tools/call", name="wéather", arguments={"region": "eu"}, **MODERN)
        await ends.receive()
    headers = endpoint.seen[1][1]
    assert headers["mcp-protocol-version"] == "2026-07-28"
    assert headers["mcp-method"] == "tools/call"
    assert headers["mcp-name"] == "=?base64?d8OpYXRoZXI=?="
    assert headers["mcp-param-region"] == "eu"
    assert "mcp-session-id" not in headers


async def test_cancelling_a_modern_request_closes_its_stream() -> None:
    endpoint = Recording()
    endpoint.answers = [endpoint.hanging]
    async with bridged(endpoint.app()) as ends:
        ends.request(7, "tools/call", name="x", **MODERN)
        while not endpoint.seen:  # bounded by the bridge's timeout
            await asyncio.sleep(0)
        ends.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})
        async with asyncio.timeout(60):
            await endpoint.cancelled.wait()
    assert len(endpoint.seen) == 1


async def test_a_gateway_that_was_restarted_gets_the_same_initialize_again_and_the_client_never_knows() -> None:
    gone = Response("no such session", 404)
    again = {"headers": {"mcp-session-id": "s2"}, "protocolVersion": "2025-11-25"}
    endpoint = Recording(result(**OPENED), ACCEPTED, gone, result(**again), ACCEPTED, result(ok=True))
    async with bridged(endpoint.app()) as ends:
        ends.request(0, "initialize", protocolVersion="2025-11-25", clientInfo={"name": "c"})
        await ends.receive()
        ends.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        ends.request(5, "tools/call", name="x")
        assert (await ends.receive())["result"] == {"ok": True}
    posts = [
        (headers.get("mcp-session-id"), body["method"]) for method, headers, body in endpoint.seen if method == "POST"
    ]
    assert posts[2:] == [
        ("s1", "tools/call"), (None, "initialize"), ("s2", "notifications/initialized"), ("s2", "tools/call"),
    ]  # fmt: skip
    bodies = [body for _, _, body in endpoint.seen if body and body["method"] == "initialize"]
    assert bodies[0]["params"] == bodies[1]["params"]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (
            JSONResponse({"error": "unauthorized", "message": "No token."}, 401),
            -32000,
            "401: No token. Set STOCKADE_TOKEN",
        ),
        (
            JSONResponse(
                {"error": "invalid_token", "error_description": "This gateway does not know the token"}, 401
            ),
            -32000,
            "401: This gateway does not know the token. Set STOCKADE_TOKEN",
        ),
        (Response("boom", 500), -32000, "answered 500: boom."),
        (
            JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": -32020, "message": "mismatch"}}, 400),
            -32020,
            "mismatch",
        ),
        (StreamingResponse(iter([b": nothing\n\n"]), media_type="text/event-stream"), -32000, "before it answered"),
    ],
    ids=["401", "401 of the endpoint", "500", "json-rpc", "empty stream"],
)
async def test_a_refusal_becomes_a_json_rpc_error_with_the_clients_own_id(
    answer: Response, code: int, words: str
) -> None:
    async with bridged(Recording(answer).app()) as ends:
        ends.request("a", "tools/list")
        told = await ends.receive()
    assert told["id"] == "a"
    assert told["error"]["code"] == code
    assert words in told["error"]["message"]


async def test_no_gateway_is_said_with_how_to_start_one() -> None:
    ends = Ends()
    with bind_tcp("127.0.0.1:0", "x") as listener:
        port = listener.getsockname()[1]
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(Bridge(f"http://127.0.0.1:{port}/mcp", "", ends._in.get, ends._out.put_nowait).run())
        ends.request(1, "initialize")
        assert "stockade up -d" in (await ends.receive())["error"]["message"]
        ends.close()


@pytest.mark.parametrize(("line", "code"), [("{oops", -32700), ("[]", -32600), ('"x"', -32600)])
async def test_a_line_that_is_no_message_is_answered_and_the_bridge_goes_on(line: str, code: int) -> None:
    async with bridged(Recording(result(ok=True)).app()) as ends:
        ends.send(line)
        assert (await ends.receive())["error"]["code"] == code
        ends.request(1, "ping")
        assert (await ends.receive())["id"] == 1


async def test_what_is_in_flight_at_the_end_of_input_is_still_answered() -> None:
    release = asyncio.Event()

    async def slow(request: Request) -> Response:
        await release.wait()
        return JSONResponse({"jsonrpc": "2.0", "id": 1, "result": {}})

    async with bridged(Starlette(routes=[Route("/mcp", slow, methods=["POST"])])) as ends:
        ends.request(1, "tools/list")
        ends.close()
        release.set()
        assert (await ends.receive())["id"] == 1


async def test_a_message_with_big_numbers_and_line_breaks_passes_unharmed() -> None:
    endpoint = Recording(result(content=[{"type": "text", "text": "a\nb\u2028c"}], big=2**80))
    async with bridged(endpoint.app()) as ends:
        ends.request(1, "tools/call", name="x", arguments={"n": 2**70})
        assert (await ends.receive())["result"]["big"] == 2**80
    assert endpoint.seen[0][2]["params"]["arguments"]["n"] == 2**70


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_an_event_of_any_length_and_with_any_line_break_of_unicode_passes_unharmed(end: bytes) -> None:
    """U+2028 and U+0085 end no line of an event stream."""
    text = "\u2028\u0085" + "é" * 200_000
    answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"text": text}}, ensure_ascii=False).encode()
    event = b"event: message" + end + b"data: " + answer + end + end
    pieces = [event[at : at + 7_001] for at in range(0, len(event), 7_001)]
    endpoint = Recording(StreamingResponse(iter(pieces), media_type="text/event-stream"))
    async with bridged(endpoint.app()) as ends:
        ends.request(1, "tools/call", name="x")
        assert (await ends.receive())["result"]["text"] == text


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_line_of_ours_is_one_line_to_every_reader(end: str, stream: bool) -> None:
    text = f'{{"jsonrpc":"2.0","id":1,"result":{{"{end}text":"a{end}{end}b","n":1.10}}}}'
    body, kind = (f"data: {text}\n\n", "text/event-stream") if stream else (text, "application/json")
    endpoint = Recording(StreamingResponse(iter([body.encode()]), media_type=kind))
    written: list[str] = []
    async with bridged(endpoint.app(), written=written) as ends:
        ends.request(1, "tools/call", name="x")
        assert (await ends.receive())["result"][f"{end}text"] == f"a{end}{end}b"
    assert all(len(line.splitlines()) == 1 for line in written)
    assert '"n":1.10' in "".join(written)


def example() -> MCPServer:
    server = MCPServer("example")

    @server.tool()
    def double(number: int) -> int:
        return number * 2

    return server


@asynccontextmanager
async def real_server() -> AsyncIterator[str]:
    """The SDK's own streamable HTTP server, which speaks both eras."""
    app = example().streamable_http_app()
    listener = bind_tcp("127.0.0.1:0", "x")
    async with app.router.lifespan_context(app), serving(app, listener):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_a_real_client_works_through_the_command_in_both_eras(mode: str) -> None:
    async with asyncio.timeout(60), real_server() as url:
        command = StdioServerParameters(
            command=sys.executable,
            args=["-m", "gateway.cli.main", "bridge", "--url", url],
            env={**os.environ, "STOCKADE_TOKEN": "t"},
        )
        async with Client(command, mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["double"]
            answers = await asyncio.gather(*(client.call_tool("double", {"number": n}) for n in range(20)))
            assert [answer.structured_content for answer in answers] == [{"result": n * 2} for n in range(20)]

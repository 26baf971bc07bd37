"""The HTTP transport's rules, request by request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
import pytest

from tests.gateway.mcp.clients import ACCEPT, MODERN, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server, token_digest

pytestmark = pytest.mark.anyio
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
LIST: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
GREETING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Gateway]:
    settings = config({"fixture": server(http=True)}, gateway={"max_body_bytes": "8m", "allowed_hosts": ["mcp.lan"]})
    async with gateway(settings) as found:
        yield found


async def post(
    running: Gateway, body: Any, headers: dict[str, str] | None = None, path: str = "/mcp"
) -> httpx2.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **ACCEPT, **(headers or {})}
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        return await http.post(f"http://127.0.0.1:{running.port}{path}", content=content, headers=sent)


ROUTED = {"mcp-protocol-version": MODERN, "mcp-method": "tools/list"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example:80"}, 421),
        ({"host": "localhost:abc"}, 421),
        ({"host": "localhost:1234"}, 200),
        ({"host": "mcp.lan"}, 200),
        ({"host": "mcp.lan:8420"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
        ({"content-type": "text/plain"}, 400),
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"accept": "application/json"}, 200),
        ({"accept": "text/html"}, 406),
        ({"accept": "*/*"}, 200),
        ({"mcp-protocol-version": "2099-01-01"}, 400),
        ({"mcp-method": "tools/call"}, 400),
    ],
    ids=str,
)
async def test_headers(running: Gateway, headers: dict[str, str], status: int) -> None:
    response = await post(running, LIST, {**ROUTED, **headers})
    assert response.status_code == status, response.text


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}', 400, -32700),
        (b"\xff\xfe", 400, -32700),
        ([LIST], 400, -32600),
        ({"jsonrpc": "1.0", "id": 1, "method": "x"}, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "x"}, 400, -32600),
        ({"jsonrpc": "2.0", "id": None, "method": "x"}, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "x", "params": [1]}, 400, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, 400, -32602),
        ({**LIST, "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": MODERN}}}, 400, -32602),
        ({**LIST, "method": "prompts/list"}, 400, -32020),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, 400, -32600),
        (b" " * 9_000_000, 413, -32600),
    ],
    ids=lambda value: str(value)[:50] if not isinstance(value, bytes) else repr(value[:30]),
)
async def test_bodies(running: Gateway, body: Any, status: int, code: int) -> None:
    response = await post(running, body, ROUTED)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_a_chunked_body_has_the_same_limit(running: Gateway) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1_000_000

    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        headers = {"content-type": "application/json", **ACCEPT}
        response = await http.post(running.url(), content=pieces(), headers=headers)
        assert response.status_code == 413


async def test_a_routing_header_may_not_stand_twice(running: Gateway) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        lines = [*ROUTED.items(), *ACCEPT.items(), ("content-type", "application/json"), ("mcp-method", "tools/list")]
        response = await http.post(running.url(), json=LIST, headers=lines)
        assert (response.status_code, response.json()["error"]["code"]) == (400, -32020)


async def test_methods_that_are_gone_in_2026_07_28_are_404(running: Gateway) -> None:
    async with modern(running.url("fixture")) as client:
        for method in ("ping", "logging/setLevel", "resources/subscribe", "initialize", "made/up"):
            said = await client.request(method)
            assert (client.status, said["error"]["code"]) == (404, -32601), method


async def test_get_and_delete_are_405_for_2026_07_28(running: Gateway) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as http:
        for method in ("GET", "DELETE", "PUT"):
            response = await http.request(method, running.url(), headers={"mcp-protocol-version": MODERN})
            assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_legacy_requests_need_a_session_that_exists(running: Gateway) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert (await post(running, message)).status_code == 400
    assert (await post(running, message, {"mcp-session-id": "made-up"})).status_code == 404


async def test_an_unknown_path_or_server_is_404(running: Gateway) -> None:
    for path in ("/", "/mcp//", "/servers/nobody/mcp", "/servers//mcp", "/servers/fixture/mcp/x"):
        assert (await post(running, LIST, ROUTED, path)).status_code == 404, path


async def test_mcp_param_headers_are_checked_against_the_arguments(running: Gateway) -> None:
    async with modern(running.url("fixture")) as client:
        await client.request("tools/list")
        call = {"name": "test_custom_headers", "arguments": {"region": "eu"}}
        assert "result" in await client.request("tools/call", call, mcp_param_region="eu")
        wrong = await client.request("tools/call", call, mcp_param_region="us")
        assert (client.status, wrong["error"]["code"]) == (400, -32020)
        missing = await client.request("tools/call", call)
        assert missing["error"]["code"] == -32020
    async with modern(running.url()) as client:
        await client.request("tools/list")
        call = {"name": "fixture__test_custom_headers", "arguments": {"region": "eu"}}
        said = await client.request("tools/call", call, mcp_param_region="eu")
        assert said["result"]["content"][0]["text"] == '{"region": "eu"}'


@pytest.mark.parametrize(
    ("clients", "anonymous", "token", "status"),
    [
        ({}, "auto", None, 200),
        ({}, "never", None, 401),
        ({}, "auto", "anything", 401),
        ({"a": {"token_sha256": token_digest("t")}}, "auto", None, 401),
        ({"a": {"token_sha256": token_digest("t")}}, "always", None, 200),
        ({"a": {"token_sha256": token_digest("t")}}, "auto", "t", 200),
        ({"a": {"token_sha256": token_digest("t")}}, "auto", "T", 401),
        ({"a": {"token_sha256": token_digest("t")}}, "always", "wrong", 401),
    ],
)
async def test_who_is_let_in(clients: dict[str, Any], anonymous: str, token: str | None, status: int) -> None:
    settings = config({"fixture": server(http=True)}, clients=clients, gateway={"anonymous": anonymous})
    async with gateway(settings) as found:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        response = await post(found, LIST, {**ROUTED, **headers})
        assert response.status_code == status
        if status == 401:
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "stockade connect" in response.json()["hint"]


async def test_numbers_keep_their_spelling_on_the_way_to_the_backend(running: Gateway) -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":'
        b'{"value":[123456789012345678901234567890,1.0]},"_meta":%b}}' % json.dumps(META).encode()
    )
    headers = {"mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "echo"}
    response = await post(running, body, headers, "/servers/fixture/mcp")
    text = response.json()["result"]["content"][0]["text"]
    assert text == '{"value": [123456789012345678901234567890, 1.0]}'


@pytest.mark.parametrize("method", ["initialize", "tools/list", "server/discover"])
async def test_a_backend_that_is_removed_while_it_is_waited_for_is_no_error(method: str) -> None:
    servers = {"fixture": server(http=True), "slow": server(start="lazy")}
    async with gateway(config(servers)) as found:
        async with found.supervisor._locks.setdefault(("slow", ""), asyncio.Lock()):
            body = GREETING if method == "initialize" else {**LIST, "method": method}
            headers = {} if method == "initialize" else {**ROUTED, "mcp-method": method}
            waiting = asyncio.ensure_future(post(found, body, headers))
            asked = found.supervisor.asked
            await eventually(lambda: found.supervisor.asked > asked)
            found.endpoint.apply(config({"fixture": server(http=True)}))
            async with asyncio.timeout(30):
                response = await waiting
        assert (response.status_code, "result" in response.json()) == (200, True), response.text


@pytest.mark.parametrize("change", ["token", "server", "tool"])
async def test_what_a_client_may_see_is_decided_when_its_request_is_complete(change: str) -> None:
    def client(token: str = "t", deny: Sequence[str] = ()) -> dict[str, Any]:
        return {"a": {"token_sha256": token_digest(token), "tools": {"deny": list(deny)}}}

    servers = {"fixture": server(http=True)}
    after = {
        "token": config(servers, clients=client("other")),
        "server": config({"other": server()}, clients=client()),
        "tool": config(servers, clients=client(deny=["*"])),
    }[change]
    async with gateway(config(servers, clients=client())) as found:
        call = {**LIST, "method": "tools/call", "params": {**LIST["params"], "name": "echo"}}
        body = json.dumps(call).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
        lines = {**ROUTED, "mcp-method": "tools/call", "mcp-name": "echo", "authorization": "Bearer t", **ACCEPT}
        lines |= {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body))}
        head = "POST /servers/fixture/mcp HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items()
        )
        writer.write(head.encode() + b"\r\n" + body[:10])
        async with httpx2.AsyncClient(trust_env=False) as http:  # a later request is answered, so that one was begun
            assert (await http.get(f"http://127.0.0.1:{found.port}/nowhere")).status_code == 404
        found.endpoint.apply(after)
        writer.write(body[10:])
        async with asyncio.timeout(30):
            status = await reader.readline()
        writer.close()
        assert int(status.split()[1]) == {"token": 401, "server": 404, "tool": 400}[change]

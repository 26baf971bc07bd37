"""Habits of HTTP servers that differ from the SDKs': no route for GET, and an endpoint that is one slash further."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.mcp.clients import legacy, modern
from tests.gateway.mcp.fakes import Gateway, config, eventually, gateway, server

pytestmark = pytest.mark.anyio
SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
get, status, where, session = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def reply(self, status, value=None, **headers):
        body = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items(): self.send_header(name, text)
        if session != "-": self.send_header("Mcp-Session-Id", session)
        self.send_header("Content-Type", "application/json"); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
        line = f"{self.command} {self.path} {status} {self.headers.get('authorization')}\\n"
        os.write(2, line.encode())  # at once: threads write here
    def moved(self):
        if status and (self.path == "/mcp" or where.endswith("/loop")):
            self.reply(status, "moved", Location=where.replace("SELF", self.headers["host"]))
            return True
        return False
    def do_GET(self):
        self.moved() or self.reply(get)
    def do_DELETE(self):
        self.moved() or self.reply(405)
    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        method, number = message["method"], message.get("id")
        if self.moved(): return
        if number is None: self.reply(202)
        elif method == "initialize": self.result(number, protocolVersion="2025-06-18", capabilities={"tools": {}},
            serverInfo={"name": "odd", "version": "1"})
        elif method == "tools/list":
            self.result(number, tools=[{"name": name, "inputSchema": {"type": "object"}} for name in ("ok", "gone")])
        elif method == "tools/call" and message["params"]["name"] == "gone": self.reply(404)
        elif method == "tools/call":
            said = json.dumps(message["params"]["arguments"])
            self.result(number, content=[{"type": "text", "text": said}])
        else: self.reply(200, {"jsonrpc": "2.0", "id": number, "error": {"code": -32601, "message": "no"}})
    def result(self, number, **result):
        self.reply(200, {"jsonrpc": "2.0", "id": number, "result": result})
server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
print("listening", server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""


def odd(*, get: int = 405, status: int = 0, where: str = "-", session: str = "s1") -> tuple[str, ...]:
    return (sys.executable, "-c", SERVER, str(get), str(status), where, session)


def requests(running: Gateway) -> list[str]:
    return [line for line in running.supervisor.instances["odd", ""].errors if not line.startswith("listening")]


@pytest.mark.parametrize("session", ["s1", "-"], ids=["session", "stateless"])
@pytest.mark.parametrize("get", [404, 405, 400, 501])
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_server_without_a_route_for_get_has_no_stream_and_works(get: int, connect: Any, session: str) -> None:
    async with gateway(config({"odd": server(http=True)}), {"odd": odd(get=get, session=session)}) as running:
        async with connect(running.url("odd")) as client:
            for number in range(3):
                assert await client.text("ok", {"n": number}) == f'{{"n": {number}}}'
                await eventually(lambda: any(line.startswith(f"GET /mcp {get}") for line in requests(running)))


async def test_a_404_to_a_post_ends_the_session_and_the_call_is_made_in_a_new_one() -> None:
    async with gateway(config({"odd": server(http=True)}), {"odd": odd(get=404)}) as running:
        async with legacy(running.url("odd")) as client:
            assert "error" in await client.call("gone")
            assert sum(" 404 " in line and line.startswith("POST") for line in requests(running)) > 1
            assert await client.text("ok") == "{}"


@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("where", ["/mcp/", "http://SELF/mcp/", "mcp/?x=1", "//SELF/mcp/"])
@pytest.mark.parametrize("connect", [legacy, modern])
async def test_a_redirect_within_the_same_server_is_followed_with_method_and_body(
    connect: Any, where: str, status: int
) -> None:
    async with gateway(config({"odd": server(http=True)}), {"odd": odd(status=status, where=where)}) as running:
        async with connect(running.url("odd")) as client:
            for number in range(3):
                assert await client.text("ok", {"n": number}) == f'{{"n": {number}}}'
        followed = [line for line in requests(running) if line.startswith("POST /mcp/")]
        assert len(followed) >= 3
        assert len([line for line in requests(running) if line.startswith("POST /mcp 30")]) <= 4, "once a session"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
async def test_no_redirect_leads_to_another_origin(status: int, remote: bool, tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(10_000))
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        for where in (f"http://127.0.0.1:{port}/mcp/", f"https://127.0.0.1:{port}/mcp/", "http://[bad", ""):
            command = odd(status=status, where=where)
            async with gateway(config({"odd": server(http=True, start="lazy")}), {"odd": command}) as running:
                url = running.url("odd")
                entry = server(http=True)
                if remote:
                    there = await running.supervisor.instance("odd")
                    entry = {
                        "url": f"http://127.0.0.1:{there.port}/mcp",
                        "headers": {"Authorization": "Bearer secret"},
                    }
                running.endpoint.apply(config({"odd": entry}))
                async with modern(url) as client:
                    said = await client.call("ok")
                assert f"HTTP {status}: a redirect to" in said["error"]["message"], said
                assert "another origin" in said["error"]["message"]
                assert "Server odd" in said["error"]["message"]
    assert asked == []


@pytest.mark.parametrize(("status", "where"), [(301, "/mcp/"), (302, "/mcp/"), (307, "/loop"), (308, "/mcp/loop")])
async def test_a_redirect_that_cannot_be_followed_says_what_to_write(status: int, where: str) -> None:
    async with gateway(config({"odd": server(http=True)}), {"odd": odd(status=status, where=where)}) as running:
        async with modern(running.url("odd")) as client:
            said = await client.call("ok")
    assert f"HTTP {status}: a redirect. Set `path: {where}` in its entry" in said["error"]["message"], said

"""A client holds connections, sends nothing or too much, and reads nothing (red team M4, M10, m8)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import connections
from gateway.connections import Limits, client_connections
from gateway.control.listen import HttpServer, bind_tcp
from gateway.mcp.downstream.http import Refused
from gateway.mcp.downstream.shape import parse_message
from gateway.mcp.view.templates import TemplatePattern, Text
from gateway.mcp.wire.json_cost import CLIENT_VALUES, has_more_values
from tests.gateway.mcp.fakes import ROOT, eventually

pytestmark = pytest.mark.anyio
REQUEST = b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
BODY = b"x" * 4_000_000


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the request, answers with four megabytes."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(BODY))]})
    await send({"type": "http.response.body", "body": BODY})


@contextlib.asynccontextmanager
async def serving(limits: Limits) -> AsyncIterator[int]:
    listener = bind_tcp("127.0.0.1:0", "gateway.listen")
    server = HttpServer(app, grace_s=1, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run_on(listener))
        await server.up.wait()
        try:
            yield listener.getsockname()[1]
        finally:
            server.stop()
    listener.close()


async def answered(port: int) -> bool:
    """Whether a client that reads gets its answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST)
    try:
        async with asyncio.timeout(30):
            await reader.readuntil(b"\r\n\r\n")
            return await reader.readexactly(len(BODY)) == BODY
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    finally:
        writer.close()


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether the gateway closes the connection."""
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            await reader.read()
        return True


async def test_silent_connections_keep_nobody_out() -> None:
    causes: list[str] = []
    limits = Limits(20, causes.append)
    async with serving(limits) as port, contextlib.AsyncExitStack() as stack:
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
        assert await answered(port)
        assert len(limits.open) <= 20
        await eventually(lambda: limits.cut["silent"] >= 80)
        assert set(causes) == {"silent"}


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"", "slow_head"),
        (b"POST /mcp HTTP/1.1\r\nHost:", "slow_head"),
        (b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", "slow_body"),
        (b"POST /mcp HTTP/1.1\r\n" + b"X: yyyyyyyy\r\n" * 10_000, "head_size"),
    ],
    ids=["silent", "half-a-head", "half-a-body", "endless-head"],
)
async def test_a_request_that_does_not_end_is_ended(sent: bytes, cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if cause != "head_size":
        monkeypatch.setattr(connections, "HEAD_S", 0.1)
        monkeypatch.setattr(connections, "BODY_S", 0.1)
    limits = Limits(20)
    async with serving(limits) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            await writer.drain()
        assert await ends(reader)
        assert limits.cut == {cause: 1}
        writer.close()


async def deaf(port: int, token: str) -> socket.socket:
    """A client that asks and does not read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(
        sock, REQUEST.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer %b\r\n\r\n" % token.encode())
    )
    return sock


@pytest.mark.parametrize("bound", ["MAX_UNREAD_CLIENT", "MAX_UNREAD"])
async def test_answers_that_nobody_reads_are_bounded(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, bound, 10_000_000)
    limits = Limits(100)
    async with serving(limits) as port:
        clients = [await deaf(port, "evil" if bound.endswith("CLIENT") else f"evil{number}") for number in range(20)]
        await eventually(lambda: limits.cut["unread"] >= 10)
        assert sum(connection.unread for connection in limits.stalled) <= 10_000_000
        assert await answered(port)
        for client in clients:
            client.close()


async def test_an_answer_that_is_not_read_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALLED_S", 0.1)
    limits = Limits(100)
    async with serving(limits) as port:
        client = await deaf(port, "evil")
        await eventually(lambda: limits.cut["stalled"] == 1)
        assert not limits.open
        client.close()


GATEWAY = """
import asyncio, resource, sys
from pathlib import Path
from gateway.connections import *
from gateway.control.listen import HttpServer, bind_tcp, bind_unix

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

async def main():
    limit = raise_descriptor_limit()
    mcp, control = bind_tcp("127.0.0.1:0", "gateway.listen"), bind_unix(Path(sys.argv[1]))
    clients = client_connections(limit)
    async with asyncio.TaskGroup() as tasks:
        for most, sock in ((clients, mcp), (CONTROL_CONNECTIONS, control)):
            server = HttpServer(app, limits=Limits(most))
            tasks.create_task(server.run_on(sock))
            await server.up.wait()
        print(limit, mcp.getsockname()[1], flush=True)

import uvloop
uvloop.run(main())
"""


async def asked(path: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    return said


@pytest.mark.parametrize("hard", [1024, 4096])
async def test_1100_silent_connections_change_nothing_at_the_control_socket(hard: int, tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, path, cwd=ROOT, stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard)),
    )  # fmt: skip
    silent: list[socket.socket] = []
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            limit, port = map(int, (await process.stdout.readline()).split())
        assert limit == hard, "the soft limit was lifted"
        for _ in range(1100):
            sock = socket.socket()
            sock.settimeout(10)
            sock.connect(("127.0.0.1", port))
            silent.append(sock)
            if len(silent) % 100 == 0:
                assert (await asked(path)).endswith(b"ok")
        descriptors = len(os.listdir(f"/proc/{process.pid}/fd"))
        assert descriptors <= client_connections(hard) + 64
    finally:
        for sock in silent:
            sock.close()
        process.kill()
        await process.wait()


@pytest.mark.parametrize("piece", [b"1.50,", b"[],", b"{},", b'"",', b'{"a":1},', b"[[[[1]]]],"])
def test_a_body_that_costs_seconds_to_read_is_refused_unread(piece: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[' + piece * (4_000_000 // len(piece)) + b"1]}}"
    with pytest.raises(Refused, match=f"more than {CLIENT_VALUES} values") as refused:
        parse_message(body)
    assert refused.value.status == 413


def test_four_megabytes_of_text_are_no_values() -> None:
    text = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":"' + b'[1], {2}, \\"3\\", ' * 250_000 + b'"}}'
    assert not has_more_values(text, CLIENT_VALUES)
    assert parse_message(text)["id"] == 1


def test_128_templates_cost_one_uri_a_bounded_number_of_steps() -> None:
    """Counted: every function that is called, in C too."""
    patterns = [TemplatePattern("x:/" + "{a}a" * 16 + str(number)) for number in range(128)]
    steps = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    text = Text("x:/" + "a" * 2000)
    sys.setprofile(count)
    try:
        assert not any(pattern.matches(text) for pattern in patterns)
    finally:
        sys.setprofile(None)
    assert steps <= 128 * 16 * 6

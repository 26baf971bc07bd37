"""The quick way and the coroutine's decide alike: the same bytes get the same answers and make the same events."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from observability.events import EgressEvent
from tests.egress.harness import OK, Running, client_hello, running, upstream
from tests.egress.sockets import LOOPS, WAIT_S, everything

pytestmark = pytest.mark.anyio

NAME = "api.example.com"
OTHER = "other.example.com"


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


ANSWERS = {
    b"/plain": OK,
    b"/empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"/large": b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n" + bytes(90_000),
    b"/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"/close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"/old": b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold",
    b"/none": b"HTTP/1.1 204 No Content\r\n\r\n",
    b"/none-with-body": b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nbody",
    b"/not-modified": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"/interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
    b"/continue": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"/switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    b"/407": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nProxy-Authenticate: Basic\r\n\r\n",
    b"/two": OK + OK,
    b"/both": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"/twice": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    b"/nonsense": b"220 ftp.example.com\r\n\r\n",
    b"/bare": b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
    b"/ours": b"HTTP/1.1 200 OK\r\nX-Stockade-Reason: none\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nok",
    b"/named": b"HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 2\r\n\r\nok",
    b"/half": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf of it",
    b"/hang-up": b"",
}
INTERIM = frozenset({b"/interim", b"/continue"})
HANGS_UP = frozenset({b"/close", b"/half", b"/hang-up", b"/nonsense", b"/bare"})


async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers by path; a TLS hello is echoed."""
    while first := await reader.read(1):
        if first == b"\x16":
            writer.write(first + await reader.read(65536))
            await reader.read()
            return
        head = first + await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].partition(b"?")[0]
        answer = ANSWERS[path]
        writer.write(
            answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD ") and answer else answer
        )
        if path in HANGS_UP:
            return


def request(
    port: int, path: bytes, *, host: str = NAME, method: str = "GET", version: str = "1.1", more: str = ""
) -> bytes:
    line = f"{method} http://{host}:{port}{path.decode()} HTTP/{version}\r\nHost: {host}:{port}\r\n{more}\r\n"
    return line.encode()


def connect(port: int, host: str = NAME) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def conversations(port: int, dead: int) -> dict[str, bytes]:
    """What a client sends on one connection, before it half-closes."""
    hello, wrong = client_hello(NAME), client_hello(OTHER)
    good = request(port, b"/plain")
    cases = {f"get {path.decode()}": request(port, path) + good for path in ANSWERS}
    cases |= {
        f"head {path.decode()}": request(port, path, method="HEAD") + good for path in ANSWERS if path not in INTERIM
    }
    cases |= {f"old {path.decode()}": request(port, path, version="1.0") for path in ANSWERS}
    cases |= {
        "pipelined": good * 5,
        "across hosts": good + request(port, b"/plain", host=OTHER) + request(port, b"/plain", host="evil.example") + good,
        "close": request(port, b"/plain", more="Connection: close\r\n") + good,
        "old keep-alive": request(port, b"/plain", version="1.0", more="Connection: keep-alive\r\n") + good,
        "denied": request(port, b"/plain", host="evil.example") + good,
        "denied port": request(1, b"/plain") + good,
        "refused": request(dead, b"/plain") + good,
        "refused connect": connect(dead),
        "denied connect": connect(port, "evil.example") + hello,
        "no length": request(port, b"/plain", more="Content-Length: 0\r\n") + good,
        "body": request(port, b"/plain", method="OPTIONS", more="Content-Length: 3\r\n") + good,
        "expect": request(port, b"/plain", more="Expect: 100-continue\r\n") + good,
        "upgrade": request(port, b"/plain", more="Connection: upgrade\r\nUpgrade: h2c\r\n") + good,
        "websocket": request(port, b"/switch", more="Connection: upgrade\r\nUpgrade: websocket\r\n") + b"frames",
        "bad after good": good + b"GET / HTTP/1.1\r\n\r\n",
        "half a head": good + b"GET http://",
        "smuggled": request(port, b"/plain", more="Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") + good,
        "hop by hop": request(port, b"/plain", more="Connection: x-a\r\nX-A: 1\r\nProxy-Authorization: b\r\n") + good,
        "tls": connect(port) + hello,
        "tls after get": good + connect(port) + hello,
        "wrong name": connect(port) + wrong,
        "no name": connect(port) + client_hello(None),
        "half a hello": connect(port) + hello[:100],
        "nothing inside": connect(port),
        "not tls": connect(port) + b"SSH-2.0-x\r\n",
        "http inside": connect(port) + f"GET /plain HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode() * 2,
        "other http inside": connect(port) + f"GET /plain HTTP/1.1\r\nHost: {OTHER}:{port}\r\n\r\n".encode(),
        "connect twice": connect(port) * 2,
    }  # fmt: skip
    return cases


def essence(event: EgressEvent) -> dict[str, Any]:
    """What an event says, but for when and how long."""
    told = dataclasses.asdict(event)
    for name in ("seq", "epoch", "time", "duration_s", "connect_s", "dns_s", "connection"):
        told.pop(name, None)
    return told


def talk(port: int, data: bytes, pieces: Sequence[int]) -> bytes:
    """The same, in a thread: a stream of asyncio's forgets what it has when it is reset."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            for start, end in zip((0, *pieces), (*pieces, len(data)), strict=True):
                sock.sendall(data[start:end])
                os.sched_yield()
            sock.shutdown(socket.SHUT_WR)
        return everything(sock)


Said = tuple[bytes, list[dict[str, Any]]]


async def ask(proxy: Running, data: bytes, pieces: Sequence[int]) -> Said:
    """Send it in pieces, half-close; the bytes that came back, and the events."""
    before = len(proxy.events())
    answer = await asyncio.to_thread(talk, proxy.port, data, pieces)
    await proxy.until(lambda: proxy.egress.open == 0)
    return answer, [essence(event) for event in proxy.events()[before:]]


def alike(first: Said, second: Said) -> bool:
    """Whether answers and events are the same. A request that went out on a kept connection just as its server closed it
    is sent again on a new one, and has left twice: how often that happens is a matter of moments."""
    for one, other in zip(first[1], second[1], strict=False):
        less, more = sorted((one["bytes_sent"], other["bytes_sent"]))
        if more == 2 * less:
            one["bytes_sent"] = other["bytes_sent"] = less
    return first == second


@pytest.mark.parametrize("mode", ["enforce", "report"])
@pytest.mark.parametrize("cut", ["whole", "pieces"])
async def test_both_ways_answer_alike_and_tell_alike(mode: str, cut: str) -> None:
    chance = random.Random(11)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()[1]
        async with upstream(server) as port:
            ports = [{"host": host, "port": number} for host in (NAME, OTHER) for number in (port, dead)]
            block = {"allowed_hosts": ports, "mode": mode}
            resolve = [f"{host}:{number}:127.0.0.1" for host in (NAME, OTHER) for number in (port, dead)]
            async with running(block, resolve=resolve) as quick, running(block, resolve=resolve) as slow:
                slow.egress.dialer.at_hand = lambda backend, target: None  # type: ignore[method-assign]
                different = []
                for name, data in conversations(port, dead).items():
                    one_piece = cut == "whole" or name == "body"  # whose server may answer before all of it is there
                    pieces = [] if one_piece else sorted(chance.randrange(len(data)) for _ in range(4))
                    first, second = await ask(quick, data, pieces), await ask(slow, data, pieces)
                    if not alike(first, second):
                        different.append((name, first, second))
                assert different == []

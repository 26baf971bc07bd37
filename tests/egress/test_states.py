"""The proxy's connections in each state, and what may come while nobody looks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from egress.connection import phases, steps
from egress.connection.phases import Dialling, Exchanging, ReadingHead
from egress.connection.work import Link
from egress.http.exchange import Exchange, UpstreamFault
from egress.http.head_end import MAX_HEAD
from egress.listener import http_fast_path
from egress.listener.http_fast_path import FastPath
from egress.net.stream import READ_AHEAD, WRITE_AHEAD
from observability.events import Decision, Phase, Reason
from tests.egress.harness import OK, Client, Running, client_hello, echo, http_server, running, set_budget, upstream
from tests.egress.sockets import LOOPS, WAIT_S, descriptors, reset

pytestmark = pytest.mark.anyio

NAME = "api.example.com"


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


def allow(*ports: int, **more: object) -> dict[str, object]:
    return {"allowed_hosts": [{"host": NAME, "port": port, **more} for port in ports]}


def to(*ports: int) -> list[str]:
    return [f"{NAME}:{port}:127.0.0.1" for port in ports]


def only(proxy: Running) -> FastPath:
    """The connection that is open."""
    (live,) = [live for source in proxy.egress.sources for live in source.live]
    assert isinstance(live, FastPath)
    return live


def is_in(proxy: Running, phase: type[steps.Phase]) -> bool:
    return isinstance(only(proxy).phase, phase)


def read_a_part(proxy: Running) -> bool:
    """A part of a head has come."""
    phase = only(proxy).phase
    return isinstance(phase, ReadingHead) and phase.reader is not None


def link(proxy: Running) -> Link:
    """What joins the connection that is open to its target."""
    work = only(proxy).work
    assert isinstance(work, Link)
    return work


FAULTS = [
    (phases, "parse_whole_head"),
    (phases, "sniff"),
    (phases, "plan_request"),
    (http_fast_path, "DialInProgress"),
]
"""Where a fault of ours may be."""


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize("size", [READ_AHEAD - 100, READ_AHEAD + 1, 100_000, 300_000])
async def test_a_kept_connection_goes_on_after_an_answer_larger_than_the_read_ahead(size: int) -> None:
    body = bytes(size)
    async with upstream(http_server(whole(body))) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get(f"http://{NAME}:{port}/"))[1] == body


async def test_what_follows_a_large_answer_unasked_never_answers_the_next_request() -> None:
    """The answer fills the read-ahead, so what follows is still in the kernel when the answer is passed on."""
    body = bytes(2 * READ_AHEAD - len(whole(b"")) - 5)
    assert len(whole(body)) == 2 * READ_AHEAD
    poisoned = whole(body) + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with upstream(http_server(poisoned)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get(f"http://{NAME}:{port}/"))[1] == body


async def test_a_connect_leaves_no_connection_of_an_earlier_request_behind() -> None:
    async with (
        upstream(http_server(OK)) as web,
        upstream(echo) as port,
        running(allow(web, port), resolve=to(web, port)) as proxy,
    ):
        before = descriptors()
        for slowly in (False, True):
            client = await proxy.client()
            assert (await client.get(f"http://{NAME}:{web}/"))[1] == b"hello"
            if slowly:
                proxy.egress.dialer.at_hand = lambda backend, target: None  # type: ignore[method-assign]
            assert "200" in await client.connect(f"{NAME}:{port}")
            await client.send(client_hello(NAME))
            await client.exactly(100)
            client.writer.close()
            await client.writer.wait_closed()
            await proxy.until(lambda: proxy.egress.open == 0)
        await proxy.until(lambda: descriptors() <= before)


def head_of(size: int, line: str, host: str) -> bytes:
    """A request head of exactly that many bytes."""
    head = f"{line}\r\nHost: {host}\r\n".encode()
    number = 0
    while len(head) + 2 < size:
        number += 1
        room = size - 2 - len(head) - len(b"X-00: \r\n")
        head += b"X-%02d: %b\r\n" % (number, b"x" * min(15_000, room if room < 15_000 + 100 else 15_000))
    assert len(head) + 2 == size
    return head + b"\r\n"


async def test_a_connect_whose_head_fills_the_read_ahead_is_still_read_on() -> None:
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        line, host = f"CONNECT {NAME}:{port} HTTP/1.1", f"{NAME}:{port}"
        head = b"\r\n" + head_of(MAX_HEAD, line, host)
        assert len(head) > READ_AHEAD
        await client.send(head)
        assert "200" in await client.head()
        hello = client_hello(NAME)
        await client.send(hello)
        assert await client.exactly(len(hello)) == hello


async def test_a_fault_of_ours_ends_one_connection_and_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        for module, what in FAULTS:
            with monkeypatch.context() as patch, caplog.at_level(logging.CRITICAL):
                patch.setattr(module, what, breaks)
                client = await proxy.client()
                if what == "sniff":
                    await client.connect(f"{NAME}:{port}")
                    await client.send(client_hello(NAME))
                else:
                    await client.send(f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
                assert await client.rest() == b""
            await proxy.until(lambda: proxy.egress.open == 0)
        client = await proxy.client()
        assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"


async def test_a_refused_connect_is_told_once_though_the_policy_changes_while_it_lingers() -> None:
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"
        assert "403" in await client.connect("evil.example:443")
        proxy.replace({})
        await proxy.until(lambda: proxy.egress.open == 0)
        denied = [event for event in proxy.events() if event.host == "evil.example"]
        assert [event.reason for event in denied] == [Reason.HOST_NOT_ALLOWED]


async def test_a_refused_request_inside_is_told_once_though_the_policy_changes_while_it_lingers() -> None:
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert "200" in await client.connect(f"{NAME}:{port}")
        await client.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert "403" in await client.head()
        proxy.replace({})
        await proxy.until(lambda: proxy.egress.open == 0)
        assert [event.reason for event in proxy.events()] == [Reason.INNER_HOST_MISMATCH]


async def test_a_request_that_waited_too_long_is_not_sent_again() -> None:
    asked: list[bytes] = []

    async def answers_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            if len(asked) == 1:
                writer.write(OK)

    async with upstream(answers_once) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"
        set_budget(proxy.egress, idle_timeout_s=0.1)
        head, _ = await client.get(f"http://{NAME}:{port}/")
        assert head.startswith("HTTP/1.1 504 idle_timeout")
        assert len(asked) == 2


async def test_a_connection_that_is_cut_just_when_its_exchange_fails_ends_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A TaskGroup that ends for one of its tasks swallows the cancellation that comes meanwhile."""

    def fails(exchange: Exchange, buffer: bytearray, eof: bool) -> bytes:
        proxy.egress.loop.call_soon(only(proxy).abort_with, Reason.DOOR_CLOSED)
        raise UpstreamFault("it is none")

    monkeypatch.setattr(Exchange, "from_upstream", fails)
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        host = f"{NAME}:{port}"
        await client.send(f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n".encode())
        assert await client.rest() == b""
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert closed.reason is Reason.DOOR_CLOSED
        assert proxy.egress.open == 0


async def test_a_server_that_spoke_and_was_reset_before_the_client_did_is_still_heard() -> None:
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert "200" in await client.connect(f"{NAME}:{port}")
        server = link(proxy).upstream
        server.buffer += b"too many connections"
        server._lose()
        await client.send(client_hello(NAME))
        assert await client.rest() == b"too many connections"
        await proxy.until(lambda: proxy.egress.open == 0)
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert closed.bytes_received == len(b"too many connections")


async def test_all_requests_inside_a_connection_are_counted() -> None:
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert "200" in await client.connect(f"{NAME}:{port}")
        request = f"POST / HTTP/1.1\r\nHost: {NAME}:{port}\r\nContent-Length: 4\r\n\r\nbody".encode()
        for _ in range(3):
            await client.send(request)
            assert (await client.response())[1] == b"hello"
        client.writer.close()
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert (closed.bytes_sent, closed.bytes_received) == (3 * len(request), 15)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PIECE = bytes(50_000)
TAIL = chunk(b"tail") + b"0\r\n\r\n"


async def test_the_end_of_a_chunked_answer_that_comes_while_the_client_takes_nothing_is_not_forgotten() -> None:
    sent = 0

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not waits():
            writer.write(chunk(PIECE))
            sent += len(PIECE)
            await proxy.until(lambda: waits() or (received() == sent))  # noqa: B023
        writer.write(TAIL)
        await reader.read()

    def live() -> Any:
        return only(proxy)

    def received() -> int:
        return int(live().work.counts()[1])

    def waits() -> bool:
        return live().stream._drained is not None

    async with upstream(answers) as port, running(allow(port), resolve=to(port)) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
            sock.settimeout(WAIT_S)
            sock.sendall(f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            await proxy.until(lambda: sent > 0 and link(proxy).upstream.buffer.endswith(TAIL))
            heard = b""
            while not heard.endswith(TAIL):
                heard += await asyncio.to_thread(sock.recv, 65536)


async def test_the_end_of_a_chunked_body_that_comes_while_the_server_takes_nothing_is_not_forgotten() -> None:
    reads = asyncio.Event()

    async def waits_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await reads.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        heard = b""
        while not heard.endswith(TAIL):
            heard += await reader.read(65536)
        writer.write(OK)

    async with upstream(waits_first) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        host = f"{NAME}:{port}"
        head = f"POST http://{host}/ HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head.encode())
        await proxy.until(lambda: proxy.egress.open == 1 and is_in(proxy, Exchanging))
        live, upstream_of = only(proxy), link(proxy).upstream
        sent = live.work.counts()[0]
        while upstream_of._drained is None:
            await client.send(chunk(PIECE))
            sent += len(PIECE)
            await proxy.until(lambda: upstream_of._drained is not None or live.work.counts()[0] >= sent)  # noqa: B023
        await client.send(TAIL)
        await proxy.until(lambda: live.stream.buffer.endswith(TAIL))
        reads.set()
        assert (await client.response())[1] == b"hello"


async def test_a_client_that_asks_on_without_reading_is_asked_nothing_for_after_a_while() -> None:
    """Small answers too: what waits for it is bounded, and no more requests go out."""
    asked = 0

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(PIECE) + b"0\r\n\r\n")

    async with upstream(answers) as port, running(allow(port), resolve=to(port)) as proxy:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", proxy.port))
            one = f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode()
            await asyncio.to_thread(sock.sendall, one * 400)
            await proxy.until(lambda: only(proxy).stream._drained is not None)
            assert only(proxy).stream.unsent() < WRITE_AHEAD + 2 * len(PIECE)
            assert asked < 400


async def test_what_a_server_says_unasked_never_answers_a_request_inside_a_connection() -> None:
    poisoned = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with upstream(http_server(poisoned)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert "200" in await client.connect(f"{NAME}:{port}")
        await client.send(f"GET / HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode() * 2)
        assert (await client.response())[1] == b"hello"
        assert await client.rest() == b""


@contextlib.asynccontextmanager
async def places() -> AsyncIterator[tuple[Running, int, int]]:
    """A proxy, the port of a server that begins an answer at best, and one that takes no connection."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET /body"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        elif head.startswith(b"GET /stream"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await reader.read()

    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        queue = full.getsockname()[1]
        async with upstream(silent) as port, running(allow(port, queue), resolve=to(port, queue)) as proxy:
            yield proxy, port, queue


@pytest.mark.parametrize(
    ("state", "told", "answer"),
    [
        ("idle", [], b""),
        ("head", [(Phase.DECIDED, Reason.HEAD_TIMEOUT)], b"HTTP/1.1 408 head_timeout"),
        (
            "dialling",
            [(Phase.DECIDED, None), (Phase.CLOSED, Reason.CONNECT_TIMEOUT)],
            b"HTTP/1.1 504 connect_timeout",
        ),
        ("hello", [(Phase.DECIDED, Reason.HEAD_TIMEOUT)], b""),
        ("response", [(Phase.DECIDED, None), (Phase.CLOSED, Reason.IDLE_TIMEOUT)], b"HTTP/1.1 504 idle_timeout"),
        ("body", [(Phase.DECIDED, None), (Phase.CLOSED, Reason.IDLE_TIMEOUT)], b"half"),
        ("stream", [(Phase.DECIDED, None), (Phase.CLOSED, Reason.IDLE_TIMEOUT)], b"half"),
    ],
)
async def test_each_state_ends_in_time(state: str, told: list[object], answer: bytes) -> None:
    async with places() as (proxy, port, queue):
        client = await reach_state(proxy, state, port, queue)
        proxy.egress.sweep_once(proxy.egress.loop.time() + 1000)
        proxy.egress.sweep_once(proxy.egress.loop.time() + 2000)  # the first one saw that something had moved
        if answer.startswith(b"HTTP"):
            assert (await client.head()).encode().startswith(answer)
        else:
            assert (await client.rest()) in (answer, b"")
        client.writer.close()
        await proxy.until(lambda: proxy.egress.open == 0)
        events = [event for event in proxy.events() if event.phase is not Phase.PROGRESS]
        assert [(event.phase, event.reason) for event in events] == told


@pytest.mark.parametrize("state", ["idle", "head", "dialling", "hello", "response", "body"])
@pytest.mark.parametrize("how", ["reset", "cut", "policy"])
async def test_a_connection_that_breaks_in_any_state_leaves_nothing(state: str, how: str) -> None:
    async with places() as (proxy, port, queue):
        before = descriptors()
        client = await reach_state(proxy, state, port, queue)
        decided = len([event for event in proxy.events() if event.decision is Decision.ALLOW])
        if how == "reset":
            duplicate = socket.socket(fileno=os.dup(client.writer.get_extra_info("socket").fileno()))
            client.writer.transport.abort()
            await asyncio.sleep(0)
            reset(duplicate)
        elif how == "cut":
            only(proxy).abort_with(Reason.SHUTDOWN)
        else:
            proxy.replace({})
            if state in ("idle", "head", "dialling"):
                client.writer.close()
        await proxy.until(lambda: proxy.egress.open == 0)
        client.writer.transport.abort()
        await proxy.until(lambda: descriptors() <= before)
        closed = [event for event in proxy.events() if event.phase is Phase.CLOSED]
        assert len(closed) == decided
        assert all(not source.live and not source.tasks for source in proxy.egress.sources)


async def reach_state(proxy: Running, state: str, port: int, queue: int) -> Client:
    """A connection that is in that state."""
    client = await proxy.client()
    match state:
        case "idle":
            await proxy.until(lambda: proxy.egress.open == 1)
        case "head":
            await client.send(b"GET http://")
            await proxy.until(lambda: proxy.egress.open == 1 and read_a_part(proxy))
        case "dialling":
            await client.send(f"CONNECT {NAME}:{queue} HTTP/1.1\r\n\r\n".encode().replace(b"1.1", b"1.0"))
            await proxy.until(lambda: proxy.egress.open == 1 and is_in(proxy, Dialling))
        case "hello":
            assert "200" in await client.connect(f"{NAME}:{port}")
        case "response" | "body" | "stream":
            await client.send(f"GET http://{NAME}:{port}/{state} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            await proxy.until(lambda: proxy.egress.open == 1 and is_in(proxy, Exchanging))
            if state != "response":
                await client.head()
    return client

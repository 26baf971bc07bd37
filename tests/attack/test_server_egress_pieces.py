"""A server that sends the smallest pieces over as many connections as it may have holds up itself and nobody else.

What is asserted is counted: how much of one backend's work is done in one turn of the loop, and that a neighbour's whole
request takes few turns. How long a turn takes is the machine's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from egress.connection import carry
from egress.http.framing import ChunkedBody
from egress.listener.nameserver import READS_AT_ONCE, NameServer
from egress.net.poller import EVENTS_A_TURN, EVENTS_AT_ONCE, LATER_A_TURN
from egress.net.stream import Stream
from tests.attack.egress_world import CALM, LOUD, NAME, Turns, World, world
from tests.egress.harness import OK, client_hello, http_server, upstream
from tests.egress.sockets import LOOPS, until

pytestmark = pytest.mark.anyio

MANY = 150
FEW_TURNS = 400
"""A request takes about ten, and some more while its own server and client wait in the same loop."""


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


@contextlib.asynccontextmanager
async def flooding(flood: Callable[[], object]) -> AsyncIterator[None]:
    """`flood` is called once in each turn of the loop."""

    async def for_ever() -> None:
        while True:
            flood()
            await asyncio.sleep(0)

    task = asyncio.ensure_future(for_ever())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def one_request(running: World, turns: Turns, port: int) -> int:
    """How many turns a neighbour's request takes."""
    before = turns.count
    assert (await running.get(CALM, port)).endswith(b"hello")
    return turns.count - before


def send_to_each(socks: list[socket.socket], data: bytes) -> Callable[[], None]:
    def flood() -> None:
        for sock in socks:
            with contextlib.suppress(BlockingIOError):
                sock.send(data)

    return flood


async def answer_or_swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A web server that reads for ever what is no GET."""
    if (await reader.read(65536)).startswith(b"GET /"):
        writer.write(OK)
        await writer.drain()
    while await reader.read(65536):
        pass


PUT = f"PUT / HTTP/1.1\r\nHost: {NAME}:%d\r\n%s\r\n\r\n"
FIRST = {
    "tunnels": lambda port: client_hello(NAME),
    "bodies": lambda port: (PUT % (port, "Content-Length: 100000000")).encode(),
    "chunked bodies": lambda port: (PUT % (port, "Transfer-Encoding: chunked")).encode() + b"fffffff\r\n",
    "heads": lambda port: (PUT % (port, "X: ")).encode().rstrip(),
}


@pytest.mark.parametrize("what", FIRST)
async def test_a_flood_of_single_bytes_has_its_share_of_a_turn(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Red team M13: 300 connections that write single bytes made a neighbour wait up to 29 times as long.

    In each turn of the loop something is ready on 150 of them; a turn takes from no more than a part.
    """
    async with upstream(answer_or_swallow) as port, world(port) as running, contextlib.AsyncExitStack() as stack:
        running.poller(LOUD).clock = lambda: 0.0  # no time passes: it is the count that bounds
        turns = Turns()
        turns.count_events(monkeypatch, running)
        socks = [stack.enter_context(await running.tunnel(LOUD, port)) for _ in range(MANY)]
        send_to_each(socks, FIRST[what](port))()
        async with flooding(send_to_each(socks, b"x")):
            assert await one_request(running, turns, port) < FEW_TURNS
            await until(lambda: turns.total[LOUD] > 20 * MANY)
        turns.handle.cancel()
        assert turns.most[LOUD] == EVENTS_A_TURN < MANY


async def test_a_backends_turn_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(answer_or_swallow) as port, world(port) as running, contextlib.AsyncExitStack() as stack:
        clock = itertools.count()
        running.poller(LOUD).clock = lambda: float(next(clock))  # each piece of work takes very long
        socks = [stack.enter_context(await running.tunnel(LOUD, port)) for _ in range(MANY)]
        turns = Turns()
        turns.count_events(monkeypatch, running)
        send_to_each(socks, client_hello(NAME))()
        async with flooding(send_to_each(socks, b"x")):
            assert await one_request(running, turns, port) < FEW_TURNS
            await until(lambda: turns.total[LOUD] > 10 * MANY)
        turns.handle.cancel()
        assert turns.most[LOUD] == EVENTS_AT_ONCE


async def test_bodies_of_the_smallest_chunks_have_their_share_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many connections has thousands of chunks waiting: one turn decodes some of a few of them."""
    async with upstream(answer_or_swallow) as port, world(port) as running, contextlib.AsyncExitStack() as stack:
        running.poller(LOUD).clock = lambda: 0.0
        turns = Turns()
        turns.count_calls(monkeypatch, ChunkedBody, "decode")
        head = (PUT % (port, "Transfer-Encoding: chunked")).encode()
        socks = [stack.enter_context(await running.tunnel(LOUD, port)) for _ in range(MANY)]
        send_to_each(socks, head + b"1\r\nx\r\n" * 5000)()
        assert await one_request(running, turns, port) < FEW_TURNS
        await until(lambda: turns.total["decode"] > 20 * MANY)
        turns.handle.cancel()
        assert turns.most["decode"] <= LATER_A_TURN + EVENTS_A_TURN < MANY


async def test_a_flood_of_lookups_has_its_share_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with upstream(http_server(OK)) as port, world(port) as running:
        running.poller(LOUD).clock = lambda: 0.0
        turns = Turns()
        turns.count_calls(monkeypatch, NameServer, "note_limit")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.1", running.dns_ports[LOUD]))

            def flood() -> None:
                with contextlib.suppress(OSError):
                    for _ in range(500):
                        sock.send(b"x" * 20)

            async with flooding(flood):
                assert await one_request(running, turns, port) < FEW_TURNS
                await until(lambda: turns.total["note_limit"] > 2000)
        turns.handle.cancel()
        assert turns.most["note_limit"] <= 2 * READS_AT_ONCE, "those that waited, and those that came just then"


async def test_a_server_that_answers_in_single_bytes_costs_no_copy_of_what_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other side of an exchange, with a client that does not read: what waits is not copied with each byte."""
    gave: list[int] = []
    real = carry.give

    async def give(client: Stream, data: bytes, *, wait: bool) -> None:
        await real(client, data, wait=wait)
        if client.out is not None:
            gave.append(id(client.out))

    monkeypatch.setattr(carry, "give", give)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(8_000_000))
        await writer.drain()
        while len(gave) < 400 and not writer.is_closing():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)

    async with upstream(drip) as port, world(port) as running:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", running.ports[LOUD]))
            sock.sendall(f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            await until(lambda: running.egress.backends[LOUD].open == 1)
            await until(lambda: gave)
        assert len(set(gave)) <= 2

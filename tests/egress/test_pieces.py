"""Every parser costs the same for the same bytes, however a peer cuts them.

What is counted is the bytes that a parser looks at, by a buffer that knows: never time.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any, SupportsIndex

import pytest

from egress.connection.parent import read_parent_head
from egress.connection.phases import InnerExchanging, Peeking, ReadingInner, Sniffing
from egress.connection.steps import Denied, Named, Phase, Rejected, Step, Tunnel, Wait
from egress.http.exchange import Exchange, RequestPlan, UpstreamFault
from egress.http.framing import BadFraming, ChunkedBody, Framing
from egress.http.request_head import parse_head
from egress.listener.nameserver import read_message
from egress.net.poller import Poller
from egress.net.stream import WRITE_AHEAD, Stream
from egress.policy.budget import Budget
from egress.policy.decide import Target, parse_policy
from egress.service.control import ControlConnection
from observability.events import Reason
from tests.egress.hellos import openssl_hello, records

PER_BYTE = 40
"""Looks at a byte that are still called linear: a handful for what it is, the rest for the few bytes at each cut."""


class Counted(bytearray):
    """A buffer that counts the bytes that are looked at in it."""

    looked = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.looked += len(found) if isinstance(key, slice) else 1
        return found

    def find(self, sub: Any, start: SupportsIndex | None = 0, end: SupportsIndex | None = None) -> int:
        first, last, _ = slice(start, end).indices(len(self))
        found = super().find(sub, first, last)
        self.looked += max(0, (found if found >= 0 else last) - first)
        return found

    def rfind(self, *arguments: Any) -> int:
        self.looked += len(self)
        return super().rfind(*arguments)

    def replace(self, *arguments: Any) -> bytearray:
        self.looked += len(self)
        return super().replace(*arguments)

    def partition(self, *arguments: Any) -> Any:
        self.looked += len(self)
        return super().partition(*arguments)

    def split(self, *arguments: Any, **named: Any) -> list[bytearray]:
        self.looked += len(self)
        return super().split(*arguments, **named)


class Pieces:
    """Stands for a `Stream` whose peer sends these pieces, each after the one before was looked at."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)
        self.buffer = Counted()
        self.sent = 0
        self.ended = False

    def feed(self) -> None:
        piece = next(self.pieces, b"")
        self.buffer += piece
        self.sent += len(piece)
        self.ended = not piece

    async def more(self) -> bool:
        self.feed()
        return not self.ended

    def skip(self, count: int) -> None:
        del self.buffer[:count]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def assert_linear(stream: Pieces) -> None:
    assert stream.buffer.looked <= PER_BYTE * stream.sent, f"{stream.buffer.looked} looks at {stream.sent} bytes"


LONG_HEAD = b"GET / HTTP/1.1\r\nHost: a.example\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"v" * 500) for n in range(120))
MANY_LINES = b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 12_000
LONG_LINE = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: " + b"v" * 16_000 + b"\r\n\r\n"
ONE_BYTE_RECORDS = records(openssl_hello("a.example")[5:], 1)


RULES = SimpleNamespace(budget=Budget(), policy=parse_policy({}))
TARGET = Target(host="a.example", ip=None, port=80)


def feed(phase: Phase, pieces: Sequence[bytes]) -> tuple[Step, Pieces]:
    """Give a phase these pieces, one after the other, until it answers with more than `Wait`."""
    stream = Pieces(pieces)
    while True:
        stream.feed()
        step = phase.received(stream.buffer, stream.ended)
        if not isinstance(step, Wait):
            return step, stream
        assert not stream.ended


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("data", [LONG_HEAD + b"\r\n", LONG_LINE], ids=["many lines", "a long line"])
def test_a_request_head_costs_the_same_however_it_is_cut(data: bytes, size: int) -> None:
    step, stream = feed(ReadingInner(RULES, TARGET, None), cut(data, size))
    assert isinstance(step, InnerExchanging)
    assert step.head == parse_head(data, inside=True)
    assert_linear(stream)


@pytest.mark.parametrize("size", [1, 5])
def test_a_request_head_of_too_many_lines_is_refused_while_it_comes(size: int) -> None:
    step, stream = feed(ReadingInner(RULES, TARGET, None), cut(MANY_LINES, size))
    assert isinstance(step, Rejected)
    assert step.reason is Reason.TOO_LARGE
    assert stream.sent < 1000, "as soon as there is one line too many"
    assert_linear(stream)


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.parametrize("data", [LONG_HEAD, MANY_LINES, LONG_LINE], ids=["unfinished", "many lines", "long line"])
def test_the_name_that_a_direct_connection_shows_costs_the_same_however_it_is_cut(data: bytes, size: int) -> None:
    step, stream = feed(Peeking(), cut(data, size))
    assert isinstance(step, Named)
    assert step.name == ("a.example" if data is LONG_LINE else "")
    assert_linear(stream)


@pytest.mark.parametrize("size", [1, 6, 100])
def test_a_hello_of_single_byte_records_is_read_once(size: int) -> None:
    step, stream = feed(Sniffing(RULES, TARGET, None), cut(ONE_BYTE_RECORDS, size))
    assert isinstance(step, Denied)
    assert step.reason is Reason.NOT_TLS, "it has more records than any client sends"
    assert_linear(stream)


@pytest.mark.parametrize("size", [1, 100])
def test_a_hello_with_a_large_key_share_costs_the_same_however_it_is_cut(size: int) -> None:
    message = openssl_hello("a.example", alpn=["x" * 250] * 40)[5:]
    step, stream = feed(Sniffing(RULES, TARGET, None), cut(records(message, 4000), size))
    assert step == Tunnel(None)
    assert_linear(stream)


def answered(stream: Pieces) -> bytes:
    """What an exchange passes on of a response that comes in pieces. Raises UpstreamFault."""
    exchange = Exchange(RequestPlan(method="GET", head=b"", framing=Framing.NONE))
    data = b""
    while not data:
        stream.feed()
        data = exchange.from_upstream(stream.buffer, stream.ended)
    return data


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_response_head_costs_the_same_however_it_is_cut(size: int) -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (n, b"v" * 200) for n in range(250))
    stream = Pieces(cut(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n", size))
    assert answered(stream).count(b"\r\nX-") == 250
    assert_linear(stream)


@pytest.mark.parametrize("size", [1, 5])
def test_a_response_head_of_too_many_lines_is_refused_while_it_comes(size: int) -> None:
    stream = Pieces(cut(b"HTTP/1.1 200 OK\r\n" + b"a:b\r\n" * 12_000, size))
    with pytest.raises(UpstreamFault, match="header fields"):
        answered(stream)
    assert stream.sent < 2000
    assert_linear(stream)


@pytest.mark.anyio
async def test_a_parents_answer_costs_the_same_however_it_is_cut() -> None:
    stream = Pieces(cut(b"HTTP/1.1 200 OK\r\nX: " + b"v" * 15_000 + b"\r\n\r\n", 1))
    assert await read_parent_head(stream) == 200  # type: ignore[arg-type]
    assert_linear(stream)


CHUNKED = {
    "small chunks": b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
    "long extensions": (b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 20 + b"0\r\n\r\n",
    "trailers": b"0\r\n" + b"".join(b"t%d: %b\r\n" % (n, b"v" * 990) for n in range(8)) + b"\r\n",
    "one long trailer": b"0\r\nt: " + b"v" * 8000 + b"\r\n\r\n",
    "one chunk": b"ffff\r\n" + b"x" * 0xFFFF + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("name", CHUNKED)
def test_a_chunked_body_costs_the_same_however_it_is_cut(name: str, size: int) -> None:
    data, body, buffer = CHUNKED[name], ChunkedBody(), Counted()
    content = b""
    for piece in cut(data, size):
        buffer += piece
        content += body.decode(buffer)
        while body.stopped:
            content += body.decode(buffer)
    assert body.done
    whole, at_once = ChunkedBody(), bytearray(data)
    expected = whole.decode(at_once)
    while whole.stopped:
        expected += whole.decode(at_once)
    assert content == expected
    assert buffer.looked <= PER_BYTE * len(data)


def test_a_trailer_section_has_no_more_fields_than_a_head() -> None:
    body = ChunkedBody()
    buffer = bytearray(b"0\r\n" + b"a:\r\n" * 1000 + b"\r\n")

    def read() -> None:
        body.decode(buffer)
        while body.stopped:
            body.decode(buffer)

    with pytest.raises(BadFraming, match="trailer"):
        read()


@pytest.mark.anyio
async def test_dns_over_tcp_costs_the_same_however_it_is_cut() -> None:
    stream = Pieces(cut(b"\xff\xff" + bytes(0xFFFF), 1))
    assert await read_message(stream) == bytes(0xFFFF)  # type: ignore[arg-type]
    assert_linear(stream)


def test_a_large_push_of_the_gateway_is_not_searched_anew_with_each_piece() -> None:
    gateway = ControlConnection(SimpleNamespace(target=None))  # type: ignore[arg-type]
    gateway.buffer = buffer = Counted()
    lines: list[bytes] = []
    gateway.answer = lines.append  # type: ignore[method-assign,assignment]
    data = b"x" * 100_000 + b"\ny\nz"
    for piece in cut(data, 10):
        gateway.data_received(piece)
    assert lines == [b"x" * 100_000, b"y"]
    assert gateway.buffer is buffer, "it is not copied either"
    assert buffer == b"z"
    assert buffer.looked <= PER_BYTE * len(data)


async def written(pieces: Sequence[bytes], each: Callable[[Stream, socket.socket], None]) -> Stream:
    """A stream to a peer that reads only when `each` lets it."""
    poller = Poller(asyncio.get_running_loop())
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with theirs:
        stream = Stream(poller, ours)
        for piece in pieces:
            stream.write(piece)
            each(stream, theirs)
        stream.abort()
    poller.close()
    return stream


@pytest.mark.anyio
async def test_small_pieces_for_a_peer_that_does_not_read_are_not_copied_with_each_one() -> None:
    """What waits grows in place: one object all along, and no new one for each piece."""
    waiting: list[int] = []
    full = b"x" * (4 * WRITE_AHEAD)

    def look(stream: Stream, theirs: socket.socket) -> None:
        waiting.append(id(stream.out))

    await written([full, *[b"y"] * 1000], look)
    assert len(set(waiting)) <= 2

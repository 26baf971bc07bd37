"""Chunked bodies and response heads, at every split, against the odd spellings."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.http.framing import (
    PARTS_AT_ONCE,
    BadFraming,
    ChunkedBody,
    Framing,
    encode_chunk,
    encode_last_chunk,
    parse_response_head,
    response_framing,
    serialise_response,
)

BODY = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nX: 1\r\n\r\n"


@pytest.mark.parametrize("split", range(1, len(BODY)))
def test_a_chunked_body_reads_the_same_at_every_split(split: int) -> None:
    body, buffer = ChunkedBody(), bytearray(BODY[:split])
    got = body.decode(buffer)
    buffer += BODY[split:] + b"NEXT"
    got += body.decode(buffer)
    assert (got, body.done, bytes(buffer), body.trailers) == (b"hello0123456789", True, b"NEXT", [(b"X", b"1")])


@pytest.mark.parametrize(
    "data",
    [
        b"0x5\r\nhello\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello0\r\n",
        b"5\r\nhello\n",
        b"\r\n",
        b"g\r\n",
        b"5;\x00\r\nhello\r\n",
        b"1" * 17 + b"\r\n",
        b"5;" + b"x" * 2000,
        b"0\r\nX 1\r\n\r\n",
        b"0\r\n X: 1\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * 3000,
    ],
)
def test_a_malformed_chunk_is_refused(data: bytes) -> None:
    with pytest.raises(BadFraming):
        decode_all(ChunkedBody(), bytearray(data))


def decode_all(body: ChunkedBody, buffer: bytearray) -> list[bytes]:
    """What each turn of the loop decodes."""
    pieces = [body.decode(buffer)]
    while body.stopped:
        pieces.append(body.decode(buffer))
    return pieces


def test_very_many_chunks_are_read_a_few_at_a_time() -> None:
    """So that one body of chunks of one byte does not hold up everybody's loop."""
    buffer, body = bytearray(b"1\r\na\r\n" * 1000 + b"0\r\n\r\nNEXT"), ChunkedBody()
    pieces = decode_all(body, buffer)
    assert b"".join(pieces) == b"a" * 1000
    assert max(map(len, pieces)) <= PARTS_AT_ONCE
    assert (body.done, bytes(buffer)) == (True, b"NEXT")


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.integers(1, 50))
@settings(max_examples=60)
def test_what_is_encoded_decodes_to_itself_and_h11_agrees(pieces: list[bytes], step: int) -> None:
    wire = b"".join(map(encode_chunk, pieces)) + encode_last_chunk([])
    body, buffer, got = ChunkedBody(), bytearray(), b""
    for start in range(0, len(wire), step):
        buffer += wire[start : start + step]
        got += body.decode(buffer)
    assert (got, body.done) == (b"".join(pieces), True)
    oracle = h11.Connection(h11.CLIENT)
    oracle.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    oracle.send(h11.EndOfMessage())
    oracle.receive_data(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    content = b""
    while not isinstance(event := oracle.next_event(), h11.EndOfMessage):
        content += bytes(event.data) if isinstance(event, h11.Data) else b""
    assert content == got


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_either_read_or_refused(data: bytes) -> None:
    for parse in (lambda: ChunkedBody().decode(bytearray(data)), lambda: parse_response_head(data)):
        try:
            parse()
        except BadFraming:
            continue


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/2 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 200 OK\r\nA : 1",
        b"HTTP/1.1 200 OK\r\n: 1",
        b"HTTP/1.1 200 OK\r\nA: 1\x002",
        b"HTTP/1.1 200 OK\r\nA: 1\n2",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
    ],
)
def test_a_response_head_that_leaves_doubt_is_refused(head: bytes) -> None:
    with pytest.raises(BadFraming):
        parse_response_head(head)


@pytest.mark.parametrize(
    ("head", "method", "framing"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "GET", Framing.LENGTH),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5", "HEAD", Framing.NONE),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked", "GET", Framing.CHUNKED),
        (b"HTTP/1.1 200 OK", "GET", Framing.CLOSE),
        (b"HTTP/1.1 304 ", "GET", Framing.NONE),
        (b"HTTP/1.1 100", "GET", Framing.NONE),
    ],
)
def test_the_framing_of_a_response(head: bytes, method: str, framing: Framing) -> None:
    assert response_framing(parse_response_head(head), method) is framing


def test_fields_that_end_here_are_not_passed_on_but_the_length_always_is() -> None:
    head = parse_response_head(
        b"HTTP/1.0 200 Fine\r\nConnection: close, x-hop, content-length\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"
        b"X-Stockade-Reason: lie\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b"
    )
    wire = serialise_response(head, Framing.LENGTH, close=True)
    assert wire == (
        b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nConnection: close\r\n\r\n"
    )

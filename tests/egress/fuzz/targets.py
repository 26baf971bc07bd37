"""What must hold for any bytes that reach a parser. Shared by atheris (`run.py`) and by hypothesis (`test_fuzz.py`).

A target takes bytes and returns; whatever it raises is a find. `True` says that the input was taken, not refused.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import h11
import trustme

from egress.connection.first_bytes import Kind, sniff
from egress.connection.sni import ClientHello, HelloReader, NotTLS, parse_client_hello
from egress.http.bad_request import BadRequest
from egress.http.framing import (
    BadFraming,
    ChunkedBody,
    Framing,
    encode_chunk,
    encode_last_chunk,
    parse_response_head,
    response_framing,
    serialise_response,
)
from egress.http.request_head import BodyFraming, Form, RequestHead, parse_head, serialise
from egress.listener.dns import MalformedQuery, build_response, parse_query
from egress.policy.names import parse_authority, parse_host
from tests.egress import hellos
from tests.egress.corpus_cases import load_cases, whole

Target = Callable[[bytes], bool]
T = TypeVar("T")


# --- request heads


def fuzz_http1(data: bytes) -> bool:
    """The first byte says whether the head is inside a connection; the second where its bytes are split."""
    inside, data = data[:1] > b"\x7f", data[1:]
    try:
        head = parse_head(data, inside=inside)
    except BadRequest:
        return False
    if head is None:
        return False
    check_parts(head, data)
    for end in (head.size // 2, head.size - 1):
        assert parse_head(data[:end], inside=inside) is None, "a part of a good head is refused, or whole"
    if head.form is not Form.AUTHORITY:
        check_outgoing(head)
    return True


def check_parts(head: RequestHead, data: bytes) -> None:
    assert head.size <= len(data)
    assert data[: head.size].endswith(b"\r\n\r\n")
    assert parse_authority(head.target.authority) == head.target, "the target is not canonical"
    assert not set(head.path) & set(b"\r\n\0 #\\")
    for name, value in head.headers:
        assert not set(name + value) & set(b"\r\n\0")
    assert_no_hidden_address(head.target.host, head.target.ip)


def assert_no_hidden_address(host: str, ip: object) -> None:
    """What the C library would take for an address must have been taken for one by us."""
    with contextlib.suppress(OSError):
        assert str(ip) == socket.inet_ntoa(socket.inet_aton(host))


def check_outgoing(head: RequestHead) -> None:
    """What goes out is read the same way by us and by h11."""
    out = serialise(head)
    again = parse_head(out, inside=True)
    assert again is not None
    assert again.size == len(out), "a head goes out as more than one"
    assert (again.method, again.target, again.path) == (head.method, head.target, head.path)
    assert (again.framing, again.length, again.upgrade) == (head.framing, head.length, head.upgrade)
    theirs = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    theirs.receive_data(out)
    request = theirs.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method.decode(), bytes(request.target)) == (head.method, head.path)
    hosts = [bytes(value) for name, value in request.headers if name == b"host"]
    assert len(hosts) == 1
    assert parse_authority(hosts[0], 80) == head.target
    if head.framing is BodyFraming.NONE:
        assert isinstance(theirs.next_event(), h11.EndOfMessage)
    else:
        assert theirs.next_event() is h11.NEED_DATA


# --- responses and bodies


def fuzz_framing(data: bytes) -> bool:
    """A response's head, then its chunked body, in one piece and in two."""
    head, end, body = data.partition(b"\r\n\r\n")
    taken = bool(end) and check_response(head)
    return check_chunks(body if end else data) or taken


def check_response(data: bytes) -> bool:
    try:
        head = parse_response_head(data)
    except BadFraming:
        return False
    framing = response_framing(head, "GET")
    out = serialise_response(head, framing, close=framing is Framing.CLOSE)
    assert out.count(b"\r\n\r\n") == 1
    assert out.endswith(b"\r\n\r\n")
    again = parse_response_head(out[:-4])
    assert (again.status, response_framing(again, "GET")) == (head.status, framing)
    assert not any(field.lowered.startswith(b"x-stockade-") for field in again.fields)
    if framing is Framing.LENGTH:
        assert again.length == head.length
    return True


def check_chunks(data: bytes) -> bool:
    whole_body = decode_pieces([data])
    middle = len(data) // 2
    assert decode_pieces([data[:middle], data[middle:]]) == whole_body, "a split changes what a body is"
    if whole_body is None:
        return False
    content, done, left, trailers = whole_body
    if done:
        out = encode_chunk(content) + encode_last_chunk(trailers)
        again = decode_pieces([out + left])
        assert again is not None
        assert again[:3] == (content, True, left)
    return done


def decode_pieces(pieces: list[bytes]) -> tuple[bytes, bool, bytes, list[tuple[bytes, bytes]]] | None:
    body, buffer, content = ChunkedBody(), bytearray(), b""
    for piece in pieces:
        buffer += piece
        try:
            content += body.decode(buffer)
            while body.stopped:
                content += body.decode(buffer)
        except BadFraming:
            return None
    return content, body.done, bytes(buffer) if body.done else b"", body.trailers


# --- ClientHellos


def fuzz_sni(data: bytes) -> bool:
    """The first byte says at how many bytes the records are cut anew (0: as they are)."""
    size, data = int.from_bytes(data[:1], "big"), data[1:]
    hello = read_hello(data)
    if hello is None:
        return False
    assert read_hello(data[: hello.size - 1]) is None
    assert parse_client_hello(data[: hello.size]) == hello
    if hello.server_name is not None:
        host, ip = parse_host(f"[{hello.server_name}]" if ":" in hello.server_name else hello.server_name)
        assert host == hello.server_name
        assert_no_hidden_address(host, ip)
    check_with_openssl(data, hello)
    if size >= 16:
        message = b"".join(fragments(data[: hello.size]))
        if len(message) / size < 250:
            split = parse_client_hello(hellos.records(message, size))
            assert split is not None
            assert split.server_name == hello.server_name, "records change the name"
    return True


def read_hello(data: bytes) -> ClientHello | None:
    """None for what is refused or incomplete; `sniff` must say the same."""
    shown = sniff(bytearray(data))
    try:
        hello = parse_client_hello(data)
    except NotTLS:
        assert data[:1] != b"\x16" or (shown is not None and shown.kind is Kind.OTHER)
        return None
    if data[:1] == b"\x16":
        assert (shown is None) == (hello is None)
    assert read_in_pieces(HelloReader().read, data, len(data) // 3 + 1, NotTLS) == hello, "cuts change what it is"
    return hello


def read_in_pieces(read: Callable[[bytes], T | None], data: bytes, size: int, refusal: type[ValueError]) -> T | None:
    """What an incremental reader makes of `data` as it grows by `size` bytes; None for what it refuses."""
    with contextlib.suppress(refusal):
        for end in (*range(size, len(data), size), len(data)):
            if (found := read(data[:end])) is not None:
                return found
    return None


def fragments(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        yield data[position + 5 : position + 5 + length]
        position += 5 + length


def check_with_openssl(data: bytes, hello: ClientHello) -> None:
    """Where OpenSSL's server takes a name from these bytes, it is the one that we saw."""
    seen: list[str | None] = []
    context = server_context()
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with contextlib.suppress(ssl.SSLError):
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    if seen and seen[0] is not None:
        assert seen[0].lower().removesuffix(".") == hello.server_name


@lru_cache(maxsize=1)
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "server.pem"
        trustme.CA().issue_cert("api.test").private_key_and_cert_chain_pem.write_to_path(str(path))
        context.load_cert_chain(path)
    return context


# --- DNS


def fuzz_dns(data: bytes) -> bool:
    """A query, and the answers that it would get."""
    try:
        query = parse_query(data)
    except MalformedQuery:
        return False
    assert query.name.isascii()
    assert query.name.isprintable()
    assert not set(query.name) & set(" \t'\"`$;&|<>()*?!")
    assert_no_hidden_address(query.name if query.is_host else "x", None)
    many = [ipaddress.IPv4Address(0xCB007100 + n) for n in range(200)]
    for answer in (build_response(query, nxdomain=True), build_response(query, addresses=many)):
        assert len(answer) <= query.max_size
        assert answer[:2] == data[:2]
        assert answer[2] & 0x80
        assert answer[12:].startswith(query.question)
        assert int.from_bytes(answer[4:6], "big") == 1
    with contextlib.suppress(MalformedQuery):
        parse_query(build_response(query))
        raise AssertionError("an answer is taken for a query: two of us would talk for ever")
    return True


# --- names


def fuzz_names(data: bytes) -> bool:
    """`HOST[:PORT]` as a backend sends it."""
    try:
        target = parse_authority(data, 443)
    except ValueError:
        return False
    assert parse_authority(target.authority) == target
    assert parse_authority(data.swapcase(), 443) == target
    assert_no_hidden_address(target.host, target.ip)
    return True


TARGETS: dict[str, Target] = {
    "http1": fuzz_http1,
    "framing": fuzz_framing,
    "sni": fuzz_sni,
    "dns": fuzz_dns,
    "names": fuzz_names,
}


# --- what to begin with


def seeds(name: str) -> list[bytes]:
    """Good and bad inputs, from the corpus."""
    cases = load_cases()
    match name:
        case "http1":
            sent = [whole(case.send) for case in cases]
            inner = [data.partition(b"\r\n\r\n")[2] for data in sent]
            return [b"\0" + data for data in sent] + [b"\xff" + data for data in inner if data]
        case "framing":
            return [whole(case.reply) for case in cases if case.reply] + [b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"]
        case "sni":
            steps = [step for case in cases for step in case.send if isinstance(step, dict) and "hello" in step]
            found = {whole([step]) for step in steps} | {hellos.hello(), hellos.openssl_hello("api.test")}
            return [bytes([size]) + data for size in (0, 16, 60) for data in sorted(found)]
        case "dns":
            question = b"\3api\4test\0\0\1\0\1"
            header = b"\0\7\1\0\0\1\0\0\0\0\0"
            return [header + b"\0" + question, header + b"\1" + question + b"\0\0\x29\x10\0\0\0\0\0\0\0"]
        case _:
            return [case.send[0].split(" ")[1].encode("latin-1") for case in cases if is_connect(case.send)]


def is_connect(send: list[str | dict[str, object]]) -> bool:
    return bool(send) and isinstance(send[0], str) and send[0].startswith("CONNECT ")

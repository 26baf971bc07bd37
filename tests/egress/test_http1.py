"""Request heads: what is read, what is refused, what goes out; h11 as a second opinion."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from egress.http.bad_request import MAX_LINE, BadRequest
from egress.http.head_end import MAX_HEAD
from egress.http.request_head import (
    MAX_HEADERS,
    BodyFraming,
    Form,
    RequestHead,
    parse_head,
    serialise,
)
from observability.events import Reason

GET = b"GET http://api.test/x HTTP/1.1\r\nHost: api.test\r\n"
POST = b"POST http://api.test/x HTTP/1.1\r\nHost: api.test\r\n"
CONNECT = b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n"
INSIDE = b"GET /x HTTP/1.1\r\nHost: api.test\r\n"


def read(data: bytes, *, inside: bool = False) -> RequestHead:
    head = parse_head(data, inside=inside)
    assert head is not None
    return head


def refused(data: bytes, *, inside: bool = False) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_head(data, inside=inside)
    assert caught.value.detail
    return caught.value


# --- forms


@pytest.mark.parametrize(
    ("line", "host", "port", "path"),
    [
        (b"GET http://api.test/", "api.test", 80, b"/"),
        (b"GET http://api.test", "api.test", 80, b"/"),
        (b"GET http://api.test?q=1", "api.test", 80, b"/?q=1"),
        (b"GET http://api.test:8080/a?b=c/d", "api.test", 8080, b"/a?b=c/d"),
        (b"GET HTTP://API.TEST/A", "api.test", 80, b"/A"),
        (b"GET http://10.0.0.1/", "10.0.0.1", 80, b"/"),
        (b"GET http://[2001:db8::1]:81/", "2001:db8::1", 81, b"/"),
        (b"GET http://api.test/a%00b%2f..%5c", "api.test", 80, b"/a%00b%2f..%5c"),
        (b'GET http://api.test/a@b:c|{}[]^`"<>', "api.test", 80, b'/a@b:c|{}[]^`"<>'),
        (b"GET http://api.test//evil.test/", "api.test", 80, b"//evil.test/"),
        (b"GET http://api.test/http://evil.test/", "api.test", 80, b"/http://evil.test/"),
        (b"OPTIONS http://api.test", "api.test", 80, b"*"),
        (b"OPTIONS http://api.test/", "api.test", 80, b"/"),
        (b"M-SEARCH http://api.test/", "api.test", 80, b"/"),
        (b"patch http://api.test/", "api.test", 80, b"/"),
    ],
)
def test_an_absolute_form_names_host_port_and_path(line: bytes, host: str, port: int, path: bytes) -> None:
    head = read(line + b" HTTP/1.0\r\n\r\n")
    assert head.form is Form.ABSOLUTE
    assert (head.target.host, head.target.port, head.path) == (host, port, path)
    assert serialise(head).startswith(line.split(b" ")[0] + b" " + path + b" HTTP/1.0\r\nHost: ")


@pytest.mark.parametrize(
    ("target", "host", "port"),
    [(b"api.test:443", "api.test", 443), (b"10.0.0.1:80", "10.0.0.1", 80), (b"[::1]:1", "::1", 1)],
)
def test_connect_names_host_and_port(target: bytes, host: str, port: int) -> None:
    head = read(b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\nContent-Length: 0\r\n\r\nmore")
    assert head.form is Form.AUTHORITY
    assert (head.target.host, head.target.port) == (host, port)
    assert head.framing is BodyFraming.NONE


@pytest.mark.parametrize(
    ("data", "host", "port", "path"),
    [
        (b"GET /x?y HTTP/1.1\r\nHost: API.test\r\n\r\n", "api.test", 80, b"/x?y"),
        (b"GET / HTTP/1.1\r\nHost: api.test:8080\r\n\r\n", "api.test", 8080, b"/"),
        (b"GET / HTTP/1.0\r\nHost: api.test\r\n\r\n", "api.test", 80, b"/"),
        (b"OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n", "api.test", 80, b"*"),
        (b"GET //x HTTP/1.1\r\nHost: [::1]:81\r\n\r\n", "::1", 81, b"//x"),
    ],
)
def test_inside_a_connection_the_target_is_the_host_field(data: bytes, host: str, port: int, path: bytes) -> None:
    head = read(data, inside=True)
    assert head.form is Form.ORIGIN
    assert (head.target.host, head.target.port, head.path) == (host, port, path)


@pytest.mark.parametrize(
    "host",
    [b"api.test", b"API.TEST", b"api.test.", b"api.test:80", b" \tapi.test \t"],
)
def test_host_may_be_spelled_like_the_target(host: bytes) -> None:
    assert read(b"GET http://api.test/ HTTP/1.1\r\nHost:" + host + b"\r\n\r\n").target.host == "api.test"


def test_the_host_of_a_connect_may_leave_out_the_port() -> None:
    assert read(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n").target.port == 443


def test_http_1_0_needs_no_host_at_the_proxy() -> None:
    assert read(b"CONNECT api.test:443 HTTP/1.0\r\n\r\n").version == (1, 0)


def test_one_empty_line_before_the_request_is_skipped_and_counted() -> None:
    data = b"\r\n" + GET + b"\r\nrest"
    assert data[read(data).size :] == b"rest"


# --- refusals

TARGETS = [
    b"/", b"/x", b"*", b"api.test", b"api.test:80", b"//api.test/", b"http:/api.test/", b"http:api.test", b"http:///x",
    b"http://", b"http://:80/", b"https://api.test/", b"HTTPS://api.test/", b"ftp://api.test/", b"ws://api.test/",
    b"file:///etc/passwd", b"gopher://api.test:70/_x", b"http://user@api.test/", b"http://user:pw@api.test/",
    b"http://evil.test@api.test/", b"http://api.test@evil.test/", b"http://api.test:80@evil.test/",
    b"http://api.test#@evil.test/", b"http://api.test/#x", b"http://api.test\\@evil.test/", b"http://api.test/\\x",
    b"http://api.test\\/", b"http://api.test%00.evil.test/", b"http://api%2etest/", b"http://api.test:443:80/",
    b"http://api.test:/", b"http://api.test:0/", b"http://api.test:65536/", b"http://api.test:+80/",
    b"http://api.test:80a/", b"http://api.test:080/", b"http://api.test:4294967376/", b"http://[::1/", b"http://::1/",
    b"http://[::1%25lo]/", b"http://[::1].evil.test/", b"http://127.1/", b"http://0x7f.1/", b"http://2130706433/",
    b"http://0177.0.0.1/", b"http://.api.test/", b"http://api..test/", b"http://api.test../", b"http://*.test/",
    b"http://api,test/", b"http://api.test;x/", b"http://'api.test'/", b"http://b\xc3\xbccher.test/",
    b"http://api.test/\xc3\xbc", b"http://api.test/\x7f", b"http://\xef\xbd\x81.test/", b"http://api\xe3\x80\x82test/",
    b"http://\xe2\x84\xaa.test/", b"http://ap\xc2\xadi.test/",
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_an_odd_request_target_is_refused(target: bytes) -> None:
    refused(b"GET " + target + b" HTTP/1.1\r\nHost: api.test\r\n\r\n")
    refused(b"GET " + target + b" HTTP/1.0\r\n\r\n")


CONNECT_TARGETS = [
    b"api.test", b"api.test:", b"api.test:443abc", b"api.test:+443", b"api.test:443:80", b"api.test:0443",
    b"api.test:443/", b"api.test:443/x", b"api.test:443?x", b"api.test:443#x", b"api.test/x", b"http://api.test:443",
    b"http://api.test/", b"user@api.test:443", b":443", b"*:443", b"/:443", b"api.test:4294967739", b"api.test:65979",
    b"[::1]", b"::1:443", b"[::1]443", b"[::1%lo]:443", b"[127.0.0.1]:443", b"127.1:443", b"0:443",
    b"api.test,evil.test:443", b"api.test\\x:443", b"api%2etest:443", b"api.test:443,80", b"api.test:-1",
    b"api.test:\xd9\xa4", b"*",
]  # fmt: skip


@pytest.mark.parametrize("target", CONNECT_TARGETS)
def test_an_odd_connect_target_is_refused(target: bytes) -> None:
    refused(b"CONNECT " + target + b" HTTP/1.1\r\nHost: api.test:443\r\n\r\n")
    refused(b"CONNECT " + target + b" HTTP/1.0\r\n\r\n")


LINES = [
    b"GET http://api.test/", b"GET http://api.test/ HTTP/2.0", b"GET http://api.test/ HTTP/0.9",
    b"GET http://api.test/ HTTP/1.2", b"GET http://api.test/ HTTP/1.10", b"GET http://api.test/ HTTP/1.",
    b"GET http://api.test/ HTTP/11", b"GET http://api.test/ http/1.1", b"GET http://api.test/ HTTP/1.1 ",
    b"GET  http://api.test/ HTTP/1.1", b" GET http://api.test/ HTTP/1.1", b"GET\thttp://api.test/ HTTP/1.1",
    b"GET http://api.test/\tHTTP/1.1", b"GET http://api.test/ x HTTP/1.1", b"GET http://api.test/ HTTP/1.1\x00",
    b"G\x00ET http://api.test/ HTTP/1.1", b"GET http://api.test/\x00 HTTP/1.1", b"G(T http://api.test/ HTTP/1.1",
    b"connect api.test:443 HTTP/1.1", b"Connect api.test:443 HTTP/1.1", b"PRI * HTTP/2.0",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2", b"G" * 33 + b" http://api.test/ HTTP/1.1", b"GET http://api.test/ HTTPS/1.1",
    b"GET http://api.test/ HTTP/-1.1", b"GET http://api.test/ HTTP/1,1", b"GET", b"GET http://api.test/ ICY/1.1",
    b'"GET" http://api.test/ HTTP/1.1',
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_an_odd_request_line_is_refused(line: bytes) -> None:
    assert refused(line + b"\r\nHost: api.test\r\n\r\n").reason is Reason.BAD_REQUEST


FIELDS = [
    b"Host: api.test", b"host: evil.test", b"HOST:", b"X : y", b"X\t: y", b" X: y", b"\tX: y", b"X", b": y",
    b"X\x00: y", b"X: y\x00z", b"X: a\x01", b"X: a\x7f", b"X: a\x0b", b"X: a\x1b", b"X\xc3\xbc: y", b"X@: y",
    b"X(y): z", b"X: a\r", b"X: a\rb", b"X: a\nEvil: b", b"X: a\n", b"Content-Length: 1\r\nContent-Length: 1",
    b"Content-Length: 1\r\nContent-Length: 2", b"Content-Length: 1, 1", b"Content-Length: +1", b"Content-Length: -1",
    b"Content-Length: 0x1", b"Content-Length: 1_0", b"Content-Length: 1 1", b"Content-Length: 1.0", b"Content-Length:",
    b"Content-Length: \xd9\xa1", b"Content-Length: " + b"9" * 19, b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: gzip", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: chunked;q=1",
    b'Transfer-Encoding: "chunked"', b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: ,chunked", b"Transfer-Encoding:", b"Transfer-Encoding: chunk",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\r\n : chunked", b"X: y\r\n Transfer-Encoding: chunked", b"X: y\r\n\tfolded", b"Expect: 200-ok",
    b"Expect: 100-continue, x", b"Expect: 100-continue\r\nExpect: 100-continue", b"Connection: host",
    b"Connection: close, Content-Length", b"Connection: transfer-encoding", b"Connection: a b", b"Connection: @",
    b"Proxy-Connection: Host", b"Connection: \x80",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_an_odd_field_is_refused(field: bytes) -> None:
    refused(POST + field + b"\r\n\r\n")


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"evil.test",
        b"api.test:81",
        b"api.test, evil.test",
        b"api.test evil.test",
        b"user@api.test",
        b"http://api.test",
    ],
)
def test_a_host_that_is_not_the_target_is_refused(host: bytes) -> None:
    refused(b"GET http://api.test/ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
    refused(b"GET http://api.test/ HTTP/1.0\r\nHost: " + host + b"\r\n\r\n")


@pytest.mark.parametrize("host", [b"evil.test:443", b"api.test:81", b"evil.test", b""])
def test_a_host_that_is_not_the_connect_target_is_refused(host: bytes) -> None:
    refused(b"CONNECT api.test:443 HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")


def test_http_1_1_needs_a_host() -> None:
    refused(b"GET http://api.test/ HTTP/1.1\r\n\r\n")
    refused(b"CONNECT api.test:443 HTTP/1.1\r\n\r\n")
    refused(b"GET / HTTP/1.1\r\n\r\n", inside=True)
    refused(b"GET / HTTP/1.0\r\n\r\n", inside=True)


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_connect_has_no_body(framing: bytes) -> None:
    refused(CONNECT + framing + b"\r\n\r\n")


def test_a_coding_in_http_1_0_is_refused() -> None:
    refused(b"POST http://api.test/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [b"GET http://api.test/ HTTP/1.1", b"CONNECT api.test:80 HTTP/1.1", b"GET * HTTP/1.1", b"GET x HTTP/1.1",
     b"OPTIONS http://api.test/ HTTP/1.1", b"GET /#x HTTP/1.1", b"GET /\\x HTTP/1.1"],
)  # fmt: skip
def test_inside_a_connection_only_a_path_is_taken(line: bytes) -> None:
    refused(line + b"\r\nHost: api.test\r\n\r\n", inside=True)


@pytest.mark.parametrize(
    "beginning",
    [b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n", b"\x05\x01\x00", b"\r\n\r\n", b"\n", b"\rx", b"\x00", b" GET", b"GET\x00",
     b"GET http://x\n", b"GET http://x\ry", b"\x80", b"GET http://x/ HTTP/1.1\r\nA: b\nC",
     b"G" * 33, b"{", b"\xef\xbb\xbfGET "],
)  # fmt: skip
def test_what_can_never_be_a_head_is_refused_before_it_is_complete(beginning: bytes) -> None:
    assert refused(beginning).reason is Reason.BAD_REQUEST


# --- sizes


@pytest.mark.parametrize(
    "data",
    [
        b"GET http://api.test/" + b"x" * MAX_LINE + b" HTTP/1.1\r\nHost: api.test\r\n\r\n",
        GET + b"X: " + b"x" * MAX_LINE + b"\r\n\r\n",
        GET + b"X: y\r\n" * MAX_HEADERS + b"\r\n",
        GET + (b"X: " + b"x" * 16_000 + b"\r\n") * 5 + b"\r\n",
        GET + (b"X: " + b"x" * 16_000 + b"\r\n") * 5,
        b"GET http://api.test/" + b"x" * MAX_LINE,
        GET + b"X" * (MAX_LINE + 2),
    ],
)
def test_what_is_too_large_is_refused(data: bytes) -> None:
    assert refused(data).reason is Reason.TOO_LARGE


def test_a_large_head_within_the_bounds_is_read() -> None:
    fields = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 15_000) for n in range(4))
    assert len(read(GET + fields + b"\r\n").headers) == 5
    assert len(read(GET + b"X: y\r\n" * (MAX_HEADERS - 1) + b"\r\n").headers) == MAX_HEADERS
    assert len(GET + fields) < MAX_HEAD


# --- every split


WHOLE = [
    (GET + b"X-Y: z\r\n\r\nrest", False),
    (b"\r\n" + GET + b"\r\n", False),
    (CONNECT + b"\r\n\x16\x03\x01", False),
    (POST + b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n0\r\n\r\n", False),
    (INSIDE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", True),
]


@pytest.mark.parametrize(("data", "inside"), WHOLE)
def test_a_head_is_incomplete_up_to_its_last_byte_and_the_same_after(data: bytes, inside: bool) -> None:
    whole = read(data, inside=inside)
    for cut in range(len(data) + 1):
        for kind in (bytes, bytearray):
            part = parse_head(kind(data[:cut]), inside=inside)
            assert part == (whole if cut >= whole.size else None)


@pytest.mark.parametrize("field", FIELDS)
def test_a_bad_head_is_refused_at_the_latest_when_complete(field: bytes) -> None:
    data = POST + field + b"\r\n\r\n"
    seen = False
    for cut in range(len(data)):
        try:
            parse_head(data[:cut])
        except BadRequest:
            seen = True
        else:
            assert not seen, "refused, and later taken for incomplete"


# --- what the head says of connection and body


@pytest.mark.parametrize(
    ("data", "framing", "length"),
    [
        (GET + b"\r\n", BodyFraming.NONE, 0),
        (POST + b"Content-Length: 0\r\n\r\n", BodyFraming.NONE, 0),
        (POST + b"Content-Length: 00012\r\n\r\n", BodyFraming.LENGTH, 12),
        (POST + b"content-length:\t12\t\r\n\r\n", BodyFraming.LENGTH, 12),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", BodyFraming.CHUNKED, 0),
        (GET + b"Content-Length: 5\r\n\r\n", BodyFraming.LENGTH, 5),
    ],
)
def test_a_body_is_framed_by_one_plain_field(data: bytes, framing: BodyFraming, length: int) -> None:
    head = read(data)
    assert (head.framing, head.length) == (framing, length)


@pytest.mark.parametrize(
    ("version", "fields", "keep"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: x, Close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.1", b"Proxy-Connection: close\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Proxy-Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: ,, x ,\r\n", True),
    ],
)
def test_keep_alive_follows_version_and_connection(version: bytes, fields: bytes, keep: bool) -> None:
    data = b"GET http://api.test/ HTTP/" + version + b"\r\nHost: api.test\r\n" + fields + b"\r\n"
    assert read(data).keep_alive is keep


def test_expect_is_known_in_http_1_1_only() -> None:
    assert read(POST + b"Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n").expect_continue
    head = read(b"POST http://api.test/ HTTP/1.0\r\nExpect: x\r\n\r\n")
    assert not head.expect_continue
    assert b"Expect" not in serialise(head)


UPGRADES = [
    (b"GET", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", True),
    (b"GET", b"Connection: keep-alive, upgrade\r\nUpgrade: WebSocket\r\n", True),
    (b"GET", b"Upgrade: websocket\r\n", False),
    (b"GET", b"Connection: upgrade\r\n", False),
    (b"GET", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", False),
    (b"GET", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", False),
    (b"GET", b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n", False),
    (b"GET", b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n", False),
    (b"POST", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", False),
    (b"GET", b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 4\r\n", False),
]


@pytest.mark.parametrize(("method", "fields", "upgrade"), UPGRADES)
def test_only_a_websocket_upgrade_goes_on(method: bytes, fields: bytes, upgrade: bool) -> None:
    head = read(method + b" http://api.test/ HTTP/1.1\r\nHost: api.test\r\n" + fields + b"\r\n")
    assert head.upgrade is upgrade
    out = serialise(head)
    assert (b"Upgrade: websocket" in out) is upgrade
    assert (b"Connection: Upgrade" in out) is upgrade
    assert b"h2c" not in out
    assert b"HTTP2-Settings" not in out


# --- out again


def test_what_goes_out_is_built_from_the_parts() -> None:
    data = (
        b"POST HTTP://API.test:80/a?b HTTP/1.1\r\nUser-Agent:  x/1 \r\nhost: Api.Test\r\n"
        b"Proxy-Authorization: Basic c2VjcmV0\r\n"
        b"Proxy-Connection: keep-alive\r\nProxy-Anything: x\r\nConnection: keep-alive, X-Drop\r\nKeep-Alive: timeout=5\r\n"
        b"TE: trailers\r\nTrailer: X-T\r\nX-Drop: 1\r\nx-drop: 2\r\nX-Keep: a, b\r\nX-Keep: c\r\nCookie: s=\xff\r\n"
        b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nX-Empty:\r\n\r\n"
    )
    assert serialise(read(data)) == (
        b"POST /a?b HTTP/1.1\r\nHost: api.test\r\nUser-Agent: x/1\r\nTrailer: X-T\r\nX-Keep: a, b\r\nX-Keep: c\r\n"
        b"Cookie: s=\xff\r\nExpect: 100-continue\r\nX-Empty: \r\nTransfer-Encoding: chunked\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (b"http://api.test:8080/", b"api.test:8080"),
        (b"http://[2001:db8::1]/", b"[2001:db8::1]"),
        (b"http://[2001:db8::1]:81/", b"[2001:db8::1]:81"),
    ],
)
def test_host_goes_out_canonical(url: bytes, host: bytes) -> None:
    out = serialise(read(b"GET " + url + b" HTTP/1.0\r\n\r\n"))
    assert out.split(b"\r\n")[1] == b"Host: " + host


@pytest.mark.parametrize("length", [b"0", b"007"])
def test_a_length_goes_out_as_a_plain_number(length: bytes) -> None:
    out = serialise(read(POST + b"Content-Length: " + length + b"\r\n\r\n"))
    assert b"Content-Length: %d\r\n" % int(length) in out
    assert out.count(b"ontent-") == 1


def test_nothing_is_added_that_tells_of_the_proxy() -> None:
    out = serialise(read(GET + b"\r\n")).lower()
    for word in (b"via", b"forwarded", b"proxy", b"stockade", b"connection"):
        assert word not in out


# --- second opinions


TOKENS = st.text("abcXYZ-_!1", min_size=1, max_size=8).map(str.encode)
VALUES = st.text('ab ,;="\t/é', max_size=12).map(lambda text: text.encode("latin-1"))
HEADS = st.builds(
    lambda method, path, fields: (
        b"%b http://api.test/%b HTTP/1.1\r\nHost: api.test\r\n%b\r\n"
        % (method, path, b"".join(b"X-%b: %b\r\n" % field for field in fields))
    ),
    st.sampled_from([b"GET", b"POST", b"OPTIONS"]),
    st.text("ab/?&=%.~", max_size=10).map(str.encode),
    st.lists(st.tuples(TOKENS, VALUES), max_size=5),
)


@given(HEADS)
def test_h11_reads_a_good_head_and_what_we_make_of_it_alike(data: bytes) -> None:
    head = read(data)
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(serialise(head))
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert event.target == head.path
    assert event.method.decode() == head.method
    ours = [(name.lower(), value) for name, value in head.headers if name.lower() != b"host"]
    assert [(bytes(n), bytes(v)) for n, v in event.headers if n != b"host"] == ours


MUTATIONS = st.tuples(
    st.integers(0, 200),
    st.integers(0, 3),
    st.sampled_from([b"", b"\x00", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"\x80", b"0"]),
)


@given(st.sampled_from([data for data, _ in WHOLE]), st.lists(MUTATIONS, min_size=1, max_size=4), st.booleans())
def test_a_damaged_head_is_refused_incomplete_or_goes_out_as_something_h11_takes(
    data: bytes, mutations: list[tuple[int, int, bytes]], inside: bool
) -> None:
    for position, cut, put in mutations:
        data = data[:position] + put + data[position + cut :]
    check_whatever(data, inside)


@given(st.binary(max_size=200), st.booleans())
@example(b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", False)
def test_any_bytes_are_refused_incomplete_or_a_head(data: bytes, inside: bool) -> None:
    check_whatever(data, inside)


def check_whatever(data: bytes, inside: bool) -> None:
    try:
        head = parse_head(data, inside=inside)
    except BadRequest:
        return
    if head is None or head.form is Form.AUTHORITY:
        return
    out = serialise(head)
    assert out.endswith(b"\r\n\r\n")
    assert out.count(b"\r\n\r\n") == 1
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(out)
    event = theirs.next_event()
    assert isinstance(event, h11.Request)
    assert [value for name, value in event.headers if name == b"host"] == [out.split(b"\r\n")[1][6:]]
    again = read(out, inside=True)
    assert again.target == head.target
    assert (again.framing, again.length, again.path) == (head.framing, head.length, head.path)
    assert serialise(again) == out

"""HTTP/1 request heads, read so strictly that no other parser can read them differently.

Theory of operation
-------------------
A proxy that decides by what it parsed, and forwards what it received, is only as good as the agreement between two
parsers. So nothing received is forwarded: `parse_head` takes a head apart and refuses whatever leaves room for a second
reading (RFC 9112 leaves much of that to the recipient's choice), and `serialise` builds a new one from the parts. What is
refused: bare CR or LF, NUL and other controls, obs-fold, blanks around a field name, a second Host, Content-Length or
Transfer-Encoding, both of the latter together, a transfer coding other than `chunked`, a Host that names another host,
userinfo, fragments, any version but 1.0 and 1.1.

Two places, two forms. To the proxy a request is `CONNECT HOST:PORT` or in absolute form (RFC 9112 3.2.2, 3.2.3); inside a
tunnel, or on a direct connection, it is in origin form (or `OPTIONS *`) and its Host is the target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias

from egress.http.bad_request import MAX_LINE, NOT_HTTP_1, WITHOUT_CONNECT, BadRequest, describe, is_http_1, skipped
from egress.http.fields import HOP_BY_HOP, REWRITTEN
from egress.http.head_end import END, MAX_HEAD, BadHead, HeadScan, HeadTooLarge, count_lines
from egress.http.host_field import is_another, named_host
from egress.policy.names import Target, parse_authority
from observability.events import Reason

Header: TypeAlias = tuple[bytes, bytes]

MAX_HEADERS: Final = 128
MAX_LENGTH_DIGITS: Final = 18
KEPT_BLOCK: Final = 2048
"""Longer field blocks are read each time."""
KEPT_BLOCKS: Final = 256
HTTP_PORT: Final = 80

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_PLAIN: Final = re.compile(rb"([A-Z]{1,32}) http://([0-9A-Za-z.:-]+)(/[!\"$-\[\]-~]*) HTTP/1\.1")
"""The common absolute form, which needs no second look."""
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e\x80-\xff]*)")
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HTTP_URL: Final = re.compile(rb"http://([^/?]*)(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*):")
_DIGITS: Final = re.compile(rb"[0-9]+")
_FIRST_BYTES: Final = re.compile(rb"(?:\r\n)?[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}(?: |\Z)|(?:\r\n?)?\Z")

_DROPPED: Final = HOP_BY_HOP | REWRITTEN
_NEVER_NAMED: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Fields that a Connection header must not name: removing them would change what the message is."""


class Form(StrEnum):
    """The form of a request target."""

    ABSOLUTE = "absolute"
    AUTHORITY = "authority"
    ORIGIN = "origin"


class BodyFraming(StrEnum):
    """How the end of a request's body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"


@dataclass(slots=True, kw_only=True)
class RequestHead:
    """A request's head in parts. Treat it as immutable; it is not frozen because one is made for every request."""

    method: str
    form: Form
    target: Target
    path: bytes
    """Path and query as they go to the server; `*` for `OPTIONS *`; empty for CONNECT."""
    version: tuple[int, int]
    """(1, 0) or (1, 1)."""
    headers: tuple[Header, ...]
    """Every field as received, values without surrounding blanks."""
    framing: BodyFraming
    length: int
    """Content-Length, 0 for any other framing."""
    keep_alive: bool
    """Whether the caller wants to send another request on this connection."""
    expect_continue: bool
    upgrade: bool
    """The caller asks for a WebSocket (RFC 6455 4.1); any other upgrade is dropped."""
    connection: frozenset[bytes]
    """The options of Connection and Proxy-Connection, in lower case."""
    size: int
    """Bytes of input that the head took; the body begins there."""


def parse_head(data: bytes | bytearray, *, inside: bool = False) -> RequestHead | None:
    """The request head at the start of `data`, None while it is incomplete. Raises BadRequest.

    `inside`: origin form, as inside a CONNECT tunnel or on a direct connection; otherwise what a proxy is sent. One empty
    line before the request line is skipped (RFC 9112 2.2). What can never become a head is refused before it is complete.
    """
    head = parse_whole_head(data, inside=inside)
    return HeadReader(inside=inside).read(data) if head is None else head


def parse_whole_head(data: bytes | bytearray, *, inside: bool = False) -> RequestHead | None:
    """As `parse_head`, None for any head that is incomplete, even one that would be refused. Raises BadRequest."""
    start = skipped(data)
    end = data.find(END, start, start + MAX_HEAD)
    try:
        return None if end < 0 else _parse(data, start, end, inside)
    except BadRequest as error:
        describe(error, data)
        raise


class HeadReader:
    """A request head that comes in pieces: each byte is looked at once, however they are cut."""

    __slots__ = ("inside", "line_seen", "scan")

    def __init__(self, *, inside: bool = False) -> None:
        self.inside = inside
        self.line_seen = False
        """The first line is complete, and one of HTTP/1."""
        self.scan = HeadScan("request head", max_fields=MAX_HEADERS, max_line=MAX_LINE)

    def read(self, data: bytes | bytearray) -> RequestHead | None:
        """As `parse_head`; `data` begins with what it was the last time."""
        try:
            return self._read(data)
        except BadRequest as error:
            describe(error, data)
            raise

    def _read(self, data: bytes | bytearray) -> RequestHead | None:
        start = skipped(data)
        end = self.scan.find(data, start)
        if end >= 0:
            return _parse(data, start, end, self.inside)
        if _FIRST_BYTES.match(data) is None:
            raise _bad("this is not an HTTP/1 request")
        try:
            self.scan.check(data, start)
        except BadHead as error:
            large = isinstance(error, HeadTooLarge)
            raise BadRequest(Reason.TOO_LARGE if large else Reason.BAD_REQUEST, str(error)) from None
        if self.scan.lines and not self.line_seen:
            # Another protocol may send one line and wait for an answer: it is refused now, and not after a deadline.
            if not is_http_1(bytes(data[start : data.find(b"\r\n", start)])):
                raise _bad(NOT_HTTP_1)
            self.line_seen = True
        return None


def _parse(data: bytes | bytearray, start: int, end: int, inside: bool) -> RequestHead:
    first, _, lines = bytes(data[start:end]).partition(b"\r\n")
    _check_line_ends(first)
    fields = _kept_fields(lines) if len(lines) <= KEPT_BLOCK else _read_fields(lines)
    return _assemble(first, fields, inside, end + 4)


def _bad(detail: str) -> BadRequest:
    return BadRequest(Reason.BAD_REQUEST, detail)


def _check_line_ends(head: bytes) -> None:
    try:
        count_lines(head, "request head")
    except BadHead as error:
        raise _bad(str(error)) from None


@dataclass(frozen=True, slots=True)
class Fields:
    """The field lines of a head, read."""

    headers: tuple[Header, ...]
    named: dict[bytes, list[bytes]]
    """Values by name in lower case. Treat it as immutable."""
    options: frozenset[bytes]
    """The options of Connection and Proxy-Connection, in lower case."""


def _read_fields(block: bytes) -> Fields:
    _check_line_ends(block)
    lines = block.split(b"\r\n") if block else []
    if len(lines) > MAX_HEADERS:
        raise BadRequest(Reason.TOO_LARGE, f"more than {MAX_HEADERS} header fields")
    headers = tuple([_field(line) for line in lines])
    named = _by_name(headers)
    return Fields(headers, named, _options(named))


_kept_fields = lru_cache(KEPT_BLOCKS)(_read_fields)
"""Programs send the same fields with each request, and the same lines read the same way."""


def _field(line: bytes) -> Header:
    if len(line) > MAX_LINE:
        raise BadRequest(Reason.TOO_LARGE, f"a header field is longer than {MAX_LINE} bytes")
    match = _FIELD.fullmatch(line)
    if match is None:
        if line[:1] in (b" ", b"\t"):
            raise _bad("a folded header line (obs-fold)")
        raise _bad("a header field with a malformed name, or a control character in its value")
    return match[1], match[2].rstrip(b"\t ")


def _assemble(first: bytes, fields: Fields, inside: bool, size: int) -> RequestHead:
    named, options = fields.named, fields.options
    plain = None if inside or len(first) > MAX_LINE else _PLAIN.fullmatch(first)
    if plain is not None and plain[1] != b"CONNECT":
        method, version, form, path = plain[1].decode("ascii"), (1, 1), Form.ABSOLUTE, plain[3]
        target = _authority(plain[2], HTTP_PORT)
        if named.get(b"host") != [plain[2]]:
            _check_host(form, target, version, named)
    else:
        method, raw_target, version = _request_line(first)
        form, target, path = _target(method, raw_target, named, inside)
        _check_host(form, target, version, named)
    framing, length = _framing(method, version, named)
    upgrade = (
        bool(options)
        and method == "GET"
        and version == (1, 1)
        and framing is BodyFraming.NONE
        and _wants_websocket(named, options)
    )
    return RequestHead(
        method=method,
        form=form,
        target=target,
        path=path,
        version=version,
        headers=fields.headers,
        framing=framing,
        length=length,
        keep_alive=b"close" not in options and (version == (1, 1) or b"keep-alive" in options),
        expect_continue=_expects_continue(version, named),
        upgrade=upgrade,
        connection=options,
        size=size,
    )


def _request_line(line: bytes) -> tuple[str, bytes, tuple[int, int]]:
    if len(line) > MAX_LINE:
        raise BadRequest(Reason.TOO_LARGE, f"the request line is longer than {MAX_LINE} bytes")
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise _bad(NOT_HTTP_1)
    version = (int(match[3]), int(match[4]))
    if version not in ((1, 0), (1, 1)):
        raise _bad("the version is not HTTP/1.0 or HTTP/1.1")
    method = match[1].decode("ascii")
    if method != "CONNECT" and method.upper() == "CONNECT":
        raise _bad("CONNECT is written in capitals (methods are case-sensitive)")
    return method, match[2], version


def _by_name(headers: tuple[Header, ...]) -> dict[bytes, list[bytes]]:
    named: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        named.setdefault(name.lower(), []).append(value)
    return named


# --- the target


def _target(method: str, raw: bytes, named: dict[bytes, list[bytes]], inside: bool) -> tuple[Form, Target, bytes]:
    if b"#" in raw or b"\\" in raw:
        raise _bad("the request target has a fragment or a backslash")
    if inside:
        return _origin_form(method, raw, named)
    if method == "CONNECT":
        return Form.AUTHORITY, _authority(raw, None), b""
    return _absolute_form(method, raw, named)


def _origin_form(method: str, raw: bytes, named: dict[bytes, list[bytes]]) -> tuple[Form, Target, bytes]:
    if method == "CONNECT":
        raise _bad("CONNECT inside a connection")
    if not raw.startswith(b"/") and not (raw == b"*" and method == "OPTIONS"):
        raise _bad("inside a connection the request target must be a path")
    return Form.ORIGIN, _authority(_one(named, b"host"), HTTP_PORT), raw


def _absolute_form(method: str, raw: bytes, named: dict[bytes, list[bytes]]) -> tuple[Form, Target, bytes]:
    match = _HTTP_URL.fullmatch(raw)
    if match is None:
        if raw[:1] in (b"/", b"*"):
            detail = "this is a proxy: the request target must be a URL such as http://api.github.com/"
            raise BadRequest(Reason.BAD_REQUEST, detail, named_host(named.get(b"host", [])))
        scheme = _SCHEME.match(raw)
        if scheme is not None and scheme[1].lower() in (b"https", b"wss"):
            raise BadRequest(Reason.HTTPS_WITHOUT_CONNECT, WITHOUT_CONNECT)
        raise _bad("the request target is not an http:// URL")
    target = _authority(match[1], HTTP_PORT)
    rest = match[2]
    if not rest.startswith(b"/"):
        # RFC 9112 3.2.4: OPTIONS for a whole server becomes `*`.
        rest = b"*" if method == "OPTIONS" and not rest else b"/" + rest
    return Form.ABSOLUTE, target, rest


def _authority(raw: bytes, default_port: int | None) -> Target:
    try:
        return parse_authority(raw, default_port)
    except ValueError as error:
        raise _bad(f"the host: {error}" if default_port else f"the request target: {error}") from None


def _one(named: dict[bytes, list[bytes]], name: bytes) -> bytes:
    values = named.get(name, [])
    if len(values) != 1:
        raise _bad(f"{'no' if not values else 'more than one'} {name.decode('ascii')} field")
    return values[0]


def _check_host(form: Form, target: Target, version: tuple[int, int], named: dict[bytes, list[bytes]]) -> None:
    """Host must be there (in HTTP/1.1), once, and must not name another host."""
    if form is Form.ORIGIN or (version == (1, 0) and b"host" not in named):
        return
    if is_another(_authority(_one(named, b"host"), target.port), target):
        raise _bad("the Host field is not the host of the request target")


# --- the body's framing, the connection


def _framing(method: str, version: tuple[int, int], named: dict[bytes, list[bytes]]) -> tuple[BodyFraming, int]:
    """RFC 9112 6.1 to 6.3, without the lenient readings."""
    coded, sized = b"transfer-encoding" in named, b"content-length" in named
    if coded and sized:
        raise _bad("Content-Length and Transfer-Encoding together")
    if not coded and not sized:
        return BodyFraming.NONE, 0
    if coded:
        if _one(named, b"transfer-encoding") != b"chunked" or version == (1, 0):
            raise _bad("a Transfer-Encoding other than chunked, or one in HTTP/1.0")
        length = -1
    else:
        length = _length(_one(named, b"content-length"))
    if method == "CONNECT" and length:
        raise _bad("CONNECT has no body")
    if coded:
        return BodyFraming.CHUNKED, 0
    return (BodyFraming.LENGTH if length else BodyFraming.NONE), length


def _length(value: bytes) -> int:
    if not _DIGITS.fullmatch(value) or len(value) > MAX_LENGTH_DIGITS:
        raise _bad("Content-Length is not one plain number")
    return int(value)


def _options(named: dict[bytes, list[bytes]]) -> frozenset[bytes]:
    """The options of Connection (and of Proxy-Connection, which old clients send to proxies instead)."""
    found: set[bytes] = set()
    for value in (*named.get(b"connection", ()), *named.get(b"proxy-connection", ())):
        for part in value.split(b","):
            option = part.strip(b"\t ").lower()
            if option and not _TOKEN.fullmatch(option):
                raise _bad("the Connection field is not a list of names")
            found.add(option)
    found.discard(b"")
    if found & _NEVER_NAMED:
        raise _bad("the Connection field names a field that frames or routes the message")
    return frozenset(found)


def _wants_websocket(named: dict[bytes, list[bytes]], options: frozenset[bytes]) -> bool:
    return b"upgrade" in options and [value.lower() for value in named.get(b"upgrade", ())] == [b"websocket"]


def _expects_continue(version: tuple[int, int], named: dict[bytes, list[bytes]]) -> bool:
    values = named.get(b"expect")
    if values is None or version == (1, 0):
        return False
    if len(values) != 1 or values[0].lower() != b"100-continue":
        raise _bad("an Expect other than 100-continue")
    return True


# --- out again


def serialise(head: RequestHead) -> bytes:
    """The head for the server in origin form, built from the parsed parts alone.

    Left out: hop-by-hop fields and those that Connection names (RFC 9110 7.6.1), every `Proxy-…` field, `Upgrade` unless it
    is for a WebSocket, Expect in HTTP/1.0. Nothing is added that reveals the proxy (no Via, no X-Forwarded-For). Host is the
    canonical target. The version stays the caller's, so that a server never sends an HTTP/1.0 caller chunks.
    """
    onward = _kept_onward if head.size <= KEPT_BLOCK else _onward
    parts = [
        head.method.encode("ascii"),
        b" ",
        head.path,
        b" HTTP/1.1\r\nHost: " if head.version[1] else b" HTTP/1.0\r\nHost: ",
        _host_field(head.target.host, head.target.port),
        b"\r\n",
        onward(head.headers, head.connection, head.expect_continue),
        _framing_field(head),
    ]
    if head.upgrade:
        parts.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def _onward(headers: tuple[Header, ...], connection: frozenset[bytes], expect_continue: bool) -> bytes:
    """The field lines that go on to the server as they are."""
    dropped = _DROPPED | connection
    parts = []
    for name, value in headers:
        lowered = name.lower()
        if lowered in dropped or lowered.startswith(b"proxy-") or (lowered == b"expect" and not expect_continue):
            if lowered == b"content-length" and not int(value):
                parts.append(b"Content-Length: 0\r\n")  # any other length is said with the framing
            continue
        parts.append(b"%b: %b\r\n" % (name, value))
    return b"".join(parts)


_kept_onward = lru_cache(KEPT_BLOCKS)(_onward)


@lru_cache(KEPT_BLOCKS)
def _host_field(host: str, port: int) -> bytes:
    name = f"[{host}]" if ":" in host else host
    return (name if port == HTTP_PORT else f"{name}:{port}").encode("ascii")


def _framing_field(head: RequestHead) -> bytes:
    if head.framing is BodyFraming.CHUNKED:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Content-Length: %d\r\n" % head.length if head.framing is BodyFraming.LENGTH else b""

"""Response heads and message bodies of HTTP/1, strictly: pure bytes in, values out.

`httptools` frames bodies well, but it does not say where in the input a message ended (so nothing could follow a
chunked request on the same connection), cannot be told that a response answers HEAD, and accepts chunk extensions
of any size and lists of transfer codings. A proxy that stands between two parsers needs the stricter reading, and
bodies are framed again on the way out, so that the other side sees our framing and never the sender's.
RFC 9112 6 and 7.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from egress.http.fields import HOP_BY_HOP

MAX_LINE = 16 * 1024
MAX_CHUNK_LINE = 1024
MAX_TRAILERS = 8 * 1024
MAX_HEADERS = 256
PARTS_AT_ONCE = 64
"""Lines of a chunked body that are read in one turn of the loop: a megabyte of chunks of one byte takes a second."""

STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t -~\x80-\xff]*")
GOOD_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})\r\n")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t -~\x80-\xff]*)?")

END_TO_END = frozenset({b"content-length", b"cache-control", b"content-type", b"date", b"content-encoding"})
"""Fields that naming them in Connection does not remove (RFC 9110 7.6.1)."""
OURS = b"x-stockade-"
"""Only the proxy itself sends fields with this prefix."""
NO_OPTIONS: frozenset[bytes] = frozenset()
FRAMING_FIELDS = frozenset({b"content-length", b"transfer-encoding", b"connection"})
KEPT_LINE, KEPT_LINES = 256, 1024
NO_TRAILER = frozenset({b"content-length", b"host", b"trailer", b"authorization", b"set-cookie", b"content-encoding"})
"""Fields that must not stand in a trailer section (RFC 9110 6.5.1), besides the hop-by-hop ones."""


class BadFraming(ValueError):
    """Raised for a message that cannot be framed without doubt; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A header field."""

    lowered: bytes
    """Its name, in lower case."""
    value: bytes
    """Without surrounding blanks."""
    line: bytes
    """As it is sent on."""
    frames: bool
    """It says how the message ends, or what ends with this connection."""
    passes: bool
    """It may go on, unless Connection names it."""


@dataclass(slots=True, kw_only=True)
class ResponseHead:
    """A response's head as the upstream sent it. Treat it as immutable."""

    status: int
    phrase: bytes
    minor: int
    fields: list[Field]
    length: int | None
    """Content-Length."""
    chunked: bool
    keep_alive: bool
    connection: frozenset[bytes]
    """The options of Connection, lower case: fields that end here too."""


def parse_response_head(data: bytes) -> ResponseHead:
    """Parse a head without its final empty line. Raises BadFraming."""
    first, *lines = data.split(b"\r\n")
    minor, status, phrase = kept_status(first) if len(first) <= KEPT_LINE else read_status(first)
    if len(lines) > MAX_HEADERS:
        raise BadFraming(f"more than {MAX_HEADERS} header fields")
    fields = [kept_field(line) if len(line) <= KEPT_LINE else read_field(line) for line in lines]
    length: int | None = None
    chunked = False
    options: set[bytes] = set()
    for field in fields:
        if not field.frames:
            continue
        value = field.value
        match field.lowered:
            case b"content-length":
                if length is not None or not value.isdigit() or len(value) > 18:
                    raise BadFraming("Content-Length is repeated or is not a number")
                length = int(value)
            case b"transfer-encoding":
                if chunked or value.lower() != b"chunked" or minor == 0:
                    raise BadFraming("Transfer-Encoding is not exactly chunked")
                chunked = True
            case b"connection":
                options.update(option.strip().lower() for option in value.split(b","))
    if chunked and length is not None:
        raise BadFraming("both Content-Length and Transfer-Encoding")
    keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    return ResponseHead(
        status=status,
        phrase=phrase,
        minor=minor,
        fields=fields,
        length=length,
        chunked=chunked,
        keep_alive=keep_alive,
        connection=frozenset(options) if options else NO_OPTIONS,
    )


def read_status(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status and phrase of a status line. Raises BadFraming."""
    status = STATUS_LINE.fullmatch(line)
    if status is None:
        raise BadFraming("the status line is not HTTP/1")
    return int(status[1]), int(status[2]), status[3] or b""


kept_status = lru_cache(KEPT_LINES)(read_status)


def read_field(line: bytes) -> Field:
    """One header field. Raises BadFraming as `parse_field`."""
    name, value = parse_field(line)
    lowered = name.lower()
    return Field(
        lowered=lowered,
        value=value,
        line=b"%b: %b\r\n" % (name, value),
        frames=lowered in FRAMING_FIELDS,
        passes=lowered not in HOP_BY_HOP and not lowered.startswith(OURS),
    )


kept_field = lru_cache(KEPT_LINES)(read_field)
"""Servers send the same fields with each response; the same line reads the same way."""


def parse_field(line: bytes) -> tuple[bytes, bytes]:
    """One header field. Raises BadFraming: obs-fold, no colon, blanks before it, control characters."""
    name, colon, value = line.partition(b":")
    if not colon or NAME.fullmatch(name) is None:
        raise BadFraming("a header field has no proper name")
    value = value.strip(b" \t")
    if VALUE.fullmatch(value) is None:
        raise BadFraming("a header field has a control character")
    return name, value


class Framing(Enum):
    """How the end of a body is known."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()


def response_framing(head: ResponseHead, method: str) -> Framing:
    """RFC 9112 6.3."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return Framing.NONE
    if head.chunked:
        return Framing.CHUNKED
    return Framing.CLOSE if head.length is None else Framing.LENGTH


def serialise_response(head: ResponseHead, framing: Framing, *, close: bool, upgrade: bytes | None = None) -> bytes:
    """The head for the caller: without hop-by-hop fields and anything that only the proxy may say.

    `close` tells the caller that the connection ends after this response. An HTTP/1.0 upstream is passed on as
    HTTP/1.1, as RFC 9110 2.5 asks of a proxy.
    """
    parts = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.phrase)]
    if head.connection:
        dropped = head.connection - END_TO_END
        parts += [field.line for field in head.fields if field.passes and field.lowered not in dropped]
    else:
        parts += [field.line for field in head.fields if field.passes]
    if framing is Framing.CHUNKED:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if upgrade is not None:
        parts.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade)
    elif close:
        parts.append(b"Connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


class ChunkState(Enum):
    """Where a chunked body is."""

    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkedBody:
    """Takes a chunked body off a buffer, piece by piece."""

    __slots__ = ("left", "looked", "state", "stopped", "trailer_bytes", "trailers")

    def __init__(self) -> None:
        self.state = ChunkState.SIZE
        self.stopped = False
        """`decode` left usable bytes in the buffer: other connections have their turn first."""
        self.left = 0
        self.looked = 0
        """Bytes of the line that is not complete in which its end was looked for already."""
        self.trailers: list[tuple[bytes, bytes]] = []
        self.trailer_bytes = 0

    @property
    def done(self) -> bool:
        return self.state is ChunkState.DONE

    def decode(self, buffer: bytearray) -> bytes:
        """The content that `buffer` completes; what was used is removed from it, what follows the body stays.

        Raises BadFraming.
        """
        pieces: list[bytes] = []
        position = 0
        self.stopped = False
        for _ in range(PARTS_AT_ONCE):
            if self.state is ChunkState.DONE:
                break
            if self.state is ChunkState.DATA:
                piece = bytes(buffer[position : position + self.left])
                position += len(piece)
                self.left -= len(piece)
                pieces.append(piece)
                if self.left:
                    break
                self.state = ChunkState.DATA_END
            if self.state is ChunkState.DATA_END and buffer.startswith(b"\r\n", position):
                position += 2
                self.looked = 0
                self.state = ChunkState.SIZE
            if self.state is ChunkState.SIZE and (size := GOOD_SIZE.match(buffer, position)):
                self._begin(int(size[1], 16))
                self.looked = 0
                position = size.end()
                continue
            line_end = self._line(buffer, position)
            if line_end < 0:
                break
            self._take_line(bytes(buffer[position:line_end]))
            self.looked = 0
            position = line_end + 2
        else:
            self.stopped = self.state is not ChunkState.DONE
        del buffer[:position]
        return b"".join(pieces)

    def _line(self, buffer: bytearray, position: int) -> int:
        """Where the line at `position` ends, below 0 when it is not complete."""
        most = MAX_LINE if self.state is ChunkState.TRAILER else MAX_CHUNK_LINE
        fresh = position + self.looked
        end = buffer.find(b"\r\n", max(position, fresh - 1), position + most + 2)
        if end < 0 and len(buffer) - position > most:
            raise BadFraming("a line of the chunked body is too long")
        if (
            end < 0
            and self.state is ChunkState.DATA_END
            and bytes(buffer[position : position + 1]) not in (b"", b"\r")
        ):
            raise BadFraming("a chunk is longer than it says")
        if buffer.find(b"\n", fresh, end if end >= 0 else position + most) >= 0:
            raise BadFraming("a bare line feed in the chunked body")
        self.looked = len(buffer) - position
        return end

    def _begin(self, size: int) -> None:
        self.left = size
        self.state = ChunkState.DATA if size else ChunkState.TRAILER

    def _take_line(self, line: bytes) -> None:
        if self.state is ChunkState.DATA_END:
            if line:
                raise BadFraming("a chunk is longer than it says")
            self.state = ChunkState.SIZE
        elif self.state is ChunkState.SIZE:
            size = CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise BadFraming("a chunk size is not a hexadecimal number")
            self._begin(int(size[1], 16))
        elif line:
            self.trailer_bytes += len(line)
            if self.trailer_bytes > MAX_TRAILERS or len(self.trailers) >= MAX_HEADERS:
                raise BadFraming("the trailer section is too large")
            self.trailers.append(parse_field(line))
        else:
            self.state = ChunkState.DONE


def encode_chunk(data: bytes) -> bytes:
    """One chunk; nothing for no data (an empty chunk would end the body)."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode_last_chunk(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The end of a chunked body, with the trailer fields that may travel on."""
    kept = [
        b"%b: %b\r\n" % (name, value)
        for name, value in trailers
        if name.lower() not in NO_TRAILER and name.lower() not in HOP_BY_HOP and not name.lower().startswith(OURS)
    ]
    return b"".join([b"0\r\n", *kept, b"\r\n"])

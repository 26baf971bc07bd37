"""The server name in a TLS ClientHello, read without any TLS library.

`ssl` cannot look at a handshake without answering it, so this reads the few structures itself (RFC 8446 4.1.2, RFC 6066 3)
and refuses what a server could read differently: duplicate extensions, several names, lengths that do not add up. The
handshake message may be spread over many records and is bounded; post-quantum key shares make it a few KiB, rarely more
than one record. An Encrypted Client Hello is taken for what it shows, its outer name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from egress.names import parse_host

MAX_HELLO: Final = 64 * 1024
"""Of input, record headers included."""
MAX_RECORD: Final = 1 << 14
MAX_RECORDS: Final = 256
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ECH: Final = 0xFE0D


class NotTLS(ValueError):
    """Raised for bytes that are no well-formed ClientHello; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHello:
    """What a ClientHello shows to everyone on the way."""

    server_name: str | None
    """Canonical (lower case, no trailing dot), None when there is none."""
    ech: bool = False
    """It carries an encrypted inner hello; `server_name` is the outer one."""
    size: int = 0
    """Bytes of input up to the end of the hello."""


def parse_client_hello(buffer: bytes | bytearray) -> ClientHello | None:
    """The ClientHello at the start of `buffer`, None while it is incomplete. Raises NotTLS as early as can be told."""
    found = _handshake_message(buffer)
    if found is None:
        return None
    message, size = found
    return _parse_body(message, size)


def _handshake_message(buffer: bytes | bytearray) -> tuple[bytes, int] | None:
    """The first handshake message out of its records, without its header, and where it ends in `buffer`."""
    message = bytearray()
    position = records = 0
    while position < len(buffer):
        piece = _record(buffer, position)
        records += 1
        if records > MAX_RECORDS:
            raise NotTLS("the ClientHello is spread over too many records")
        if piece is None:
            break
        message += piece
        position += 5 + len(piece)
        if (wanted := _message_length(message)) is None or len(message) < wanted:
            continue
        if len(message) > wanted:
            raise NotTLS("something follows the ClientHello in its record")
        return bytes(message[4:]), position
    if len(buffer) >= MAX_HELLO:
        raise NotTLS(f"the ClientHello is larger than {MAX_HELLO} bytes")
    return None


def _record(buffer: bytes | bytearray, position: int) -> bytes | None:
    """The fragment of the record at `position`, None while incomplete."""
    header = buffer[position : position + 5]
    if header[0] != _HANDSHAKE:
        raise NotTLS("not a TLS handshake" if position == 0 else "another record inside the ClientHello")
    if len(header) > 1 and header[1] != 3:
        raise NotTLS("not a TLS version")
    if len(header) < 5:
        return None
    length = int.from_bytes(header[3:5], "big")
    if not 0 < length <= MAX_RECORD:
        raise NotTLS("a TLS record of a wrong size")
    fragment = bytes(buffer[position + 5 : position + 5 + length])
    if position == 0 and fragment and fragment[0] != _CLIENT_HELLO:
        raise NotTLS("not a ClientHello")
    return fragment if len(fragment) == length else None


def _message_length(message: bytearray) -> int | None:
    if len(message) < 4:
        return None
    length = int.from_bytes(message[1:4], "big")
    if length > MAX_HELLO:
        raise NotTLS(f"the ClientHello is larger than {MAX_HELLO} bytes")
    return 4 + length


class _Cursor:
    """Takes length-prefixed pieces off bytes. Raises NotTLS when they do not add up."""

    __slots__ = ("data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        piece = self.data[self.position : self.position + count]
        if len(piece) != count:
            raise NotTLS("a length in the ClientHello is wrong")
        self.position += count
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, least: int = 0, most: int = 0xFFFF) -> bytes:
        length = self.number(size)
        if not least <= length <= most:
            raise NotTLS("a length in the ClientHello is wrong")
        return self.take(length)

    def at_end(self) -> bool:
        return self.position == len(self.data)


def _parse_body(message: bytes, size: int) -> ClientHello:
    cursor = _Cursor(message)
    if cursor.take(2)[0] != 3:
        raise NotTLS("not a TLS version")
    cursor.take(32)  # random
    cursor.vector(1, most=32)  # session id
    if len(cursor.vector(2, least=2)) % 2:
        raise NotTLS("a cipher suite of one byte")
    cursor.vector(1, least=1)  # compression methods
    if cursor.at_end():
        return ClientHello(server_name=None, size=size)
    extensions = _extensions(cursor.vector(2))
    if not cursor.at_end():
        raise NotTLS("something follows the extensions")
    name = extensions.get(_SERVER_NAME)
    return ClientHello(server_name=None if name is None else _server_name(name), ech=_ECH in extensions, size=size)


def _extensions(data: bytes) -> dict[int, bytes]:
    cursor = _Cursor(data)
    found: dict[int, bytes] = {}
    while not cursor.at_end():
        kind = cursor.number(2)
        if kind in found:
            raise NotTLS("an extension is there twice")
        found[kind] = cursor.vector(2)
    return found


def _server_name(data: bytes) -> str:
    """The one host_name of a server_name extension (RFC 6066 3)."""
    outer = _Cursor(data)
    names = _Cursor(outer.vector(2, least=1))
    if not outer.at_end() or names.number(1) != 0:
        raise NotTLS("a malformed server_name extension")
    raw = names.vector(2, least=1)
    if not names.at_end():
        raise NotTLS("more than one server name")
    try:
        return parse_host(raw.decode("ascii"))[0]
    except ValueError:
        raise NotTLS("the server name is not a host name") from None

"""The server name in a TLS ClientHello, read without any TLS library.

`ssl` cannot look at a handshake without answering it, so this reads the few structures itself (RFC 8446 4.1.2, RFC 6066 3)
and refuses what a server could read differently: duplicate extensions, several names, lengths that do not add up. The
handshake message may be spread over many records and is bounded; post-quantum key shares make it a few KiB, rarely more
than one record. An Encrypted Client Hello is taken for what it shows, its outer name.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from egress.policy.names import parse_host

MAX_HELLO: Final = 64 * 1024
"""Of input, record headers included."""
MAX_RECORD: Final = 1 << 14
MAX_RECORDS: Final = 256
MAX_EXTENSIONS: Final = 256
"""A real one has some twenty; ten thousand took longer to read than a neighbour should wait."""
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ECH: Final = 0xFE0D
_NUMBER: Final = struct.Struct("!H").unpack_from
_TWO_NUMBERS: Final = struct.Struct("!HH").unpack_from


class NotTLS(ValueError):
    """Raised for bytes that are no well-formed ClientHello; the text says why."""


@dataclass(slots=True, kw_only=True)
class ClientHello:
    """What a ClientHello shows in clear text. Treat it as immutable."""

    server_name: str | None
    """Canonical (lower case, no trailing dot), None when there is none."""
    ech: bool = False
    """It carries an encrypted inner hello; `server_name` is the outer one."""
    size: int = 0
    """Bytes of input up to the end of the hello."""


def parse_client_hello(buffer: bytes | bytearray) -> ClientHello | None:
    """The ClientHello at the start of `buffer`, None while it is incomplete. Raises NotTLS as early as can be told."""
    return HelloReader().read(buffer)


class HelloReader:
    """A ClientHello that comes in pieces: each record is taken once, however the bytes are cut."""

    __slots__ = ("message", "position", "records")

    def __init__(self) -> None:
        self.message = bytearray()
        """What the complete records carried."""
        self.position = 0
        """Where the first incomplete one begins."""
        self.records = 0

    def read(self, buffer: bytes | bytearray) -> ClientHello | None:
        """As `parse_client_hello`; `buffer` begins with what it was the last time."""
        message = self.message
        while self.position < len(buffer):
            if self.records == MAX_RECORDS:
                raise NotTLS("the ClientHello is spread over too many records")
            piece = _record(buffer, self.position)
            if piece is None:
                break
            self.records += 1
            self.position += 5 + len(piece)
            message += piece
            if (wanted := _message_length(message)) is None or len(message) < wanted:
                continue
            if len(message) > wanted:
                raise NotTLS("something follows the ClientHello in its record")
            return _parse_body(bytes(message[4:]), self.position)
        if len(buffer) >= MAX_HELLO:
            raise NotTLS(f"the ClientHello is larger than {MAX_HELLO} bytes")
        return None


def _record(buffer: bytes | bytearray, position: int) -> bytes | None:
    """The fragment of the record at `position`, None while incomplete: then only its header is looked at."""
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
    begins = position + 5
    if position == 0 and len(buffer) > begins and buffer[begins] != _CLIENT_HELLO:
        raise NotTLS("not a ClientHello")
    return bytes(buffer[begins : begins + length]) if len(buffer) >= begins + length else None


def _message_length(message: bytearray) -> int | None:
    if len(message) < 4:
        return None
    length = int.from_bytes(message[1:4], "big")
    if length > MAX_HELLO:
        raise NotTLS(f"the ClientHello is larger than {MAX_HELLO} bytes")
    return 4 + length


def _parse_body(message: bytes, size: int) -> ClientHello:
    """RFC 8446 4.1.2: every length must add up to exactly the end."""
    total = len(message)
    try:
        session, at = message[34], 35  # after version and random
        (suites,) = _NUMBER(message, at + session)
        at += session + 2 + suites
        compressions = message[at]
        at += 1 + compressions
        if message[0] != 3:
            raise NotTLS("not a TLS version")
        if session > 32 or not suites or suites % 2 or not compressions:
            raise NotTLS("a length in the ClientHello is wrong")
        if at == total:
            return ClientHello(server_name=None, size=size)
        (length,) = _NUMBER(message, at)
    except (IndexError, struct.error):
        raise NotTLS("a length in the ClientHello is wrong") from None
    if at + 2 + length != total:
        raise NotTLS("the extensions do not end where the ClientHello does")
    name, ech = _extensions(message, at + 2)
    return ClientHello(server_name=None if name is None else _server_name(name), ech=ech, size=size)


def _extensions(message: bytes, at: int) -> tuple[bytes | None, bool]:
    """The server_name extension, and whether one for ECH is there; they reach to the end of the message."""
    name: bytes | None = None
    kinds: list[int] = []
    total = len(message)
    try:
        while at < total:
            kind, length = _TWO_NUMBERS(message, at)
            at += 4 + length
            kinds.append(kind)
            if kind == _SERVER_NAME:
                name = message[at - length : at]
            if len(kinds) > MAX_EXTENSIONS:
                raise NotTLS("too many extensions")
    except struct.error:
        raise NotTLS("a length in the ClientHello is wrong") from None
    if at != total:
        raise NotTLS("a length in the ClientHello is wrong")
    if len(set(kinds)) != len(kinds):
        raise NotTLS("an extension is there twice")
    return name, _ECH in kinds


def _server_name(data: bytes) -> str:
    """The one host_name of a server_name extension (RFC 6066 3)."""
    if len(data) < 6 or _NUMBER(data, 0)[0] != len(data) - 2 or data[2] != 0:
        raise NotTLS("a malformed server_name extension")
    (length,) = _NUMBER(data, 3)
    if not length or length > len(data) - 5:
        raise NotTLS("a length in the ClientHello is wrong")
    if length < len(data) - 5:
        raise NotTLS("more than one server name")
    try:
        return parse_host(data[5:].decode("ascii"))[0]
    except ValueError:
        raise NotTLS("the server name is not a host name") from None

"""What the first bytes of a connection show: a TLS server name, plain HTTP, or neither."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from egress.connection.sni import HelloReader, NotTLS
from egress.net.stream import Stream
from egress.policy.decide import Target
from observability.events import Reason

TLS_HANDSHAKE = 0x16
METHOD = re.compile(rb"[A-Z][A-Z\-]{0,31} ")
METHOD_START = re.compile(rb"[A-Z][A-Z\-]{0,31}")


class Kind(Enum):
    """What it looks like."""

    TLS = auto()
    HTTP = auto()
    OTHER = auto()
    NOTHING = auto()
    """The caller ended or waited too long before it could be told."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The kind, and the name that a ClientHello carries."""

    kind: Kind
    server_name: str | None = None


def look(buffer: bytearray, hello: HelloReader | None = None) -> Shown | None:
    """What `buffer` shows so far, None when it takes more bytes to tell.

    Who looks again as more comes passes the same `hello` each time, so that what was read of it is not read again.
    """
    if not buffer:
        return None
    if buffer[0] == TLS_HANDSHAKE:
        try:
            found = (hello or HelloReader()).read(buffer)
        except NotTLS:
            return Shown(Kind.OTHER)
        return None if found is None else Shown(Kind.TLS, found.server_name)
    if METHOD.match(buffer):
        return Shown(Kind.HTTP)
    return None if METHOD_START.fullmatch(buffer) else Shown(Kind.OTHER)


async def first_bytes(stream: Stream) -> Shown:
    """Wait until the first bytes show something; they stay in the stream's buffer. The owner bounds the wait."""
    hello = HelloReader()
    while (shown := look(stream.buffer, hello)) is None:
        if not await stream.more():
            return Shown(Kind.NOTHING)
    return shown


def objection(target: Target, shown: Shown) -> tuple[Reason, str] | None:
    """Why a connection to `target` that begins like this may not go on; None when it may.

    Plain HTTP is not judged here: each of its requests is.
    """
    match shown.kind:
        case Kind.HTTP:
            return None
        case Kind.TLS:
            return objection_to_name(target, shown.server_name)
        case Kind.OTHER:
            return Reason.NOT_TLS, "neither TLS nor plain HTTP; a rule with `protocol: tcp` allows other protocols"
        case Kind.NOTHING:
            return Reason.HEAD_TIMEOUT, "no complete first message came"


def objection_to_name(target: Target, name: str | None) -> tuple[Reason, str] | None:
    if name is None:
        if target.ip is not None:
            return None
        return Reason.SNI_MISSING, f"the ClientHello names no server; {target.host} was asked for"
    if name == target.host:
        return None
    return Reason.SNI_MISMATCH, f"the ClientHello names {name[:200]}; {target.host} was asked for"

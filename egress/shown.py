"""What the first bytes of a connection show: a TLS server name, plain HTTP, or neither."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from egress.policy import Target
from egress.sni import NotTLS, parse_client_hello
from egress.stream import Stream
from observability.events import Reason

TLS_HANDSHAKE = 0x16
RECORD_HEADER = 5
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


def look(buffer: bytearray) -> Shown | None:
    """What `buffer` shows so far, None when it takes more bytes to tell."""
    if not buffer:
        return None
    if buffer[0] == TLS_HANDSHAKE:
        try:
            hello = parse_client_hello(buffer)
        except NotTLS:
            return Shown(Kind.OTHER)
        return None if hello is None else Shown(Kind.TLS, hello.server_name)
    if METHOD.match(buffer):
        return Shown(Kind.HTTP)
    return None if METHOD_START.fullmatch(buffer) else Shown(Kind.OTHER)


async def first_bytes(stream: Stream) -> Shown:
    """Wait until the first bytes show something; they stay in the stream's buffer. The owner bounds the wait."""
    shown = look(stream.buffer)
    while shown is None:
        enough = next_look(stream.buffer)
        while len(stream.buffer) < enough:
            if not await stream.more():
                return Shown(Kind.NOTHING)
        shown = look(stream.buffer)
    return shown


def next_look(buffer: bytearray) -> int:
    """The length of `buffer` at which it is worth another look.

    For TLS that is where a record, or the next one's header, is complete: a hello sent byte by byte is not parsed for
    each of them.
    """
    if not buffer or buffer[0] != TLS_HANDSHAKE:
        return len(buffer) + 1
    end = 0
    while end + RECORD_HEADER <= len(buffer):
        end += RECORD_HEADER + int.from_bytes(buffer[end + 3 : end + 5], "big")
    return end if end > len(buffer) else end + RECORD_HEADER


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

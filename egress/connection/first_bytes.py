"""What a connection begins with: a TLS ClientHello and its server name, plain HTTP, or neither."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from egress.connection.sni import HelloReader, NotTLS
from egress.policy.decide import Target
from observability.events import Reason

TLS_HANDSHAKE = 0x16
METHOD = re.compile(rb"[A-Z][A-Z\-]{0,31} ")
METHOD_START = re.compile(rb"[A-Z][A-Z\-]{0,31}")


class Kind(Enum):
    """What the bytes look like."""

    TLS = auto()
    HTTP = auto()
    OTHER = auto()
    NOTHING = auto()
    """The client ended, or waited too long, before it had sent enough."""


@dataclass(frozen=True, slots=True)
class FirstBytes:
    """The kind, and the server name of a ClientHello."""

    kind: Kind
    server_name: str | None = None


def sniff(buffer: bytearray, hello: HelloReader | None = None) -> FirstBytes | None:
    """What `buffer` begins with, None while that needs more bytes.

    A caller that tries again as more bytes come passes the same `hello` each time, so that each byte is read once.
    """
    if not buffer:
        return None
    if buffer[0] == TLS_HANDSHAKE:
        try:
            found = (hello or HelloReader()).read(buffer)
        except NotTLS:
            return FirstBytes(Kind.OTHER)
        return None if found is None else FirstBytes(Kind.TLS, found.server_name)
    if METHOD.match(buffer):
        return FirstBytes(Kind.HTTP)
    return None if METHOD_START.fullmatch(buffer) else FirstBytes(Kind.OTHER)


def mismatch(target: Target, first: FirstBytes) -> tuple[Reason, str] | None:
    """Why a connection to `target` must not begin like this; None when it may.

    Plain HTTP is not checked here: each of its requests is.
    """
    match first.kind:
        case Kind.HTTP:
            return None
        case Kind.TLS:
            return name_mismatch(target, first.server_name)
        case Kind.OTHER:
            return Reason.NOT_TLS, f"neither TLS nor plain HTTP; the rule {tcp_rule(target)} carries other protocols"
        case Kind.NOTHING:
            return (
                Reason.HEAD_TIMEOUT,
                f"no complete first message came; where the server speaks first, it needs {tcp_rule(target)}",
            )


def tcp_rule(target: Target) -> str:
    """The rule that carries any protocol to that target."""
    return f"{{host: {target.host}, port: {target.port}, protocol: tcp}}"


def name_mismatch(target: Target, name: str | None) -> tuple[Reason, str] | None:
    if name is None:
        if target.ip is not None:
            return None
        return Reason.SNI_MISSING, f"the ClientHello names no server; {target.host} was asked for"
    if name == target.host:
        return None
    return Reason.SNI_MISMATCH, f"the ClientHello names {name[:200]}; {target.host} was asked for"

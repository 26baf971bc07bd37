"""DNS messages, as far as a server needs them that says NXDOMAIN to nearly everything (RFC 1035, RFC 6891).

A query is one question and at most one EDNS record. What is anything else is refused with the code that says why (RFC 1035
4.1.1), without repeating what was not understood; a response, or what is too short to have a header, gets no answer at all,
because two that answer each other's answers would do so for ever.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from egress.policy.names import parse_name

MAX_QUERY: Final = 1024
PLAIN_SIZE: Final = 512
EDNS_SIZE: Final = 1232
_PLAIN: Final = re.compile(rb"[A-Za-z0-9_-]+")
_HEADER: Final = struct.Struct("!HHHHHH")
_IN: Final = 1
_OPT: Final = 41
_FORMERR: Final = 1
_NXDOMAIN: Final = 3
_NOTIMP: Final = 4
_REFUSED: Final = 5
_NAMES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 35: "NAPTR", 43: "DS",
    48: "DNSKEY", 64: "SVCB", 65: "HTTPS", 252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}  # fmt: skip
_QR, _OPCODE, _AA, _TC, _RD, _RA = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080


class MalformedQuery(ValueError):
    """Raised for bytes that are not a query we would answer; the text says why."""

    def __init__(self, detail: str, rcode: int | None = _FORMERR) -> None:
        super().__init__(detail)
        self.rcode = rcode
        """What to answer; None for what gets no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question."""

    id: int
    name: str
    """Lower case, without the final dot; bytes that no host name has are written as `\\DDD` (RFC 4343)."""
    qtype: str
    """`A`, `AAAA`, …, or `TYPE999` (RFC 3597)."""
    is_host: bool
    """The name is a plain host name: only such a name can be allowed."""
    recursion_desired: bool
    question: bytes
    """As received, for the answer to repeat (its spelling may be a nonce)."""
    edns: bool
    max_size: int
    """Bytes that the asker takes in a datagram."""

    @property
    def qtype_name(self) -> str:
        """Same as `qtype`."""
        return self.qtype


def parse_query(data: bytes) -> Query:
    """The query in a datagram (or, without its length prefix, in a stream). Raises MalformedQuery."""
    if len(data) < _HEADER.size:
        raise MalformedQuery("too short for a header", None)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        raise MalformedQuery("a response", None)
    if flags & _OPCODE:
        raise MalformedQuery("not a standard query", _NOTIMP)
    if len(data) > MAX_QUERY or flags & _TC:
        raise MalformedQuery("too large for a query")
    if questions != 1 or answers or authorities or additional > 1:
        raise MalformedQuery("not exactly one question")
    labels, end = _labels(data, _HEADER.size)
    if len(data) < end + 4:
        raise MalformedQuery("the question is cut off")
    kind, dns_class = struct.unpack_from("!HH", data, end)
    if dns_class != _IN:
        raise MalformedQuery("not a question of class IN", _REFUSED)
    size = _edns_size(data, end + 4, additional)
    name = ".".join(map(_text, labels))
    return Query(
        id=number,
        name=name,
        qtype=_NAMES.get(kind, f"TYPE{kind}"),
        is_host=_is_host(name),
        recursion_desired=bool(flags & _RD),
        question=bytes(data[_HEADER.size : end + 4]),
        edns=size is not None,
        max_size=PLAIN_SIZE if size is None else max(PLAIN_SIZE, min(size, EDNS_SIZE)),
    )


def _labels(data: bytes, position: int) -> tuple[list[bytes], int]:
    """The labels of an uncompressed name, and where it ends."""
    labels: list[bytes] = []
    start = position
    while True:
        if position >= len(data):
            raise MalformedQuery("the name is cut off")
        length = data[position]
        position += 1
        if length == 0:
            return labels, position
        if length > 63:
            raise MalformedQuery("a compressed or overlong label in the question")
        label = data[position : position + length]
        position += length
        if len(label) != length or position - start > 254:
            raise MalformedQuery("the name is cut off or too long")
        labels.append(bytes(label))


def _edns_size(data: bytes, position: int, additional: int) -> int | None:
    """The size that an OPT record offers; None without one. Everything must be used up."""
    if not additional:
        if position != len(data):
            raise MalformedQuery("something follows the question")
        return None
    if len(data) < position + 11 or data[position] != 0:
        raise MalformedQuery("the additional record is cut off, or no OPT")
    kind, size, _, length = struct.unpack_from("!HHIH", data, position + 1)
    if kind != _OPT or len(data) != position + 11 + length:
        raise MalformedQuery("the additional record is no OPT, or something follows it")
    return int(size)


def _text(label: bytes) -> str:
    """The label; what no host name has is escaped, since people paste names from our messages into shells."""
    if _PLAIN.fullmatch(label):
        return label.decode("ascii").lower()
    return "".join(chr(b).lower() if _PLAIN.fullmatch(bytes((b,))) else f"\\{b:03d}" for b in label)


def _is_host(name: str) -> bool:
    try:
        return parse_name(name) == name
    except ValueError:
        return False


def build_response(
    query: Query, *, nxdomain: bool = False, addresses: Sequence[IPv4Address | IPv6Address] = (), ttl: int = 30
) -> bytes:
    """The answer to `query`: NXDOMAIN, or those of `addresses` that are of the type asked for (none is a good answer too).

    Addresses that do not fit into what the asker takes are left out. `ttl` in seconds.
    """
    wanted = {"A": IPv4Address, "AAAA": IPv6Address}.get(query.qtype)
    given = [] if nxdomain or wanted is None else [a for a in addresses if isinstance(a, wanted)]
    kind = 1 if query.qtype == "A" else 28
    # 0xC00C: a pointer to the question's name.
    records = [struct.pack("!HHHIH", 0xC00C, kind, _IN, ttl, len(a.packed)) + a.packed for a in given]
    opt = b"\0" + struct.pack("!HHIH", _OPT, EDNS_SIZE, 0, 0) if query.edns else b""
    room = query.max_size - _HEADER.size - len(query.question) - len(opt)
    if records:
        records = records[: room // len(records[0])]
    flags = _QR | _RA | (_RD if query.recursion_desired else 0) | (_NXDOMAIN if nxdomain else 0)
    header = _HEADER.pack(query.id, flags, 1, len(records), 0, 1 if opt else 0)
    return b"".join((header, query.question, *records, opt))


def build_refusal(data: bytes, rcode: int) -> bytes:
    """The answer to what `parse_query` refused with that code: a header alone."""
    number, flags = struct.unpack_from("!HH", data)
    return _HEADER.pack(number, _QR | _RA | (flags & (_OPCODE | _RD)) | rcode, 0, 0, 0, 0)

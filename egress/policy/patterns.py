"""What the text of an `allowed_hosts` entry means: a name, a suffix, a wildcard, an address, a range."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Final

from egress.policy.addresses import plain
from egress.policy.names import canonical_host, suggest_host
from egress.policy.rules import HOST_NAME, Net, PortRange, RuleKind

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ANY_IPV4: Final = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+)){0,3}", re.ASCII)


def split_port(text: str) -> tuple[str, str | None]:
    """(host, port) of `HOST:PORT`, `[IPV6]:PORT` or `CIDR:PORT`; the port is None where there is none.

    A bare IPv6 address and a URL have none.
    """
    if _URL.match(text) or any(map(str.isspace, text)):
        return text, None
    if text.startswith("["):
        host, bracket, port = text.partition("]:")
        return (host + "]", port) if bracket else (text, None)
    if text.count(":") != 1:
        return text, None
    host, _, port = text.partition(":")
    return (text, None) if "/" in port else (host, port)


def parse_pattern(text: str) -> tuple[RuleKind, str, Net | None]:
    """What a rule's host means: kind, canonical name (without prefix), network. Raises ValueError with advice."""
    if text == "*":
        return RuleKind.ANY, "", None
    if (network := parse_network(text)) is not None:
        return RuleKind.ADDRESS, "", network
    if text.startswith("*."):
        return RuleKind.SUBDOMAIN, _domain(text, text[2:]), None
    if text.startswith("."):
        return RuleKind.SUFFIX, _domain(text, text[1:]), None
    if "*" in text and not _URL.match(text):
        raise ValueError(_wildcard_advice(text))
    name = canonical_host(text)
    return (RuleKind.HOST if name == HOST_NAME else RuleKind.EXACT), name, None


def _wildcard_advice(text: str) -> str:
    tail = suggest_host(text).rpartition("*")[2].strip(".-")
    if "." not in tail:
        tail = "example.com"
    return (
        f"{text!r} has a * in it, which stands only alone or as the first label: "
        f"write *.{tail} (all below {tail}) or .{tail} ({tail} too)"
    )


def _domain(text: str, rest: str) -> str:
    bare = rest.lstrip("*.")
    if "*" in rest or rest.startswith("."):
        if "*" in bare:
            raise ValueError(_wildcard_advice(text))
        raise ValueError(f"{text!r} has more than one * or dot at its front: write .{bare} or *.{bare}")
    if parse_network(rest) is not None:
        raise ValueError(f"{text!r}: an address has no subdomains; write {rest}, or a range such as 10.0.0.0/8")
    name = canonical_host(rest)
    if name == HOST_NAME:
        raise ValueError(f"{text!r}: the host has no subdomains; write {HOST_NAME}:3000")
    return name


def parse_network(text: str) -> Net | None:
    """The network of an address or CIDR range; None when the text is no address at all. Raises ValueError with advice."""
    bare = text
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        bare = inner + rest if bracket else text
    if not bare.isascii():
        return None
    address, slash, length = bare.partition("/")
    try:
        parsed = plain(ipaddress.ip_address(address))
    except ValueError:
        if _ANY_IPV4.fullmatch(address) and not address.endswith("."):
            raise ValueError(_spelling_advice(text, address)) from None
        return None
    if "%" in address:
        raise ValueError(f"{text!r}: a zone (%…) is not taken; write {address.partition('%')[0]}")
    return _range(text, parsed, length) if slash else ipaddress.ip_network(parsed)


def _spelling_advice(text: str, address: str) -> str:
    try:
        meant = socket.inet_ntoa(socket.inet_aton(address))
    except OSError:
        return f"{text!r} is not an IPv4 address: write four numbers from 0 to 255, such as 10.0.0.5"
    return f"{text!r} is an unusual spelling of an IPv4 address; write {meant} if that is what you mean"


def _range(text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: str) -> Net:
    if not length.isdecimal():
        raise ValueError(f"{text!r} is not an address range: write {address}/24, or {address} for the one address")
    try:
        meant = ipaddress.ip_network(f"{address}/{length}", strict=False)
    except ValueError:
        most = 32 if address.version == 4 else 128
        raise ValueError(f"{text!r}: the prefix length of IPv{address.version} goes from 0 to {most}") from None
    if meant.network_address != address:
        raise ValueError(
            f"{text!r} has bits set after its prefix: write {meant} for the range, or {address} for the one address"
        )
    return meant


def as_written(text: str, ports: Sequence[PortRange]) -> str:
    """The rule's name in events: its text, with the ports that stood beside it."""
    return f"{text}:{','.join(map(str, ports))}" if ports else text

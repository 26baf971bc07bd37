"""Host names, address literals and authorities: read strictly once, and canonical from then on.

Two readers with opposite manners. `parse_authority` reads what a backend sent: anything unusual is refused, because each
spelling that two parsers could read differently is a way around a policy. `canonical_host` reads what a person wrote in a
configuration: it understands IDNs and common slips, and its errors say what to write instead.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_HOST: Final = 253
KEPT: Final = 1024
"""Cached readings: the same text reads the same way. Only valid hosts are cached, so each is short."""
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBERISH: Final = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
_IPV6_CHARS: Final = re.compile(r"[0-9a-fA-F:.]+", re.ASCII)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a connection wants to go."""

    host: str
    """A canonical name (lower-case A-labels, no trailing dot), or the canonical text of an address."""
    ip: IP | None
    """Set when the caller named an address."""
    port: int

    @property
    def authority(self) -> str:
        """`HOST:PORT`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(KEPT)
def parse_authority(raw: bytes | str, default_port: int | None = None) -> Target:
    """The target of `HOST[:PORT]` as a backend sent it (RFC 3986 3.2, without userinfo).

    Raises ValueError with one sentence for anything but a plain LDH name, a dotted-quad IPv4 address or a bracketed IPv6
    address without zone, and a decimal port from 1 to 65535. Without `default_port` the port is required.
    """
    text = _ascii(raw)
    host, colon, port = _split(text)
    if colon or default_port is None:
        number = parse_port(port)
    else:
        number = default_port
    name, ip = parse_host(host)
    return Target(host=name, ip=ip, port=number)


def _ascii(raw: bytes | str) -> str:
    try:
        return raw.decode("ascii") if isinstance(raw, bytes) else raw.encode("ascii").decode("ascii")
    except UnicodeError:
        raise ValueError("the host has bytes outside ASCII; write an IDN as its xn-- form") from None


def _split(text: str) -> tuple[str, str, str]:
    if not text.startswith("["):
        return text.partition(":")
    host, bracket, rest = text.partition("]")
    if not bracket or (rest and not rest.startswith(":")):
        raise ValueError("an IPv6 address must stand in [ ] and be followed by :PORT or nothing")
    return host + "]", rest[:1], rest[1:]


def parse_port(text: str) -> int:
    """A decimal port, 1 to 65535, without sign, space or leading zero. Raises ValueError."""
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    return int(text)


@lru_cache(KEPT)
def parse_host(host: str) -> tuple[str, IP | None]:
    """Canonical host and, for a literal, its address. `[…]` marks IPv6. Raises ValueError."""
    if host.startswith("["):
        address = _ipv6(host[1:-1])
        return str(address), address
    if _IPV4.fullmatch(host):
        try:
            address4 = ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError("an IPv4 address in an unusual spelling") from None
        return str(address4), address4
    return parse_name(host), None


def _ipv6(text: str) -> ipaddress.IPv6Address:
    if not _IPV6_CHARS.fullmatch(text):
        raise ValueError("not an IPv6 address (a zone id is not taken)")
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("not an IPv6 address") from None


def parse_name(host: str) -> str:
    """A canonical DNS name: lower case, one trailing dot dropped. Raises ValueError for all but LDH and `_` labels."""
    name = host.lower().removesuffix(".")
    if not name or len(name) > MAX_HOST:
        raise ValueError("the host is empty or longer than 253 characters")
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError("not a plain DNS name (letters, digits, - and _; no - at an end; 63 a label)")
    if _NUMBERISH.fullmatch(labels[-1]):
        # WHATWG URL 3.5: a last label that is a number makes resolvers read the whole as an IPv4 address.
        raise ValueError("its last label is a number: an IPv4 address in an unusual spelling")
    return name


@lru_cache(KEPT)
def text_of(address: IP) -> str:
    """The canonical text of an address."""
    return str(address)


def canonical_host(text: str) -> str:
    """The canonical form of a host that a person wrote: a name (IDNA applied) or an address, without port or pattern.

    Raises ValueError whose text says what to write instead.
    """
    _refuse_slips(text)
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        return str(_config_ipv6(text, bare))
    try:
        name, _ = parse_host(to_ascii(bare))
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return name


def _refuse_slips(text: str) -> None:
    """Raise for what people paste where a host belongs."""
    if not text:
        raise ValueError("is empty; write a host such as api.github.com")
    if _SCHEME.match(text):
        raise ValueError(f"{text!r} is a URL; keep only the host: {suggest_host(text, keep_port=True)}")
    if re.search(r"[\s,;]", text):
        what = "a space" if re.search(r"\s", text) else "a comma"
        first = suggest_host(text)
        example = first if "." in first else "api.github.com"
        raise ValueError(f"{text!r} has {what} in it; write one host an entry, such as {example}")
    for mark, what in (("/", "a path"), ("?", "a query"), ("#", "a fragment"), ("@", "a user name")):
        if mark in text:
            raise ValueError(f"{text!r} has {what} in it; keep only the host: {suggest_host(text, keep_port=True)}")


def _config_ipv6(text: str, bare: str) -> ipaddress.IPv6Address:
    try:
        return _ipv6(bare)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; write [2001:db8::1], or HOST:PORT for a name with a port") from None


def to_ascii(name: str) -> str:
    """A name with IDNs as A-labels (UTS 46). Raises ValueError."""
    if name.isascii():
        return name
    import idna

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"not an internationalised host name ({error})") from None


def suggest_host(text: str, *, keep_port: bool = False) -> str:
    """The part of a URL or sentence that looks most like a host, for an error's advice."""
    rest = re.split(r"[/?#]", _SCHEME.sub("", text.strip()), maxsplit=1)[0].rpartition("@")[2]
    words = [word for word in re.split(r"[\s,;]+", rest) if word]
    if not words:
        return "api.github.com"
    return (words[0] if keep_port else re.sub(r":\d*$", "", words[0])).lower()

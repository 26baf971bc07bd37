"""Which Host and Origin headers a listener accepts, so that no web page reaches it by rebinding a name (DNS rebinding)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

LOOPBACK_NAMES: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_EVERY_ADDRESS: Final = frozenset({"0.0.0.0", "[::]", "::", "*"})  # noqa: S104  # compared, not listened on


def host_name(authority: str) -> str:
    """The host of a `Host` header without its port; `""` when it is malformed."""
    name, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority
    return name if port.isascii() and port.isdigit() else ""


def listening_name(listen: str) -> str:
    """The host of a listening address as a `Host` header names it; `""` for all addresses, which are no name."""
    host = listen.rpartition(":")[0].lower()
    return "" if host in _EVERY_ADDRESS else host


def is_served(authority: str, allowed: Collection[str]) -> bool:
    """Whether a `Host` header (in lower case) is a loopback name or allowed, as HOST (any port) or as HOST:PORT."""
    name = host_name(authority)
    return bool(name) and (name in LOOPBACK_NAMES or name in allowed or authority in allowed)


def origin_authority(origin: str) -> str:
    """The `HOST[:PORT]` of a web origin (in lower case); `""` for any other kind of origin."""
    scheme, _, authority = origin.partition("://")
    return authority if scheme in ("http", "https") else ""

"""The parent proxy that an operator names, and what goes through it."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from egress.policy.names import IP


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentProxy:
    """An upstream HTTP proxy that everything goes through, but what `no_proxy` names."""

    host: str
    port: int
    authorization: bytes | None = None
    """The value for Proxy-Authorization."""
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str, no_proxy: Sequence[str] = ()) -> ParentProxy:
        """From `http://[user:password@]host[:port]`. Raises ValueError, never with the password in it."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("an upstream proxy is written http://[USER:PASSWORD@]HOST[:PORT]")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(pair.encode())
        entries = tuple(entry.strip().lower() for entry in no_proxy if entry.strip())
        return cls(host=parts.hostname, port=parts.port or 3128, authorization=authorization, no_proxy=entries)

    def carries(self, host: str, port: int, ip: IP | None) -> bool:
        """Whether that target goes through the parent. `no_proxy` entries: name, .suffix, IP, CIDR, `*`, each
        with `:PORT` if need be, as curl and Go read them: `example.com` covers its subdomains."""
        return not any(no_proxy_entry_matches(entry, host, port, ip) for entry in self.no_proxy)


def no_proxy_entry_matches(entry: str, host: str, port: int, ip: IP | None) -> bool:
    """Whether one NO_PROXY entry covers the target."""
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        entry = name.strip("[]")
    if ip is not None:
        try:
            return ip in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    suffix = entry.removeprefix("*").removeprefix(".")
    return bool(suffix) and (host == suffix or host.endswith("." + suffix))

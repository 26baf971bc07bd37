"""Authentication: bearer tokens of `clients`, OAuth access tokens, and anonymous requests.

A token is compared by its SHA-256, with every client's, in constant time. Without a token a request is anonymous:
allowed from this machine while no client is configured (`auto`), always, or never.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Mapping
from typing import Final, Protocol

from gateway.mcp.call.principal import Principal
from registry.config import Config
from registry.model.fields import Anonymous

FORWARDED: Final = frozenset({"forwarded", "x-forwarded-for", "x-real-ip", "via"})
"""Headers that show that a reverse proxy passed the request on."""
HINT: Final = "Run `stockade connect` (or `stockade client add NAME`) for a token that this gateway knows."


class Denied(Exception):
    """Raised when a request is not admitted."""

    def __init__(self, status: int, error: str, description: str, *, scope: str = "") -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        """`invalid_token`, `insufficient_scope`, … (RFC 6750 3.1); empty when no token was sent."""
        self.description = description
        self.scope = scope

    def challenge(self, metadata_url: str | None) -> bytes:
        """The WWW-Authenticate header (RFC 6750 3, RFC 9728 5.1)."""
        parts = []
        if self.error:
            parts += [f'error="{self.error}"', f'error_description="{self.description}"']
        if self.scope:
            parts.append(f'scope="{self.scope}"')
        if metadata_url is not None:
            parts.append(f'resource_metadata="{metadata_url}"')
        return f"Bearer {', '.join(parts)}".strip().encode("latin-1", "replace")

    def body(self) -> bytes:
        """One line of JSON for a person who reads the response."""
        return json.dumps(
            {"error": self.error or "unauthorized", "error_description": self.description, "hint": HINT}
        ).encode()


class Verifier(Protocol):
    """Checks OAuth access tokens."""

    async def verify(self, token: str, path: str) -> Principal:
        """The principal of a token that is valid for the endpoint at `path`. Raises Denied."""
        ...


class Gate:
    """Admits requests."""

    def __init__(self, config: Config, verifier: Verifier | None) -> None:
        self.verifier = verifier
        self._tokens = [
            (settings.token_sha256.encode(), Principal(name))
            for name, settings in config.clients.items()
            if settings.token_sha256 is not None
        ]
        self._anonymous = config.gateway.anonymous
        self._open = not config.clients and verifier is None

    async def admit(self, headers: Mapping[str, str], address: str, path: str) -> Principal:
        """The principal behind a request. Raises Denied."""
        authorization = headers.get("authorization")
        if authorization is None:
            return self._anonymous_from(address, forwarded=not FORWARDED.isdisjoint(headers))
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Denied(401, "invalid_request", "Authorization must be Bearer TOKEN")
        known = self._by_token(token)
        if known is not None:
            return known
        if self.verifier is not None:
            return await self.verifier.verify(token, path)
        raise Denied(401, "invalid_token", "This gateway does not know the token")

    def _by_token(self, token: str) -> Principal | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest().encode()
        found = None
        for known, principal in self._tokens:
            if hmac.compare_digest(known, digest):
                found = principal
        return found

    def _anonymous_from(self, address: str, *, forwarded: bool) -> Principal:
        """`forwarded`: a reverse proxy on this machine passed the request on, so it may come from anywhere."""
        match self._anonymous:
            case Anonymous.ALWAYS:
                return Principal("")
            case Anonymous.AUTO if self._open and is_loopback(address) and not forwarded:
                return Principal("")
            case _:
                raise Denied(401, "", "A token is needed")


def still_admitted(principal: Principal, old: Config, new: Config) -> bool:
    """Whether a principal admitted under the old configuration would be admitted under the new one, with the same token."""
    if principal.subject:
        same = old.gateway.auth == new.gateway.auth
        return same and (principal.client in old.clients) == (principal.client in new.clients)
    if not principal.client:
        shut = new.clients or new.gateway.auth is not None
        return new.gateway.anonymous is Anonymous.ALWAYS or (new.gateway.anonymous is Anonymous.AUTO and not shut)
    before, now = old.clients.get(principal.client), new.clients.get(principal.client)
    return before is not None and now is not None and before.token_sha256 == now.token_sha256


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own loopback."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip.is_loopback or (mapped is not None and mapped.is_loopback)

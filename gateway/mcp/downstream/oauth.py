"""The gateway as an OAuth 2.1 resource server: access tokens are JWTs of one issuer, checked against its keys.

What is checked: signature by a key of the issuer (asymmetric algorithms only), issuer, expiry, audience (the
configured one, or the URL of the endpoint that is called: RFC 8707), scopes. The keys are cached, and fetched again when
they are old or a token names an unknown one; made-up key ids cannot make us fetch often. The token is passed on to no
backend.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from gateway.fetch import fetch
from gateway.mcp.call.principal import Principal
from gateway.mcp.downstream.auth import Denied
from registry.model.settings import OAuth

logger = logging.getLogger(__name__)

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
_KEYS_S: Final = 600.0
_REFETCH_S: Final = 15.0
_LEEWAY_S: Final = 30
_MAX_TOKEN: Final = 16 * 1024

Fetch = Callable[[str], Awaitable[Any]]
"""The JSON document at a URL. Raises OSError or ValueError."""


async def fetch_json(url: str) -> Any:
    """GET a JSON document from the authorization server. Raises OSError or ValueError."""
    answer = await fetch(url)
    if answer.status != 200:
        raise OSError(f"{url} answered HTTP {answer.status}")
    return json.loads(answer.body)


class Keys:
    """The issuer's keys."""

    def __init__(self, issuer: str, jwks_url: str | None, fetch: Fetch) -> None:
        self._issuer = issuer
        self._url = jwks_url
        self._fetch = fetch
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read = 0.0
        self._tried = 0.0
        self._lock = asyncio.Lock()

    def forget_last_try(self) -> None:
        """Allow the next fetch at once."""
        self._tried = 0.0

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key with this id (or the only one, where the token names none); None when the issuer has no such key."""
        if time.monotonic() - self._read > _KEYS_S or self._find(key_id) is None:
            await self._refresh(key_id)
        return self._find(key_id)

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def _refresh(self, key_id: str | None) -> None:
        async with self._lock:
            now = time.monotonic()
            fresh = self._read and now - self._read <= _KEYS_S and self._find(key_id) is not None
            if fresh or (self._tried and now - self._tried < _REFETCH_S):
                return
            self._tried = now
            try:
                document = await self._fetch(await self._where())
                self._keys = _read_keys(document)
                self._read = time.monotonic()
            except (OSError, ValueError) as error:
                logger.warning("the keys of %s cannot be fetched: %s", self._issuer, error)

    async def _where(self) -> str:
        """The keys' URL: configured, else from the issuer's metadata (RFC 8414, OpenID Connect Discovery)."""
        if self._url is not None:
            return self._url
        problem: Exception | None = None
        for url in _metadata_urls(self._issuer):
            try:
                metadata = await self._fetch(url)
            except (OSError, ValueError) as error:
                problem = error
                continue
            if isinstance(metadata, dict) and metadata.get("issuer") == self._issuer:
                self._url = str(metadata["jwks_uri"])
                return self._url
            problem = ValueError(f"{url} is not the metadata of {self._issuer}")
        raise problem or OSError("no metadata")


def _metadata_urls(issuer: str) -> list[str]:
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ]


def _read_keys(document: Any) -> dict[str | None, jwt.PyJWK]:
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no JWK set")
    keys: dict[str | None, jwt.PyJWK] = {}
    for item in listed:
        if (
            not isinstance(item, dict)
            or item.get("kty") not in ("RSA", "EC", "OKP")
            or item.get("use", "sig") != "sig"
        ):
            continue
        try:
            keys[item.get("kid")] = jwt.PyJWK(item)
        except jwt.PyJWTError:
            continue
    return keys


class JwtVerifier:
    """Checks access tokens."""

    def __init__(self, settings: OAuth, clients: Collection[str], fetch: Fetch = fetch_json) -> None:
        self.settings = settings
        self.clients = frozenset(clients)
        self.keys = Keys(settings.issuer, settings.jwks_url, fetch)
        parts = urlsplit(settings.audience)
        self.origin = f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else ""
        """Scheme and authority of our endpoints, as the authorization server knows them; may be empty."""

    @property
    def scope(self) -> str:
        """All scopes that a token must have."""
        return " ".join(self.settings.required_scopes)

    async def verify(self, token: str, path: str) -> Principal:
        """The principal of a valid token. Raises Denied: 401 for a bad token, 403 for one that may not do this."""
        claims = await self._claims(token, path)
        missing = [scope for scope in self.settings.required_scopes if scope not in _scopes(claims)]
        if missing:
            raise Denied(403, "insufficient_scope", f"The token lacks {' '.join(missing)}", scope=self.scope)
        client = claims.get(self.settings.client_claim)
        client = client if isinstance(client, str) else ""
        if self.clients and client not in self.clients:
            raise Denied(
                403, "access_denied", f"No client of this gateway is named as {self.settings.client_claim} says"
            )
        name = client if client in self.clients else ""
        return Principal(name, f"{claims['iss']}\n{client}\n{claims.get('sub', '')}")

    async def _claims(self, token: str, path: str) -> Mapping[str, Any]:
        if len(token) > _MAX_TOKEN:
            raise self._invalid("it is too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm, key_id = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS or not isinstance(key_id, str | None):
                raise self._invalid("its algorithm is not allowed")
            key = await self.keys.find(key_id)
            if key is None:
                raise self._invalid("its key is not one of the issuer's")
            audiences = [self.settings.audience, *([self.origin + path] if self.origin else [])]
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audiences,
                issuer=self.settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise self._invalid(_reason(error)) from None
        return claims

    def _invalid(self, why: str) -> Denied:
        return Denied(401, "invalid_token", f"The access token was refused: {why}", scope=self.scope)

    def metadata(self, base: str, path: str) -> bytes:
        """Protected resource metadata of one endpoint (RFC 9728 2)."""
        document: dict[str, Any] = {
            "resource": (self.origin or base) + path,
            "authorization_servers": [self.settings.issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": "Stockade",
        }
        if self.settings.required_scopes:
            document["scopes_supported"] = list(self.settings.required_scopes)
        return json.dumps(document).encode()


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    scope = claims.get("scope", claims.get("scp", ""))
    if isinstance(scope, list):
        return frozenset(item for item in scope if isinstance(item, str))
    return frozenset(scope.split()) if isinstance(scope, str) else frozenset()


def _reason(error: jwt.PyJWTError) -> str:
    """The reason as the client is told it; it never contains the token's contents."""
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.InvalidAudienceError():
            return "it is for another audience"
        case jwt.InvalidIssuerError():
            return "it is of another issuer"
        case jwt.MissingRequiredClaimError():
            return "a claim is missing"
        case _:
            return "it is not valid"

"""Remote servers (`url:`): reached over TLS from the gateway itself, so they are not isolated."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from gateway.fetch import fetch
from gateway.mcp.upstream.site import Site
from gateway.mcp.wire.errors import PeerClosed
from gateway.mcp.wire.http_client import Pool, dial_url
from registry.config import Config
from registry.model.errors import ConfigError, Invalid, KeyPath, Problem
from registry.model.fields import check_url
from registry.model.server import ClientCredentials, Server
from registry.model.sources import RemoteSource
from registry.model.spec import plan_source

_EARLY_S: Final = 30.0
_DEFAULT_LIFETIME_S: Final = 300.0
_GRANT: Final = "client_secret"
_CLIENT: Final = "client_id"
_URL: Final = "url"
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""RFC 9110 5.5"""


class Secrets(Protocol):
    """Fills in `${secret:NAME}`."""

    def resolve(self, values: Mapping[str, str]) -> dict[str, str]:
        """Raises registry.config.ConfigError for a missing one."""
        ...


class Credentials:
    """An access token by the client credentials grant (RFC 6749 4.4), for one resource (RFC 8707)."""

    def __init__(self, settings: ClientCredentials, secret: str, resource: str, context: ssl.SSLContext) -> None:
        self._settings = settings
        self._secret = secret
        self._resource = resource
        self._context = context
        self._token = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def headers(self, stale: bool) -> Mapping[str, str]:
        """The Authorization header; `stale` when the last one was refused. Raises PeerClosed."""
        refused = self._token if stale else ""
        if self._token == refused or time.monotonic() > self._until:
            async with self._lock:
                if self._token == refused or time.monotonic() > self._until:
                    await self._fetch()
        return {"Authorization": f"Bearer {self._token}"}

    async def _fetch(self) -> None:
        form = {"grant_type": "client_credentials", "resource": self._resource}
        if self._settings.scope:
            form["scope"] = self._settings.scope
        url = self._settings.token_url
        basic = (self._settings.client_id, self._secret)
        try:
            response = await fetch(url, form=form, basic=basic, context=self._context, timeout_s=15)
            answer: Any = json.loads(response.body) if response.status == 200 else {}
        except OSError as error:
            raise PeerClosed(f"no access token: {error}") from error
        except ValueError as error:
            raise PeerClosed(f"no access token from {url}: its answer is not JSON") from error
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token.isprintable() or " " in token:
            raise PeerClosed(f"no access token from {url}: HTTP {response.status}")
        lifetime = answer.get("expires_in")
        lifetime_s = float(lifetime) if isinstance(lifetime, int | float) else _DEFAULT_LIFETIME_S
        self._token, self._until = token, time.monotonic() + max(5.0, lifetime_s - _EARLY_S)


def remote_site(server: Server, secrets: Secrets | None, extra_ca: Path | None) -> Site:
    """The site of a remote server, with its headers filled in. Raises registry.config.ConfigError."""
    fill = secrets.resolve if secrets is not None else dict
    url = _filled_url(server, fill)
    parts = urlsplit(url)
    assert parts.hostname is not None
    context = ssl.create_default_context()
    if extra_ca is not None:
        context.load_verify_locations(cafile=str(extra_ca))
    port = parts.port or (443 if parts.scheme == "https" else 80)
    pool = Pool(dial_url(parts.hostname, port, context if parts.scheme == "https" else None))
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = fill(server.headers)
    _check(headers)
    site = Site(pool, path, parts.netloc, headers, secure=parts.scheme == "https", key="url")
    grant = server.auth.client_credentials if server.auth is not None else None
    if grant is not None:
        given = fill({_GRANT: grant.client_secret, _CLIENT: grant.client_id})
        known = grant.model_copy(update={"client_id": given[_CLIENT]})
        resource = url if url == server.url else url.partition("?")[0]  # a key in it is for the server alone
        site.authorize = Credentials(known, given[_GRANT], resource, context).headers
    return site


def _filled_url(server: Server, fill: Callable[[Mapping[str, str]], dict[str, str]]) -> str:
    """The server's URL with its references filled in. Raises ConfigError, which never has the filled URL."""
    source = plan_source(server)
    assert isinstance(source, RemoteSource)
    url = fill({_URL: source.url})[_URL]
    try:
        return check_url(url)
    except Invalid as error:
        hint = "Its references are filled in when it starts: correct their values"
        message = error.findings[0].message.replace(repr(url), repr(server.url))
        raise ConfigError([Problem(key_path=_URL, message=message, hint=hint)]) from None


def _check(headers: Mapping[str, str]) -> None:
    """Raises ConfigError for a value that a header cannot have after its secrets are filled in."""
    hint = "A header's value is one line of Latin-1 text"
    bad = [
        Problem(key_path=name, message="cannot be sent", hint=hint)
        for name, value in headers.items()
        if not _VALUE.fullmatch(value)
    ]
    if bad:
        raise ConfigError(bad)


def placed_site(name: str, config: Config, secrets: Secrets | None) -> Site:
    """`remote_site` of a server of the configuration. Raises ConfigError with file and line."""
    server = config.servers[name]
    try:
        return remote_site(server, secrets, config.extra_ca)
    except ConfigError as error:
        raise ConfigError(_placed(name, config, one) for one in error.problems) from None


def _placed(name: str, config: Config, problem: Problem) -> Problem:
    if problem.file:
        return problem
    inner: KeyPath = ("auth", "client_credentials") if problem.key_path in (_GRANT, _CLIENT) else ("headers",)
    if problem.key_path == _URL:
        inner = ()
    return config.problem(("mcpServers", name, *inner, problem.key_path), problem.message, problem.hint)

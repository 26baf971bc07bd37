"""The endpoint's HTTP entry: paths, Host and Origin, admission, and which generation of the protocol serves a request.

A request's generation is its `MCP-Protocol-Version` header: a revision up to 2025-11-25, or none, is served in a session;
anything else by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.mcp.call.answer import ClientGone, Headers, Receive, Send, reply_plain
from gateway.mcp.call.messages import LEGACY_VERSIONS
from gateway.mcp.downstream import cors
from gateway.mcp.downstream.auth import Denied, Gate, still_admitted
from gateway.mcp.downstream.http import HostGuard, Refused, read_headers
from gateway.mcp.downstream.legacy import LegacyFront
from gateway.mcp.downstream.modern import ModernFront
from gateway.mcp.downstream.oauth import WELL_KNOWN, JwtVerifier
from gateway.mcp.view.views import View
from gateway.mcp.wire.errors import INTERNAL_ERROR
from registry.config import Config

_LEGACY: Final = frozenset(LEGACY_VERSIONS)


class Entry:
    """The ASGI application, for `/mcp` and `/servers/NAME/mcp`."""

    def __init__(self, view: Callable[[str, str], View | None], legacy: LegacyFront, modern: ModernFront) -> None:
        """`view` gives what a client sees on a route."""
        self.verifier: JwtVerifier | None = None
        self.closing = False
        """The gateway is stopping: new requests are refused."""
        self._view = view
        self._legacy = legacy
        self._modern = modern
        self._config = Config()
        self._gate = Gate(self._config, None)
        self._guard = HostGuard("127.0.0.1:0", (), ())

    def apply(self, config: Config) -> None:
        """Take a configuration."""
        self._config, gateway = config, config.gateway
        self._modern.max_body_bytes = self._legacy.max_body_bytes = gateway.max_body_bytes
        self.verifier = self._make_verifier(config)
        self._gate = Gate(config, self.verifier)
        self._guard = HostGuard(gateway.listen, gateway.allowed_hosts, gateway.allowed_origins)

    def _make_verifier(self, config: Config) -> JwtVerifier | None:
        """The old one, with the keys it fetched, where nothing changed for it."""
        oauth = config.gateway.auth.oauth if config.gateway.auth is not None else None
        old = self.verifier
        if oauth is None or (old is not None and old.settings == oauth and old.clients == frozenset(config.clients)):
            return old if oauth is not None else None
        return JwtVerifier(oauth, config.clients)

    async def app(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        headers: dict[str, str] = {}
        try:
            headers = read_headers(scope["headers"])
            self._guard.check(headers)
            if (origin := headers.get("origin")) is not None:
                send = cors.shared(send, origin)
                if cors.is_preflight(scope["method"], headers) and _is_ours(scope["path"]):
                    await reply_plain(send, 204, headers=cors.preflight(headers))
                    return
            await self._serve(scope, headers, receive, send)
        except Refused as refused:
            allow: Headers = [(b"allow", refused.allow.encode())] if refused.allow else []
            await reply_plain(send, refused.status, refused.body(), allow)
        except Denied as denied:
            challenge = [(b"www-authenticate", denied.challenge(self._metadata_url(scope, headers)))]
            await reply_plain(send, denied.status, denied.body(), challenge)
        except (ClientGone, EOFError):
            return

    async def _serve(self, scope: Mapping[str, Any], headers: dict[str, str], receive: Receive, send: Send) -> None:
        path = _plain(scope["path"])
        if path.startswith(WELL_KNOWN) and self.verifier is not None:
            await self._metadata(self.verifier, scope, path.removeprefix(WELL_KNOWN) or "/mcp", headers, send)
            return
        route = _route(path)
        if route is None:
            raise Refused(404, "Not Found")
        client = scope.get("client")
        config = self._config
        principal = await self._gate.admit(headers, client[0] if client else "", path)

        def look() -> View:
            if config is not self._config and not still_admitted(principal, config, self._config):
                raise Denied(401, "invalid_token", "This gateway does not know the token any more")
            view = self._view(principal.client, route)
            if view is None:
                raise Refused(404, f"There is no server {route} for this client")
            return view

        look()
        if self.closing:
            raise Refused(503, "The gateway is stopping", INTERNAL_ERROR)
        version = headers.get("mcp-protocol-version")
        if version is None or version in _LEGACY:
            await self._legacy.serve(scope["method"], principal, look, headers, receive, send)
        else:
            await self._modern.serve(scope["method"], principal, look, version, headers, receive, send)

    async def _metadata(
        self, verifier: JwtVerifier, scope: Mapping[str, Any], path: str, headers: Mapping[str, str], send: Send
    ) -> None:
        """Protected resource metadata, for every path that could be an endpoint's."""
        if _route(path) is None:
            raise Refused(404, "Not Found")
        if scope["method"] != "GET":
            raise Refused(405, "Method Not Allowed", allow="GET")
        await reply_plain(send, 200, verifier.metadata(_base(scope, headers), path))

    def _metadata_url(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
        if self.verifier is None:
            return None
        return (self.verifier.origin or _base(scope, headers)) + WELL_KNOWN + _plain(scope["path"])


def _base(scope: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Scheme and authority as the client sees them; the Host header has passed the guard."""
    return f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"


def _plain(path: str) -> str:
    """The path of an endpoint without a slash at its end, which many people and programs add."""
    return path[:-1] if path.endswith("/mcp/") else path


def _route(path: str) -> str | None:
    """The backend that a path names, empty for `/mcp`, None for no endpoint."""
    path = _plain(path)
    if path == "/mcp":
        return ""
    if path.startswith("/servers/") and path.endswith("/mcp"):
        name = path[9:-4]
        return name if name and "/" not in name else None
    return None


def _is_ours(path: str) -> bool:
    """Whether the path is an endpoint's, or that of its metadata."""
    return _route(path.removeprefix(WELL_KNOWN) or "/mcp") is not None


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return

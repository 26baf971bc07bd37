"""The guard of the admin listener: protects it from pages that a browser on this machine has open.

Theory of operation. The listener is on loopback, so its callers are programs on this machine and every page that a
browser here has open. Four checks, in this order, before any handler runs:

1. Host must be a loopback name or one that the configuration names. A page that rebinds its own name to 127.0.0.1
   still sends its own name as Host (421).
2. Origin, where there is one, must be the very origin that Host names; Fetch Metadata must not say that another site,
   or another port of this machine, made the request (403). A visit to the page itself may come from anywhere.
3. Everything below /api needs the admin token as a bearer, or a session cookie made from it (401). Wrong bearers
   count toward the limit on guesses.
4. A write that is authorized by a cookie needs the header X-Stockade-CSRF, which no form and no simple cross-origin
   request can send (403).

The control socket needs none of this: its file mode protects it.
"""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.auth import AdminToken, Brake, Sessions
from gateway.control.wire import ApiError, error_response
from gateway.hosts import host_name, is_served, origin_authority

logger = logging.getLogger(__name__)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "x-stockade-csrf"
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminGate:
    """What the guard checks against."""

    token: AdminToken
    sessions: Sessions
    brake: Brake
    cookie: str
    """Name of the session cookie; it has the port in it, since cookies are shared by all ports of a host."""
    allowed_hosts: Callable[[], Collection[str]] = field(default=frozenset)
    """Additional Host values, as HOST or HOST:PORT (`gateway.allowed_hosts`)."""
    allowed_origins: Callable[[], Collection[str]] = field(default=frozenset)


class Guard:
    """ASGI middleware with the four checks; it also puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, gate: AdminGate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        connection = HTTPConnection(scope)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        try:
            check(connection, self._gate)
        except ApiError as error:
            await refusal(error)(scope, receive, send_guarded)
            return
        await self._app(scope, receive, send_guarded)


def check(connection: HTTPConnection, gate: AdminGate) -> None:
    """The four checks. Raises ApiError with the status to answer."""
    check_host(connection, gate.allowed_hosts())
    check_origin(connection, gate.allowed_origins())
    if connection.scope["path"].startswith("/api/") and not _is_sign_in(connection):
        check_caller(connection, gate)


def _is_sign_in(connection: HTTPConnection) -> bool:
    """Signing in needs no session; its handler checks the token."""
    return (connection.scope["method"], connection.scope["path"]) == ("POST", "/api/v1/session")


def check_host(connection: HTTPConnection, allowed: Collection[str]) -> None:
    """Refuse a Host that does not name this machine (DNS rebinding), and more than one."""
    hosts = connection.headers.getlist("host")
    authority = hosts[0].lower() if len(hosts) == 1 else ""
    if not is_served(authority, allowed):
        raise ApiError(
            421,
            "host_not_allowed_here",
            "This address does not answer for that Host. Use http://127.0.0.1:PORT/, or add the name to "
            "`gateway.allowed_hosts` in the configuration.",
        )


def check_origin(connection: HTTPConnection, allowed: Collection[str]) -> None:
    """Refuse what another origin made the browser send."""
    authority = connection.headers["host"].lower()
    for origin in connection.headers.getlist("origin"):
        if origin_authority(origin.lower()) != authority and origin.lower() not in allowed:
            raise ApiError(403, "cross_origin", "Requests from another origin are refused.")
    if connection.headers.get("sec-fetch-site", "none") in {"cross-site", "same-site"} and not _is_visit(connection):
        raise ApiError(403, "cross_origin", "Requests from another site are refused.")


def _is_visit(connection: HTTPConnection) -> bool:
    """The user followed a link to the page itself."""
    headers = connection.headers
    return (
        connection.scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
        and connection.scope["path"] == "/"
    )


def check_caller(connection: HTTPConnection, gate: AdminGate) -> None:
    """Bearer with the admin token, or a session cookie with the CSRF header on writes."""
    if authorization := connection.headers.get("authorization"):
        scheme, _, token = authorization.partition(" ")
        check_token(token.strip() if scheme.lower() == "bearer" else "", peer_of(connection), gate)
        return
    if not gate.sessions.valid(connection.cookies.get(gate.cookie, "")):
        raise ApiError(
            401, "not_signed_in", "Sign in first, with the admin token (a new one: stockade admin token --new)."
        )
    if connection.scope["method"] not in SAFE_METHODS and not connection.headers.get(CSRF_HEADER):
        raise ApiError(403, "csrf", "A change needs the header X-Stockade-CSRF.")


def check_token(token: str, peer: str, gate: AdminGate) -> None:
    """Compare with the admin token; when it is wrong: 401, or 429 while the peer has to wait.

    The right one always passes: it cannot be guessed, and a stranger's tries must not lock its owner out.
    """
    if gate.token.matches(token):
        return
    if (wait_s := gate.brake.wait_s(peer)) > 0:
        raise TooMany(math.ceil(wait_s))
    gate.brake.failed(peer)
    logger.warning("admin sign-in refused: wrong token from %s", peer)
    raise ApiError(401, "wrong_token", "That is not the admin token. Make a new one with: stockade admin token --new")


class TooMany(ApiError):
    """Raised when a peer guessed too often."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(429, "too_many_tries", f"Too many wrong tokens. Try again in {wait_s} seconds.")
        self.wait_s = wait_s


def is_https(connection: HTTPConnection, allowed: Collection[str]) -> bool:
    """Whether the browser sees an https page: here, or at a proxy in front that says so. Such a proxy runs on this machine,
    or serves a name of `gateway.allowed_hosts`; from others the header means nothing."""
    if connection.url.scheme == "https":
        return True
    host = connection.headers.get("host", "").lower()
    front = host in allowed or host_name(host) in allowed or _is_loopback(peer_of(connection))
    said = connection.headers.get("x-forwarded-proto", "").split(",")[0]
    return front and said.strip().lower() == "https"


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def peer_of(connection: HTTPConnection) -> str:
    """The address of the caller, for the limit on guesses."""
    return connection.client.host if connection.client else "-"


def refusal(error: ApiError) -> JSONResponse:
    """The answer of a check that failed."""
    headers = {"Connection": "close"}
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="stockade admin"'
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(error.wait_s)
    return error_response(error, headers)

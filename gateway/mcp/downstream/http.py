"""The rules of the HTTP transport that need no knowledge of MCP's methods: Host, Origin, Accept, bodies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from gateway.hosts import is_served, listening_name, origin_authority
from gateway.mcp.call.answer import Form, Receive
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import HEADER_MISMATCH, INVALID_REQUEST, RpcError

_USUAL_ACCEPT: Final = "application/json, text/event-stream"
_ROUTING: Final = frozenset(
    {b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"authorization", b"host"}
)


class Refused(Exception):
    """Raised when a request breaks a rule of the transport."""

    def __init__(
        self, status: int, message: str, code: int = INVALID_REQUEST, *, allow: str = "", data: Any = None
    ) -> None:
        super().__init__(message)
        self.data = data
        self.status = status
        self.code = code
        self.allow = allow
        self.request_id: Any = None
        """The id of the request that is refused, once it is known."""

    def body(self) -> bytes:
        """A JSON-RPC error."""
        return codec.error_response(self.request_id, RpcError(self.code, str(self), self.data).body())


@contextlib.contextmanager
def refusing(message: Mapping[str, Any]) -> Iterator[None]:
    """A Refused that is raised inside carries the id of the message, unless that is a response."""
    try:
        yield
    except Refused as refused:
        if refused.request_id is None and not ("result" in message or "error" in message):
            refused.request_id = message.get("id")
        raise


class HostGuard:
    """Which Host and Origin headers are accepted: a web page cannot reach us by DNS rebinding."""

    def __init__(self, listen: str, allowed_hosts: Iterable[str], allowed_origins: Iterable[str]) -> None:
        self._allowed = frozenset(name.lower() for name in (listening_name(listen), *allowed_hosts) if name)
        self._origins = frozenset(origin.lower() for origin in allowed_origins)
        self._known: set[str] = set()

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises Refused: 421 for a bad Host, 403 for a bad Origin."""
        host = headers.get("host", "")
        if host not in self._known:
            self._check_host(host)
        origin = headers.get("origin")
        if origin is not None and not self._origin_fits(origin.lower()):
            raise Refused(403, "Invalid Origin header")

    def _check_host(self, host: str) -> None:
        if not is_served(host.lower(), self._allowed):
            raise Refused(421, "Invalid Host header (add it to gateway.allowed_hosts if it is right)")
        if len(self._known) < 64:
            self._known.add(host)

    def _origin_fits(self, origin: str) -> bool:
        return origin in self._origins or is_served(origin_authority(origin), self._allowed)


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers by lower-case name. Raises Refused when a routing header appears twice."""
    headers: dict[str, str] = {}
    for name, value in raw:
        key = name.decode("latin-1")
        if key in headers:
            if name in _ROUTING or name.startswith(b"mcp-param-"):
                raise Refused(400, f"{key} header appears more than once", HEADER_MISMATCH)
            headers[key] += ", " + value.decode("latin-1")
        else:
            headers[key] = value.decode("latin-1").strip(" \t")  # RFC 9110 5.5; httptools leaves what trails
    return headers


def accepted(headers: Mapping[str, str]) -> Form | None:
    """The form of an answer that the Accept header asks for (RFC 9110 12.5.1); None where it excludes both.

    A client that does not name event streams may not be able to read them, so it gets JSON; no header is `*/*`.
    """
    accept = headers.get("accept", "")
    if accept == _USUAL_ACCEPT:
        return Form.EITHER
    ranges = _ranges(accept) or {"*/*": True}
    json = _first(ranges, "application/json", "application/*", "*/*")
    if _first(ranges, "text/event-stream", "text/*"):
        return Form.EITHER if json else Form.STREAM
    if json:
        return Form.JSON
    return Form.STREAM if accepts_stream(headers) else None


def accepts_stream(headers: Mapping[str, str]) -> bool:
    """Whether an event stream may be sent, named or not."""
    ranges = _ranges(headers.get("accept", "")) or {"*/*": True}
    return _first(ranges, "text/event-stream", "text/*", "*/*")


def _ranges(accept: str) -> dict[str, bool]:
    """Each media range, and whether its weight lets it be sent."""
    found = {}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        if kind:
            found[kind] = not any(_is_never(one) for one in parameters)
    return found


def _is_never(parameter: str) -> bool:
    """Whether it is the weight 0."""
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and not value.strip().strip("0.")


def _first(ranges: Mapping[str, bool], *kinds: str) -> bool:
    """What the first of these ranges that the header has says: the most specific one counts."""
    return next((ranges[kind] for kind in kinds if kind in ranges), False)


def check_content_type(headers: Mapping[str, str]) -> None:
    """Raises Refused unless the body is JSON."""
    kind = headers.get("content-type", "")
    if kind != "application/json" and kind.partition(";")[0].strip().lower() != "application/json":
        raise Refused(400, "Invalid Content-Type header")


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """The whole body. Raises Refused (413) when it is larger than `limit`, and EOFError when the client went away."""
    length = headers.get("content-length")
    if length is not None and (not length.isdigit() or int(length) > limit):
        raise Refused(413, f"The request is larger than {limit} bytes")
    message = await receive()
    if message["type"] != "http.request":
        raise EOFError
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        if len(body) > limit:
            raise Refused(413, f"The request is larger than {limit} bytes")
        return body
    parts, size = [body], len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] != "http.request":
            raise EOFError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise Refused(413, f"The request is larger than {limit} bytes")
    return b"".join(parts)

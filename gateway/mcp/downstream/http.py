"""The rules of the HTTP transport that need no knowledge of MCP's methods: Host, Origin, Accept, bodies, shape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.hosts import is_served, listening_name, origin_authority
from gateway.mcp.call.answer import Receive
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import HEADER_MISMATCH, INVALID_REQUEST, PARSE_ERROR, RpcError
from gateway.mcp.wire.json_cost import CLIENT_VALUES, has_more_values

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_MAX_WORD: Final = 512
"""Characters of a method or an id, which stand in events and logs."""
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

    def body(self, request_id: Any = None) -> bytes:
        """A JSON-RPC error."""
        return codec.error_response(request_id, RpcError(self.code, str(self), self.data).body())


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


def accepts(headers: Mapping[str, str]) -> tuple[bool, bool]:
    """(JSON, event stream) as the Accept header says (RFC 9110 12.5.1, without weights)."""
    accept = headers.get("accept", "")
    if accept == "application/json, text/event-stream":
        return True, True
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    anything = "*/*" in kinds
    json = anything or bool(kinds & {"application/json", "application/*"})
    stream = anything or bool(kinds & {"text/event-stream", "text/*"})
    return json, stream


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


def parse_message(body: bytes) -> dict[str, Any]:
    """One JSON-RPC message. Raises Refused (400; 413 for one that costs too much to read)."""
    if has_more_values(body, CLIENT_VALUES):
        raise Refused(413, f"The request holds more than {CLIENT_VALUES} values; send large data as text")
    try:
        message = codec.parse(body)
    except ValueError as error:
        raise Refused(400, f"Parse error: {error}", PARSE_ERROR) from None
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise Refused(400, "Body must be a single JSON-RPC message")
    if "method" in message:
        if not isinstance(message["method"], str) or not isinstance(message.get("params", {}), dict):
            raise Refused(400, "Body must be a single JSON-RPC request or notification object")
        if not _is_word(message["method"]):
            raise Refused(400, f"The method is longer than {_MAX_WORD} characters, or no Unicode text")
        if "id" in message and type(message["id"]) not in (int, str):
            raise Refused(400, "A request's id must be a string or a whole number")
        if not _is_word(str(message.get("id", ""))):
            raise Refused(400, f"A request's id is longer than {_MAX_WORD} characters, or no Unicode text")
    elif "id" not in message or not ("result" in message) ^ ("error" in message):
        raise Refused(400, "Body must be a single JSON-RPC message")
    return message


def _is_word(text: str) -> bool:
    """Whether events and logs can take the text: short, and without lone surrogates."""
    return len(text) <= _MAX_WORD and not _SURROGATE.search(text)

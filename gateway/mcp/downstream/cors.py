"""Requests of web pages of other origins (CORS, in the Fetch standard). Only accepted origins get as far as this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.mcp.call.answer import Headers, Message, Send

_METHODS: Final = "GET, POST, DELETE"
_HEADERS: Final = (
    "content-type", "accept", "authorization", "last-event-id",
    "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name",
)  # fmt: skip
_EXPOSED: Final = "Mcp-Session-Id, Mcp-Protocol-Version, WWW-Authenticate"
_KEPT_S: Final = 600
_OURS: Final = re.compile(r"mcp-[a-z0-9-]{1,100}")
_MOST: Final = 64


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks if its page may send a request."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def preflight(headers: Mapping[str, str]) -> Headers:
    """The answer to a preflight: what pages may send. A page's own `Mcp-Param-…` headers are among it, each by its name."""
    asked = headers.get("access-control-request-headers", "").lower().split(",")
    more = [name for one in asked[:_MOST] if _OURS.fullmatch(name := one.strip()) and name not in _HEADERS]
    found: Headers = [
        (b"access-control-allow-methods", _METHODS.encode()),
        (b"access-control-allow-headers", ", ".join((*_HEADERS, *more)).encode()),
        (b"access-control-max-age", b"%d" % _KEPT_S),
    ]
    if headers.get("access-control-request-private-network") == "true":
        found.append((b"access-control-allow-private-network", b"true"))
    return found


def shared(send: Send, origin: str) -> Send:
    """A `send` whose responses the pages of this origin may read."""
    lines: Headers = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", _EXPOSED.encode()),
        (b"vary", b"origin"),
    ]

    async def sharing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *lines]}
        await send(message)

    return sharing

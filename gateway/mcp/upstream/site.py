"""The address of an HTTP backend's endpoint, and the requests sent to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

from gateway.mcp.wire.errors import clipped
from gateway.mcp.wire.http_client import Pool

_PATH: Final = re.compile(r"/[\x21-\x7e]{0,2000}")


class Site:
    """A backend's endpoint: its pool, path, authority, and the headers of every request."""

    def __init__(
        self,
        pool: Pool,
        path: str,
        authority: str,
        headers: Mapping[str, str] | None = None,
        authorize: Callable[[bool], Awaitable[Mapping[str, str]]] | None = None,
        *,
        secure: bool = False,
        key: str = "path",
    ) -> None:
        """`secure`: it is reached over TLS. `key` of its entry says where its endpoint is."""
        self.pool = pool
        self.key = key
        self._origin = _origin("https" if secure else "http", authority)
        self.authorize = authorize
        """Gives the headers of authorization; True asks for fresh ones after a 401."""
        lines = [f"Host: {authority}", "Accept-Encoding: identity", "User-Agent: stockade"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._fixed = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        self._post = (
            self._fixed + b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        )
        self.path = path.encode()
        self.refused = False
        """The last credentials were refused: ask for fresh ones."""

    async def authorization(self) -> bytes:
        """The headers with our credentials. Raises PeerClosed."""
        if self.authorize is None:
            return b""
        stale, self.refused = self.refused, False
        return header_lines(await self.authorize(stale))

    def post(self, path: bytes, extra: bytes, body: bytes) -> bytes:
        """A POST of a message."""
        size = len(body)
        return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, self._post, extra, size, body)

    def other(self, method: bytes, path: bytes, extra: bytes) -> bytes:
        """A GET of the event stream or a DELETE of the session."""
        accept = b"Accept: text/event-stream\r\n" if method == b"GET" else b"Content-Length: 0\r\n"
        return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method, path, self._fixed, accept, extra)

    def path_at(self, location: str) -> bytes | None:
        """The path that a redirect leads to; None where it leads to another origin, or nowhere."""
        try:
            parts = urlsplit(urljoin(f"{self._origin[0]}://{self._origin[1]}{self.path.decode()}", location))
            same = _origin(parts.scheme, parts.netloc) == self._origin
        except ValueError:
            return None
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return path.encode() if same and location and _PATH.fullmatch(path) else None

    def advice(self, location: str) -> str:
        """What to write where the backend's endpoint is elsewhere."""
        path = self.path_at(location)
        if path is None:
            return (
                f"a redirect to {clipped(location, 200) or 'nowhere'}, which is another origin, so it is not followed"
            )
        where = path.decode() if self.key == "path" else f"{self._origin[0]}://{self._origin[1]}{path.decode()}"
        return f"a redirect. Set `{self.key}: {clipped(where, 200)}` in its entry"


def _origin(scheme: str, authority: str) -> tuple[str, str]:
    """Scheme and authority, so that two spellings of one origin are equal. Raises ValueError."""
    parts = urlsplit(f"//{authority}")
    if parts.username is not None or parts.hostname is None:
        raise ValueError("no host, or one with credentials")
    port = parts.port or {"https": 443, "http": 80}.get(scheme)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return scheme, f"{host}:{port}"


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as bytes. Raises ValueError for one that would end its line."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers):
        raise ValueError("a header holds a line break")
    return text.encode("latin-1")

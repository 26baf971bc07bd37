"""The address of an HTTP backend's endpoint, and the requests sent to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from gateway.mcp.wire.http_client import Pool


class Site:
    """A backend's endpoint: its pool, path, authority, and the headers of every request."""

    def __init__(
        self,
        pool: Pool,
        path: str,
        authority: str,
        headers: Mapping[str, str] | None = None,
        authorize: Callable[[bool], Awaitable[Mapping[str, str]]] | None = None,
    ) -> None:
        self.pool = pool
        self.authorize = authorize
        """Gives the headers of authorization; True asks for fresh ones after a 401."""
        lines = [f"Host: {authority}", "Accept-Encoding: identity", "User-Agent: stockade"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._fixed = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
        self._post = b"POST %b HTTP/1.1\r\n" % path.encode() + self._fixed
        self._post += b"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        self._path = path.encode()

        self.refused = False
        """The last credentials were refused: ask for fresh ones."""

    async def authorization(self) -> bytes:
        """The headers with our credentials. Raises PeerClosed."""
        if self.authorize is None:
            return b""
        stale, self.refused = self.refused, False
        return header_lines(await self.authorize(stale))

    def post(self, extra: bytes, body: bytes) -> bytes:
        """A POST of a message."""
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._post, extra, len(body), body)

    def other(self, method: bytes, extra: bytes) -> bytes:
        """A GET of the event stream or a DELETE of the session."""
        accept = b"Accept: text/event-stream\r\n" if method == b"GET" else b"Content-Length: 0\r\n"
        return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method, self._path, self._fixed, accept, extra)


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as bytes. Raises ValueError for one that would end its line."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers):
        raise ValueError("a header holds a line break")
    return text.encode("latin-1")

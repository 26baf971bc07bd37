"""A request head that is refused: why, and what it names, so that its event has host and port where they can be read."""

from __future__ import annotations

import contextlib
import re
from typing import Final

from egress.policy.names import Target, parse_authority
from observability.events import Reason

MAX_LINE: Final = 16 * 1024
NOT_HTTP_1: Final = "the request line is not METHOD TARGET HTTP/1.1"
WITHOUT_CONNECT: Final = (
    "this program sends https without CONNECT, as old versions of axios do: update it, or let it go around the proxy with "
    '`no_proxy: "*"` in its `env` and `direct: allow` in its `network`'
)

_LINE: Final = re.compile(rb"([^\r\n]{1,%d})[\r\n]" % MAX_LINE)
_HTTP_1: Final = re.compile(rb" HTTP/1\.[0-9]\Z")
_CLAIM: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (?:(https?|wss?)://([^/?#\\ ]*)|([^ ]*))", re.IGNORECASE
)
_PORTS: Final = {b"http": 80, b"ws": 80, b"https": 443, b"wss": 443}


class BadRequest(ValueError):
    """Raised for a head that is not taken; the connection cannot be used any further."""

    def __init__(self, reason: Reason, detail: str, target: Target | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        """BAD_REQUEST, TOO_LARGE or HTTPS_WITHOUT_CONNECT."""
        self.detail = detail
        """One sentence for a person; never has what the caller sent in it."""
        self.method = ""
        self.target = target
        """Method and target that the refused head names, where they can be read: for the record, never to be dialled."""
        self.foreign = False
        """The first line is whole and not one of HTTP/1: another protocol that begins alike (HTTP/2, RTSP, SIP)."""


def describe(error: BadRequest, data: bytes | bytearray) -> None:
    """Add what the first line shows of a head that is refused."""
    line = _LINE.match(data, skipped(data))
    if line is None:
        return
    if not _HTTP_1.search(line[1]):
        error.foreign, error.reason, error.detail = True, Reason.BAD_REQUEST, NOT_HTTP_1
    claim = _CLAIM.match(line[1])
    if claim is None:
        return
    error.method = claim[1].decode("ascii")
    if error.target is None and (claim[2] is not None or error.method == "CONNECT"):
        host, port = (claim[4], None) if claim[2] is None else (claim[3], _PORTS[claim[2].lower()])
        with contextlib.suppress(ValueError):
            error.target = parse_authority(host.rpartition(b"@")[2], port)


def skipped(data: bytes | bytearray) -> int:
    """How many bytes of an empty line before the request line are skipped (RFC 9112 2.2)."""
    return 2 if data[:2] == b"\r\n" else 0


def is_http_1(line: bytes) -> bool:
    """Whether a whole first line ends as one of HTTP/1 does."""
    return _HTTP_1.search(line) is not None

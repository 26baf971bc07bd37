"""Connections to the outside: straight, through a parent proxy, or with a socket that a connector dialled."""

from __future__ import annotations

import asyncio
import base64
import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from egress.names import IP
from egress.stream import Stream
from observability.events import Reason

CONNECT_TIMEOUT_S = 10.0
MAX_PARENT_HEAD = 16 * 1024


class DialError(Exception):
    """Raised when a connection could not be made; carries the reason and a sentence."""

    def __init__(self, reason: Reason, detail: str, code: int = 0) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.code = code
        """The errno, where there was one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentProxy:
    """An upstream HTTP proxy that everything goes through, but what `no_proxy` names."""

    host: str
    port: int
    authorization: bytes | None = None
    """The value for Proxy-Authorization."""
    no_proxy: tuple[str, ...] = ()

    @classmethod
    def parse(cls, url: str, no_proxy: Sequence[str] = ()) -> ParentProxy:
        """From `http://[user:password@]host[:port]`. Raises ValueError, never with the password in it."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("an upstream proxy is written http://[USER:PASSWORD@]HOST[:PORT]")
        authorization = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = b"Basic " + base64.b64encode(pair.encode())
        entries = tuple(entry.strip().lower() for entry in no_proxy if entry.strip())
        return cls(host=parts.hostname, port=parts.port or 3128, authorization=authorization, no_proxy=entries)

    def carries(self, host: str, port: int, ip: IP | None) -> bool:
        """Whether that target goes through the parent. `no_proxy` entries: name, .suffix, IP, CIDR, `*`, each
        with `:PORT` if need be, as curl and Go read them: `example.com` covers its subdomains."""
        return not any(no_proxy_entry_matches(entry, host, port, ip) for entry in self.no_proxy)


def no_proxy_entry_matches(entry: str, host: str, port: int, ip: IP | None) -> bool:
    """Whether one NO_PROXY entry covers the target."""
    if entry == "*":
        return True
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        entry = name.strip("[]")
    if ip is not None:
        try:
            return ip in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    suffix = entry.removeprefix("*").removeprefix(".")
    return bool(suffix) and (host == suffix or host.endswith("." + suffix))


async def dial(address: IP, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> Stream:
    """A connection to exactly that address. Raises DialError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, stream = await loop.create_connection(Stream, str(address), port)
    except TimeoutError:
        raise DialError(Reason.CONNECT_TIMEOUT, f"{address} port {port} did not answer in {timeout_s:g} s") from None
    except OSError as error:
        raise DialError(*failure(address, port, error)) from error
    return stream


def failure(address: IP, port: int, error: OSError) -> tuple[Reason, str, int]:
    """What a failed connect means."""
    reason = Reason.CONNECT_TIMEOUT if error.errno == errno.ETIMEDOUT else Reason.CONNECT_FAILED
    text = os.strerror(error.errno) if error.errno else str(error)
    return reason, f"connecting to {address} port {port} failed: {text}", error.errno or 0


async def adopt(sock: socket.socket) -> Stream:
    """A stream on a socket that is connected already. Raises DialError."""
    sock.setblocking(False)
    try:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, sock=sock)
    except OSError as error:
        sock.close()
        raise DialError(Reason.CONNECT_FAILED, f"the connector's socket failed: {error}") from error
    return stream


def connect_request(authority: str, authorization: bytes | None) -> bytes:
    """The CONNECT head for a parent proxy."""
    lines = [f"CONNECT {authority} HTTP/1.1".encode(), b"Host: " + authority.encode()]
    if authorization is not None:
        lines.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join([*lines, b"", b""])


async def dial_parent(parent: ParentProxy, resolve: Callable[[str], Awaitable[Sequence[IP]]]) -> Stream:
    """A connection to the parent proxy itself, at the first of its addresses that answers.

    Where the parent lives is the operator's word (`egress.upstream_proxy`), so its address is not checked against
    any policy. Raises DialError.
    """
    try:
        addresses: Sequence[IP] = [ipaddress.ip_address(parent.host)]
    except ValueError:
        addresses = await resolve(parent.host)
    problem = DialError(Reason.UPSTREAM_PROXY_FAILED, f"the upstream proxy {parent.host} has no address")
    for address in addresses[:3]:
        try:
            return await dial(address, parent.port)
        except DialError as error:
            problem = DialError(Reason.UPSTREAM_PROXY_FAILED, f"upstream proxy: {error.detail}", error.code)
    raise problem


async def connect_through(stream: Stream, authority: str, parent: ParentProxy) -> None:
    """Ask the parent for a tunnel. Closes the stream and raises DialError when it does not give one."""
    stream.write(connect_request(authority, parent.authorization))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S * 2):
            status = await read_parent_head(stream)
    except TimeoutError:
        stream.abort()
        raise DialError(Reason.UPSTREAM_PROXY_FAILED, "the upstream proxy did not answer CONNECT") from None
    if status != 200:
        stream.abort()
        raise DialError(
            Reason.UPSTREAM_PROXY_FAILED, f"the upstream proxy answered CONNECT with {status or 'nonsense'}"
        )


async def read_parent_head(stream: Stream) -> int:
    """The status of the parent's answer, its head taken off the buffer; 0 when it is no HTTP."""
    while (end := stream.buffer.find(b"\r\n\r\n")) < 0:
        if len(stream.buffer) > MAX_PARENT_HEAD or not await stream.more():
            return 0
    words = bytes(stream.buffer[:end]).split(b"\r\n", 1)[0].split(b" ")
    stream.skip(end + 4)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return 0
    return int(words[1])

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

from egress.net.poller import Poller
from egress.net.stream import Stream
from egress.policy.names import IP, text_of
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


class Dialling:
    """A connection to exactly one address, while it is made: `stream` when it is there, `error` when it cannot be.

    `on_done` is called once, later, unless one of the two is set already. Who waits no more calls `abandon`.
    """

    __slots__ = ("address", "error", "on_done", "poller", "port", "sock", "stream")

    def __init__(self, poller: Poller, address: IP, port: int) -> None:
        self.poller = poller
        self.address = address
        self.port = port
        self.stream: Stream | None = None
        self.error: DialError | None = None
        self.on_done: Callable[[], None] | None = None
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            self.sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            self.error = DialError(*failure(address, port, error))
            return
        try:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connect()
            if self.stream is None:
                self.connect()  # from the same machine the answer is there as soon as the question was sent
            if self.stream is None:
                poller.watch(self.sock.fileno(), self.ready, writable=True)
        except OSError as error:
            self.fail(error)

    def connect(self) -> None:
        """Begin, or ask how it went. Raises OSError when it failed."""
        code = self.sock.connect_ex((text_of(self.address), self.port))
        if code in (0, errno.EISCONN):
            self.stream = Stream(self.poller, self.sock, watched=self.sock.fileno() in self.poller.handlers)
        elif code not in (errno.EINPROGRESS, errno.EALREADY):
            raise OSError(code, os.strerror(code))

    def ready(self, events: int) -> None:
        """Called by the poller."""
        try:
            self.connect()
            if self.stream is not None:
                self.stream.ready(events)  # the server's first words may have come with the connection
        except OSError as error:
            self.fail(error)
        if (self.stream is not None or self.error is not None) and self.on_done is not None:
            self.on_done()

    def fail(self, error: OSError) -> None:
        self.close()
        self.error = DialError(*failure(self.address, self.port, error))

    def close(self) -> None:
        self.poller.forget(self.sock.fileno())
        self.sock.close()

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self.stream is not None:
            self.stream.abort()
        elif self.error is None:
            self.close()
            self.error = DialError(Reason.CONNECT_FAILED, "given up")

    def late(self, timeout_s: float) -> DialError:
        """The error of a connection that was not there after `timeout_s`."""
        return DialError(Reason.CONNECT_TIMEOUT, f"{self.address} port {self.port} did not answer in {timeout_s:g} s")


async def dial(poller: Poller, address: IP, port: int, timeout_s: float = CONNECT_TIMEOUT_S) -> Stream:
    """A connection to exactly that address. Raises DialError."""
    dialling = Dialling(poller, address, port)
    if dialling.stream is None and dialling.error is None:
        done = asyncio.Event()
        dialling.on_done = done.set
        try:
            async with asyncio.timeout(timeout_s):
                await done.wait()
        except TimeoutError:
            dialling.abandon()
            raise dialling.late(timeout_s) from None
        except asyncio.CancelledError:
            dialling.abandon()
            raise
    if dialling.stream is None:
        assert dialling.error is not None
        raise dialling.error
    return dialling.stream


def failure(address: IP, port: int, error: OSError) -> tuple[Reason, str, int]:
    """What a failed connect means."""
    reason = Reason.CONNECT_TIMEOUT if error.errno == errno.ETIMEDOUT else Reason.CONNECT_FAILED
    text = os.strerror(error.errno) if error.errno else str(error)
    return reason, f"connecting to {address} port {port} failed: {text}", error.errno or 0


def adopt(poller: Poller, sock: socket.socket) -> Stream:
    """A stream on a connected socket that another process passed. Raises DialError, and has closed the socket then."""
    try:
        sock.setblocking(False)
        return Stream(poller, sock, passed=True)
    except OSError as error:
        sock.close()
        raise DialError(Reason.CONNECT_FAILED, f"the socket failed: {error}") from error


def connect_request(authority: str, authorization: bytes | None) -> bytes:
    """The CONNECT head for a parent proxy."""
    lines = [f"CONNECT {authority} HTTP/1.1".encode(), b"Host: " + authority.encode()]
    if authorization is not None:
        lines.append(b"Proxy-Authorization: " + authorization)
    return b"\r\n".join([*lines, b"", b""])


async def dial_parent(
    poller: Poller, parent: ParentProxy, resolve: Callable[[str], Awaitable[Sequence[IP]]]
) -> Stream:
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
            return await dial(poller, address, parent.port)
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
    except asyncio.CancelledError:
        stream.abort()
        raise
    if status != 200:
        stream.abort()
        raise DialError(
            Reason.UPSTREAM_PROXY_FAILED, f"the upstream proxy answered CONNECT with {status or 'nonsense'}"
        )


async def read_parent_head(stream: Stream) -> int:
    """The status of the parent's answer, its head taken off the buffer; 0 when it is no HTTP."""
    looked = 0
    while (end := stream.buffer.find(b"\r\n\r\n", max(0, looked - 3))) < 0:
        looked = len(stream.buffer)
        if len(stream.buffer) > MAX_PARENT_HEAD or not await stream.more():
            return 0
    words = bytes(stream.buffer[:end]).split(b"\r\n", 1)[0].split(b" ")
    stream.skip(end + 4)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return 0
    return int(words[1])

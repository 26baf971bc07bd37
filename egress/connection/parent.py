"""Connections to a parent proxy, and tunnels through it."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence

from egress.http.framing import MAX_HEADERS, BadFraming, parse_response_head
from egress.http.head_end import END, BadHead, HeadScan
from egress.net.dial_error import DialError
from egress.net.poller import Poller
from egress.net.stream import Stream
from egress.net.upstream import CONNECT_TIMEOUT_S, dial
from egress.policy.names import IP
from egress.policy.parent_proxy import ParentProxy
from observability.events import Reason


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
    """The status of the parent's answer, its head taken off the buffer; 0 when it is no proper HTTP."""
    scan = HeadScan("answer to CONNECT", max_fields=MAX_HEADERS)
    try:
        while (end := scan.find(stream.buffer)) < 0:
            scan.check(stream.buffer)
            if not await stream.more():
                return 0
        head = parse_response_head(bytes(stream.buffer[:end]))
    except (BadHead, BadFraming):
        return 0
    stream.skip(end + len(END))
    return head.status

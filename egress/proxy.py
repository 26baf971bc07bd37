"""The HTTP proxy on a backend's 127.0.0.1:3128: CONNECT and absolute-form requests.

Theory of operation
-------------------
One coroutine per client connection. It parses a head, decides, and either answers an error, carries one exchange
(`egress.exchange`) and goes on with the next head, or makes a tunnel (`egress.tunnel`) and ends. Every request on
a kept-alive connection is decided anew. Inside a CONNECT the first bytes must show TLS for that host, or plain
HTTP; of plain HTTP each request is checked against the CONNECT's authority (`serve_inner`).
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from egress.answers import ESTABLISHED, answer, sentence
from egress.attempt import Attempt
from egress.backend import Origin
from egress.client import peer_address
from egress.exchange import ClientFault, UpstreamFault
from egress.http1 import BadRequest, RequestHead
from egress.inside import TargetClient
from egress.plan import has_body, plan_request
from egress.policy import Target
from egress.reach import Kept, Reached, Refusal
from egress.upstream import DialError, ParentProxy, adopt
from observability.events import Reason

if TYPE_CHECKING:
    from egress.server import Egress

RETRIABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Requests that may be sent again when a kept connection turns out to be closed (RFC 9110 9.2.2)."""


def refuse_connection(sock: socket.socket, origin: Origin, reason: Reason) -> None:
    """Answer a connection that a limit turned away; the caller closes it. Best effort, never waits."""
    text = sentence(
        reason, backend=origin.backend.name, standalone=False, host="", port=0, detail="too many connections at once"
    )
    with contextlib.suppress(OSError):
        sock.recv(65536)
    with contextlib.suppress(OSError):
        sock.send(answer(reason, text, close=True))
        sock.shutdown(socket.SHUT_WR)


async def serve_proxy(egress: Egress, origin: Origin, sock: socket.socket) -> None:
    """Serve one connection to the proxy's port."""
    backend = origin.backend
    address = peer_address(sock)
    try:
        stream = await adopt(sock)
    except DialError:
        egress.released(backend)
        return
    client = ProxyClient(egress, origin, stream, address)
    client.backend = backend
    try:
        await client.serve()
    finally:
        client.end()


class ProxyClient(TargetClient):
    """A client that speaks HTTP to the proxy."""

    kept: Kept | None = None
    first = True

    async def serve(self) -> None:
        """Serve request after request until the connection ends or becomes a tunnel."""
        while await self.serve_one():
            pass

    async def serve_one(self) -> bool:
        """Serve one request; False when the connection ends with it."""
        try:
            head = await self.read_head(inside=False)
        except BadRequest as error:
            await self.reject(error)
            return False
        if head is None:
            return False
        if not self.first and not self.backend.rate.take(self.egress.loop.time()):
            self.backend.note_flood(self.origin.door, Reason.LIMIT_RATE)
            self.say(Reason.LIMIT_RATE, "too many requests a second", close=True)
            await self.linger()
            return False
        self.first = False
        if head.method == "CONNECT":
            await self.connect(head)
            return False
        return await self.forward(head)

    def begin(self, head: RequestHead) -> Attempt:
        self.target = head.target
        if (names := self.egress.names_of(self.origin)) is not None:
            names.note_proxied(head.target.host)
        self.attempt = self.origin.attempt(
            method=head.method, host=head.target.host, port=head.target.port, client_address=self.client_address
        )
        return self.attempt

    async def connect(self, head: RequestHead) -> None:
        """CONNECT: a connection to the target, then what its first bytes show."""
        attempt = self.begin(head)
        self.stream.on_end = self.cancel  # who ends now has nothing to say to the target
        reached = await self.egress.outside.reach(self.origin, head.target, attempt)
        self.stream.on_end = None
        if isinstance(reached, Refusal):
            self.refuse(attempt, reached)
            self.say(reached.reason, reached.detail, attempt.host, attempt.port, close=True)
            await self.linger()
            return
        self.upstream, self.address = reached.stream, reached.address
        self.stream.write(ESTABLISHED)
        await self.serve_inside(reached.verdict)

    async def forward(self, head: RequestHead) -> bool:
        """An absolute-form request; False when the connection ends with it."""
        attempt = self.begin(head)
        # To a parent, a request for a WebSocket goes through CONNECT (RFC 6455 4.1): a parent that takes a 101 for an
        # ordinary answer would read what follows as requests, for hosts that nobody decided on.
        plain = not head.upgrade
        reached = await self.egress.outside.reach(self.origin, head.target, attempt, plain=plain, kept=self.kept)
        if isinstance(reached, Refusal):
            return await self.refuse_request(attempt, head, reached)
        attempt.allow(reached.verdict.would_deny)
        self.address = reached.address
        used_again = self.kept is not None and reached.stream is self.kept.stream
        if not used_again:
            self.close_upstream()
            self.upstream = reached.stream
        fault = await self.carry(plan_request(head, reached.parent))
        if isinstance(fault, UpstreamFault) and fault.silent and used_again and may_repeat(head):
            reached = await self.egress.outside.reach(self.origin, head.target, attempt, plain=plain)
            self.close_upstream()
            if isinstance(reached, Reached):
                self.upstream, self.address = reached.stream, reached.address
                fault = await self.carry(plan_request(head, reached.parent))
        parent = reached.parent if isinstance(reached, Reached) else None
        return await self.conclude(head.target, parent, fault)

    async def refuse_request(self, attempt: Attempt, head: RequestHead, refusal: Refusal) -> bool:
        self.refuse(attempt, refusal)
        keep = head.keep_alive and not has_body(head)
        body = head.method != "HEAD"
        self.say(refusal.reason, refusal.detail, attempt.host, attempt.port, close=not keep, body=body)
        self.settle()
        if not keep:
            await self.linger()
        return keep

    async def conclude(
        self, target: Target, parent: ParentProxy | None, fault: UpstreamFault | ClientFault | None
    ) -> bool:
        """Book the exchange; whether the client's connection goes on."""
        exchange, address = self.exchange, self.address
        assert exchange is not None
        if fault is not None:
            await self.explain(fault)
            return False
        if exchange.upgraded:
            self.become_tunnel(sent=exchange.sent, received=exchange.received)
            return False
        self.settle()
        self.kept = None
        if exchange.upstream_reusable and exchange.client_reusable and self.upstream is not None:
            self.kept = Kept(target=target, address=address, stream=self.upstream, parent=parent)
        else:
            self.close_upstream()
        if not exchange.client_reusable and not exchange.uploaded:
            await self.linger()
        return exchange.client_reusable


def may_repeat(head: RequestHead) -> bool:
    """Whether a request may be sent a second time when the first one was lost unanswered."""
    return head.method in RETRIABLE and not has_body(head)

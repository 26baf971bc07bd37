"""Every request that the proxy can be sent, served by a coroutine: CONNECT and absolute-form.

One request at a time. Whatever the fast path (`egress.listener.http_fast_path`) does not do is done here: a name that has
to be looked up, a parent proxy, a body, a response of any size or shape, a refusal, bytes that are no request at all.
"""

from __future__ import annotations

from egress.connection.dialer import Kept, Reached, Refusal
from egress.connection.target_client import TargetClient
from egress.http.error_response import ESTABLISHED
from egress.http.exchange import ClientFault, UpstreamFault
from egress.http.plan import has_body, plan_request
from egress.http.request_head import BadRequest, RequestHead
from egress.journal.attempt import Attempt
from egress.net.upstream import DialError, ParentProxy
from egress.policy.decide import Target
from egress.policy.names import IP
from observability.events import Reason

RETRIABLE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Requests that may be sent again when a kept connection turns out to be closed (RFC 9110 9.2.2)."""


class ProxyRequests(TargetClient):
    """A client that speaks HTTP to the proxy."""

    kept: Kept | None = None
    first = True
    goes_on = False
    """The connection is fit for another request."""

    async def serve(self) -> None:
        """Read a head and serve it."""
        try:
            head = await self.read_head(inside=False)
        except BadRequest as error:
            await self.reject(error)
            return
        if head is None:
            return
        if not self.first and not self.backend.rate.take(self.egress.loop.time()):
            self.backend.note_flood(self.origin.door, Reason.LIMIT_RATE)
            self.say(Reason.LIMIT_RATE, "too many requests a second", close=True)
            await self.linger()
            return
        await self.serve_head(head, self.begin(head))

    def begin(self, head: RequestHead) -> Attempt:
        """A head is complete: what it wants."""
        self.first = False
        self.target = head.target
        if (names := self.egress.names_of(self.origin)) is not None:
            names.note_proxied(head.target.host)
        self.attempt = self.origin.attempt(
            method=head.method, host=head.target.host, port=head.target.port, client_address=self.client_address
        )
        return self.attempt

    async def serve_head(
        self, head: RequestHead, attempt: Attempt, failed: tuple[IP, DialError] | None = None
    ) -> None:
        """Serve one request; `failed`: an address of its target that was dialled already."""
        if head.method == "CONNECT":
            await self.connect(head, attempt, failed)
        else:
            self.goes_on = await self.forward(head, attempt, failed)

    async def connect(self, head: RequestHead, attempt: Attempt, failed: tuple[IP, DialError] | None) -> None:
        """CONNECT: a connection to the target, then what its first bytes show."""
        self.close_upstream()  # one that an earlier request left open
        self.kept = None
        self.stream.on_end = self.gone  # who ends now has nothing to say to the target
        reached = await self.egress.outside.reach(self.origin, head.target, attempt, failed=failed)
        self.stream.on_end = None
        if isinstance(reached, Refusal):
            await self.refuse_connect(attempt, reached)
            return
        self.upstream, self.address = reached.stream, reached.address
        self.stream.write(ESTABLISHED)
        await self.serve_inside(reached.verdict)

    async def refuse_connect(self, attempt: Attempt, refusal: Refusal) -> None:
        self.refuse(attempt, refusal)
        self.say(refusal.reason, refusal.detail, attempt.host, attempt.port, close=True)
        self.settle()
        await self.linger()

    async def forward(self, head: RequestHead, attempt: Attempt, failed: tuple[IP, DialError] | None) -> bool:
        """An absolute-form request; False when the connection ends with it."""
        # To a parent, a request for a WebSocket goes through CONNECT (RFC 6455 4.1): a parent that takes a 101 for an
        # ordinary answer would read what follows as requests, for hosts that nobody decided on.
        # Neither is it asked to answer a TRACE, which would show our credentials for it to the caller.
        plain = is_plain(head)
        reached = await self.egress.outside.reach(
            self.origin, head.target, attempt, plain=plain, kept=self.kept, failed=failed
        )
        if isinstance(reached, Refusal):
            return await self.refuse_request(attempt, head, reached)
        attempt.allow(reached.verdict.would_deny)
        self.use(reached)
        return await self.finish(head, reached.parent, await self.carry(plan_request(head, reached.parent)))

    def use(self, reached: Reached) -> None:
        """Speak on that connection from now on."""
        self.address = reached.address
        if self.kept is None or reached.stream is not self.kept.stream:
            self.close_upstream()
            self.kept = None
            self.upstream = reached.stream

    async def finish(
        self, head: RequestHead, parent: ParentProxy | None, fault: UpstreamFault | ClientFault | None
    ) -> bool:
        """Book an exchange that ended, once more when a kept connection was closed just then."""
        attempt = self.attempt
        assert attempt is not None
        again = isinstance(fault, UpstreamFault) and fault.silent and not self.stream.expired
        if again and self.kept is not None and may_repeat(head):
            reached = await self.egress.outside.reach(self.origin, head.target, attempt, plain=is_plain(head))
            self.close_upstream()
            self.kept = None
            if isinstance(reached, Reached):
                parent = reached.parent
                self.use(reached)
                fault = await self.carry(plan_request(head, parent))
        return await self.conclude(head.target, parent, fault)

    async def refuse_request(self, attempt: Attempt, head: RequestHead, refusal: Refusal) -> bool:
        self.refuse(attempt, refusal)
        keep = head.keep_alive and not has_body(head)
        body = head.method != "HEAD"
        self.say(refusal.reason, refusal.detail, attempt.host, attempt.port, close=not keep, body=body)
        self.settle()
        if not keep:
            await self.linger()
        return keep and await self.delivered()

    async def conclude(
        self, target: Target, parent: ParentProxy | None, fault: UpstreamFault | ClientFault | None
    ) -> bool:
        """Book the exchange; whether the client's connection goes on."""
        exchange = await self.completed(fault)
        if exchange is None:
            return False
        goes_on = self.book(target, parent)
        if not goes_on and not exchange.uploaded:
            await self.linger()
        return goes_on

    def book(self, target: Target, parent: ParentProxy | None) -> bool:
        """The exchange is over: keep its connection if that is fit for another; whether the client's is."""
        exchange, address, upstream = self.exchange, self.address, self.upstream
        assert exchange is not None
        assert upstream is not None
        self.settle()
        fit = exchange.upstream_reusable and exchange.client_reusable
        if fit:
            upstream.resume()  # so that what comes unasked is seen (`Kept.fits`)
        if not fit or upstream.buffer or upstream.eof:
            self.kept = None
            self.close_upstream()
        elif self.kept is None:
            self.kept = Kept(target=target, address=address, stream=upstream, parent=parent)
        return exchange.client_reusable


def is_plain(head: RequestHead) -> bool:
    """Whether a parent proxy may be asked in absolute form."""
    return not head.upgrade and head.method != "TRACE"


def may_repeat(head: RequestHead) -> bool:
    """Whether a request may be sent a second time when the first one was lost unanswered."""
    return head.method in RETRIABLE and not has_body(head)

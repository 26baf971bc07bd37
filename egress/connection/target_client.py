"""A client whose target is settled: a CONNECT that was answered, or a direct connection.

Its first bytes decide: TLS for that host becomes a tunnel, plain HTTP is served request by request with the Host
of each checked against the target, `protocol: tcp` asks nothing, everything else is cut.
"""

from __future__ import annotations

from egress.connection.client import Client
from egress.connection.first_bytes import Kind, first_bytes, objection
from egress.http.exchange import ClientFault, Exchange, RequestPlan, UpstreamFault
from egress.http.plan import plan_request
from egress.http.request_head import BadRequest, HeadReader, RequestHead
from egress.journal.attempt import Attempt
from egress.policy.decide import Allow, Mode, Protocol
from observability.events import Decision, Reason

MANY_MISFITS = "requests inside connections that name another host; each would be denied"


class TargetClient(Client):
    """Reads heads, carries exchanges, and serves what is inside a connection to one target."""

    async def read_head(self, *, inside: bool) -> RequestHead | None:
        """The next request's head, None when no more requests come. Raises BadRequest."""
        stream, budget = self.stream, self.backend.budget
        if not stream.buffer:
            self.wait_at_most(budget.idle_timeout_s)
            if not await stream.more():
                return None
        self.wait_at_most(budget.head_timeout_s)
        reader = HeadReader(inside=inside)
        while (head := reader.read(stream.buffer)) is None:
            if not await stream.more():
                if stream.expired:
                    raise BadRequest(Reason.HEAD_TIMEOUT, f"no complete request head in {budget.head_timeout_s:g} s")
                raise BadRequest(Reason.BAD_REQUEST, "the connection ended in the middle of a request head")
        stream.skip(head.size)
        self.wait_for_ever()
        return head

    async def reject(self, error: BadRequest) -> None:
        """Answer what is no proper request."""
        attempt = self.origin.attempt(client_address=self.client_address)
        attempt.deny(error.reason, error.detail)
        self.say(error.reason, error.detail, close=True)
        await self.linger()

    async def carry(self, plan: RequestPlan) -> UpstreamFault | ClientFault | None:
        """Carry one exchange with the upstream that is there; its bytes are added to those of the attempt so far."""
        assert self.upstream is not None
        before = self.exchange
        self.exchange = Exchange(self.stream, self.upstream, plan)
        if before is not None:
            self.exchange.sent, self.exchange.received = before.sent, before.received
        return await self.carry_on()

    async def carry_on(self) -> UpstreamFault | ClientFault | None:
        """Carry the exchange that there is to its end."""
        assert self.exchange is not None
        self.moved = 0
        self.wait_at_most(self.backend.budget.idle_timeout_s)
        try:
            await self.exchange.run()
        except (UpstreamFault, ClientFault) as fault:
            return fault
        finally:
            self.wait_for_ever()
        return None

    async def completed(self, fault: UpstreamFault | ClientFault | None) -> Exchange | None:
        """The exchange that just ended with a whole response; None when it broke, which is answered, or became a tunnel."""
        exchange = self.exchange
        assert exchange is not None
        if fault is not None:
            await self.explain(fault)
            return None
        if exchange.upgraded:
            self.become_tunnel(sent=exchange.sent, received=exchange.received)
            return None
        return exchange

    async def explain(self, fault: UpstreamFault | ClientFault) -> None:
        """Answer an exchange that broke, if nothing of a response went out yet; then the connection ends."""
        assert self.attempt is not None
        assert self.exchange is not None
        started = self.exchange.started
        if self.reason is not None:
            return  # it was cut just then, and a TaskGroup that fails swallows the cancellation
        if self.stream.expired:
            reason, detail = Reason.IDLE_TIMEOUT, "nothing moved for too long"
        elif isinstance(fault, UpstreamFault):
            reason, detail = fault.reason, fault.detail
        elif fault.detail:
            reason, detail = Reason.BAD_REQUEST, fault.detail
        else:
            self.settle()
            return
        host, port = self.attempt.host, self.attempt.port
        self.settle(reason, detail)
        self.close_upstream()
        if not started:
            self.say(reason, detail, host, port, close=True)
            await self.linger()
        else:
            self.stream.abort()

    async def serve_inside(self, verdict: Allow) -> None:
        """Look at the first bytes, then carry what may be carried."""
        assert self.attempt is not None
        assert self.target is not None
        if verdict.rule is not None and verdict.rule.protocol is Protocol.TCP:
            self.attempt.allow(verdict.would_deny)
            self.opaque = True
            self.become_tunnel()
            return
        self.wait_at_most(self.backend.budget.head_timeout_s)
        shown = await first_bytes(self.stream)
        self.wait_for_ever()
        if shown.kind is Kind.HTTP:
            await self.serve_inner(verdict)
            return
        if shown.kind is Kind.NOTHING and not self.stream.expired and not self.stream.buffer:
            self.attempt.allow(verdict.would_deny)  # opened and closed again: nothing was asked
            return
        no = objection(self.target, shown)
        if no is not None and (self.backend.policy.mode is Mode.ENFORCE or shown.kind is Kind.NOTHING):
            self.attempt.deny(*no)
            return
        self.objection = no[0] if no is not None else None
        self.attempt.allow(verdict.would_deny or self.objection)
        self.become_tunnel()

    async def serve_inner(self, verdict: Allow) -> None:
        """Plain HTTP inside: every request's Host must be the target."""
        while True:
            try:
                head = await self.read_head(inside=True)
            except BadRequest as error:
                await self.reject(error)
                return
            if head is None or self.spoke_unasked() or not await self.serve_inner_request(head, verdict):
                return

    def spoke_unasked(self) -> bool:
        """Whether the server ended, or said more than it was asked, since the last exchange."""
        if self.exchange is None:
            return False
        assert self.upstream is not None
        self.upstream.resume()
        return bool(self.upstream.buffer) or self.upstream.eof

    async def serve_inner_request(self, head: RequestHead, verdict: Allow) -> bool:
        assert self.attempt is not None
        assert self.target is not None
        inner, misfit = head.target, ""
        if (inner.host, inner.port) != (self.target.host, self.target.port):
            misfit = f"the request inside names {inner.host}:{inner.port}; the connection is to {self.target.host}"
        if misfit and self.backend.policy.mode is Mode.ENFORCE:
            self.deny_inner(head, misfit)
            self.say(Reason.INNER_HOST_MISMATCH, misfit, inner.host, inner.port, close=True)
            self.settle()
            await self.linger()
            return False
        remark = self.allow_inner(head, verdict, misfit)
        try:
            exchange = await self.completed(await self.carry(plan_request(head, None)))
        finally:
            if remark is not None:
                remark.close(detail=misfit)
        self.objection = None  # what it was to is over
        return exchange is not None and exchange.client_reusable and exchange.upstream_reusable

    def allow_inner(self, head: RequestHead, verdict: Allow, misfit: str) -> Attempt | None:
        """Tell of a request inside that is carried; `misfit` is what `enforce` would have against it.

        The first one makes the connection's own event. A later one that does not fit has an event of its own, which is
        returned to be closed; its bytes are the connection's. Where there are too many of them they are counted.
        """
        assert self.attempt is not None
        self.objection = Reason.INNER_HOST_MISMATCH if misfit else None
        if not self.attempt.carried:
            self.attempt.detail = misfit
            self.attempt.allow(verdict.would_deny or self.objection)
            return None
        if not misfit:
            return None
        if not self.backend.remarks.take(self.egress.loop.time()):
            self.backend.note_flood(
                self.origin.door, Reason.INNER_HOST_MISMATCH, self.attempt.via, MANY_MISFITS, Decision.REPORT
            )
            return None
        remark = self.inner_attempt(head)
        remark.address, remark.rule, remark.rule_port = (
            self.attempt.address,
            self.attempt.rule,
            self.attempt.rule_port,
        )
        remark.detail = misfit
        remark.allow(Reason.INNER_HOST_MISMATCH)
        return remark

    def inner_attempt(self, head: RequestHead) -> Attempt:
        """One for a request inside, beside that of its connection."""
        assert self.attempt is not None
        return self.origin.attempt(
            method=head.method,
            host=head.target.host,
            port=head.target.port,
            via=self.attempt.via,
            client_address=self.client_address,
        )

    def deny_inner(self, head: RequestHead, detail: str) -> None:
        """A request inside that names another host: the connection's own denial if it is the first."""
        assert self.attempt is not None
        if not self.attempt.carried:
            self.attempt.deny(Reason.INNER_HOST_MISMATCH, detail)
            return
        self.inner_attempt(head).deny(Reason.INNER_HOST_MISMATCH, detail)

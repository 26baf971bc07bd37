"""Drives a connection to one target: a CONNECT that was answered, or a direct connection; and exchanges of any client.

Its first bytes decide: TLS for that host becomes a tunnel, plain HTTP is served request by request with the Host
of each checked against the target, `protocol: tcp` asks nothing, everything else is closed.
"""

from __future__ import annotations

import functools

from egress.connection.carry import carry
from egress.connection.client import Client
from egress.connection.phases import Exchanging, InnerExchanging, Lingering, ReadingInner, Sniffing
from egress.connection.steps import Broken, Denied, Misplaced, Rejected, Step, Tunnel, Unused
from egress.connection.work import Link
from egress.http.exchange import ClientFault, UpstreamFault
from egress.http.request_head import RequestHead
from egress.journal.attempt import Attempt
from egress.policy.decide import Target
from observability.events import Decision, Reason

MANY_MISFITS = "requests inside connections that name another host; each would be denied"


class TargetClient(Client):
    """Carries exchanges, and serves what is inside a connection to one target."""

    def join(self, step: Tunnel[Link]) -> None:
        """Both connections become one tunnel."""
        link = step.handle
        link.mismatch = step.mismatch or link.mismatch
        link.attempt.allow(link.verdict.would_deny or step.mismatch)
        self.become_tunnel(link, opaque=step.opaque)

    def read_first_bytes(self, step: Sniffing[Link]) -> None:
        self.read(step, self.backend.budget.head_timeout_s)

    def read_inner_head(self, step: ReadingInner[Link]) -> None:
        self.read(step, self.backend.budget.idle_timeout_s)

    def deny_first_bytes(self, step: Denied[Link]) -> None:
        step.handle.attempt.deny(step.reason, step.detail)
        self.close()

    def record_rejected(self, step: Rejected) -> None:
        """Inside a connection: its own denial if nothing was carried yet, else one beside it."""
        link = self.work
        if not isinstance(link, Link) or step.target is None:
            super().record_rejected(step)
            return
        attempt = link.attempt
        if attempt.carried:
            attempt = self.beside(attempt, step.method, step.target)
        attempt.deny(step.reason, step.detail)

    def end_unused(self, step: Unused[Link]) -> None:
        link = step.handle
        link.attempt.allow(link.verdict.would_deny)
        self.close()

    # --- an exchange

    def exchange(self, step: Exchanging[Link]) -> None:
        """Send the request. A response that comes whole is passed on at once; for anything else a task waits."""
        link, exchange = step.handle, step.exchange
        upstream = link.upstream
        link.attempt.allow(link.verdict.would_deny)
        self.phase = step
        self.stream.on_input = None
        if link.exchange is not None:
            sent, exchange.received = link.counts()
            exchange.sent += sent
        link.exchange = exchange
        self.bytes_moved = exchange.sent + exchange.received
        self.deadline = self.egress.loop.time() + self.backend.budget.idle_timeout_s
        upstream.write(exchange.plan.head)
        if not exchange.uploaded:
            self.await_step(self.carry(step, link))
            return
        upstream.on_input = functools.partial(self.on_response, step, link)
        if upstream.buffer or upstream.eof:
            self.on_response(step, link)

    def on_response(self, step: Exchanging[Link], link: Link) -> None:
        """The response, or a part of it, or the end of the upstream."""
        upstream, exchange, stream = link.upstream, step.exchange, self.stream
        upstream.on_input = None
        try:
            if stream.out is None:  # else the client does not read
                stream.write(exchange.from_upstream(upstream.buffer, upstream.eof))
            if exchange.answered:
                following = self.finish(step, link, None)
                self.actions[type(following)](self, following)
            else:
                self.await_step(self.carry(step, link))
        except UpstreamFault as fault:
            self.await_step(self.conclude(step, link, fault))
        except Exception:
            self.fail()

    async def carry(self, step: Exchanging[Link], link: Link) -> Step:
        """Carry the exchange to its end."""
        fault = await carry(step.exchange, self.stream, link.upstream)
        return await self.conclude(step, link, fault)

    async def conclude(self, step: Exchanging[Link], link: Link, fault: UpstreamFault | ClientFault | None) -> Step:
        """The exchange is over: what comes next."""
        self.wait_forever()
        return self.finish(step, link, fault)

    def finish(self, step: Exchanging[Link], link: Link, fault: UpstreamFault | ClientFault | None) -> Step:
        if isinstance(step, InnerExchanging) and fault is None and not step.exchange.upgraded:
            link.mismatch = None  # it was about this request
            link.end_remark()
        return step.ended(fault, expired=self.stream.expired)

    def answer_broken(self, step: Broken[Link]) -> None:
        """Answer an exchange that broke, if nothing of a response has gone out yet; then the connection ends."""
        attempt = step.handle.attempt
        self.end_work(step.reason, step.detail)
        if step.started:
            self.stream.abort()
            self.close()
        else:
            self.say(step.reason, step.detail, attempt.host, attempt.port, close=True)
            self.linger(Lingering())

    # --- requests inside

    def serve_inner(self, step: InnerExchanging[Link]) -> None:
        link = step.handle
        if link.spoke_unasked():
            self.close()
            return
        self.allow_inner(link, step.head, step.misfit)
        self.exchange(step)

    def allow_inner(self, link: Link, head: RequestHead, misfit: str) -> None:
        """Record a request inside that is carried; `misfit` is why `enforce` would deny it.

        The first one makes the connection's own event. A later one that does not fit has an event of its own; its bytes are
        the connection's. Where there are too many of them they are counted.
        """
        attempt = link.attempt
        link.mismatch = Reason.INNER_HOST_MISMATCH if misfit else None
        if not attempt.carried:
            attempt.detail = misfit
            attempt.allow(link.verdict.would_deny or link.mismatch)
        elif misfit and not self.backend.remarks.take(self.egress.loop.time()):
            door = self.source.door
            self.backend.note_flood(door, Reason.INNER_HOST_MISMATCH, attempt.via, MANY_MISFITS, Decision.REPORT)
        elif misfit:
            link.remark = remark = self.inner_attempt(attempt, head)
            remark.address, remark.rule, remark.rule_port = attempt.address, attempt.rule, attempt.rule_port
            remark.detail = misfit
            remark.allow(Reason.INNER_HOST_MISMATCH)

    def deny_inner(self, step: Misplaced[Link]) -> None:
        """Deny a request inside that names another host: the connection's own denial if it is the first."""
        link, asked = step.handle, step.head.target
        if link.spoke_unasked():
            self.close()
            return
        attempt = self.inner_attempt(link.attempt, step.head) if link.attempt.carried else link.attempt
        attempt.deny(Reason.INNER_HOST_MISMATCH, step.detail)
        self.say(
            Reason.INNER_HOST_MISMATCH,
            step.detail,
            asked.host,
            asked.port,
            close=True,
            port_named=link.attempt.rule_port is not None,
        )
        self.end_work()
        self.linger(Lingering())

    def inner_attempt(self, attempt: Attempt, head: RequestHead) -> Attempt:
        """One for a request inside, beside that of its connection."""
        return self.beside(attempt, head.method, head.target)

    def beside(self, attempt: Attempt, method: str, target: Target) -> Attempt:
        return self.source.attempt(
            method=method,
            host=target.host,
            port=target.port,
            via=attempt.via,
            client_address=self.client_address,
        )

    actions = {
        **Client.actions,
        Tunnel: join,
        Sniffing: read_first_bytes,
        Exchanging: exchange,
        InnerExchanging: serve_inner,
        ReadingInner: read_inner_head,
        Misplaced: deny_inner,
        Denied: deny_first_bytes,
        Unused: end_unused,
        Broken: answer_broken,
    }

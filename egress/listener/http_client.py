"""What a client of the proxy has to wait for, each in a task: a connection that takes time, a body, a long response.

A name that has to be looked up, a parent proxy, a second address, a response of any size or shape. Everything else is done
at once, by the fast path (`egress.listener.http_fast_path`); both apply the steps of the same phases.
"""

from __future__ import annotations

from egress.connection.dialer import Kept, Reached
from egress.connection.phases import Exchanging, InnerExchanging, Lingering, Opening, ReadingHead
from egress.connection.steps import Refusal, Refused, Step
from egress.connection.target_client import TargetClient
from egress.connection.work import IDLE, Asking, Link
from egress.http.error_response import ESTABLISHED
from egress.http.exchange import ClientFault, UpstreamFault
from egress.http.request_head import RequestHead
from egress.journal.attempt import Attempt


class SlowPath(TargetClient):
    """A client that speaks HTTP to the proxy."""

    kept: Kept | None = None
    """The connection of an earlier request, between requests."""

    # --- a connection to the target

    def await_open(self, opening: Opening[Asking]) -> None:
        self.phase = opening
        self.wait_forever()
        self.await_step(self.open(opening, opening.handle))

    async def open(self, opening: Opening[Asking], asking: Asking) -> Step:
        """A connection to the target, or why there is none."""
        head, attempt = opening.head, asking.attempt
        connects = head.method == "CONNECT"
        if connects:
            self.close_kept()
            self.stream.on_end = self.abort  # a client that ends now has nothing to say to the target
        reached = await self.egress.dialer.open(
            self.source, head.target, attempt, plain=is_plain(head), kept=self.kept, failed=opening.failed
        )
        self.stream.on_end = None
        if isinstance(reached, Refusal):
            return opening.refused(reached)
        link = self.link_to(head, attempt, reached)
        return opening.opened(link, reached.verdict, reached.parent)

    def link_to(self, head: RequestHead, attempt: Attempt, reached: Reached) -> Link:
        link = Link(attempt, head.target, reached.verdict, reached.stream, reached.address, reached.parent)
        self.use(link, head)
        return link

    def use(self, link: Link, head: RequestHead) -> None:
        """Be busy with the request on that connection, which may be the one that is kept."""
        kept = self.kept
        if kept is not None and link.upstream is kept.stream:
            link.kept, self.kept = kept, None
        else:
            self.close_kept()
        self.begin(link)
        if head.method == "CONNECT":
            self.stream.write(ESTABLISHED)

    def answer_refused(self, step: Refused[Asking]) -> None:
        attempt, refusal = step.handle.attempt, step.refusal
        self.refuse(attempt, refusal)
        self.say(
            refusal.reason,
            refusal.detail,
            attempt.host,
            attempt.port,
            close=not step.keep,
            body=step.body,
            port_named=attempt.rule_port is not None,
        )
        self.end_work()
        if step.keep:
            self.apply(ReadingHead(self.backend))
        else:
            self.linger(Lingering())

    # --- an exchange that is over

    async def conclude(self, step: Exchanging[Link], link: Link, fault: UpstreamFault | ClientFault | None) -> Step:
        """Repeat the request when a reused connection was closed just then."""
        if link.kept is not None and step.may_repeat(fault) and not self.stream.expired:
            self.wait_forever()
            head, attempt = step.head, link.attempt
            reached = await self.egress.dialer.open(self.source, head.target, attempt, plain=is_plain(head))
            link.upstream.abort()
            if isinstance(reached, Reached):
                link = self.link_to(head, attempt, reached)
                sent = step.exchange.sent
                step = step.again(link, reached.parent)
                step.exchange.sent += sent
                link.exchange = step.exchange
                self.bytes_moved = sum(link.counts())
                self.phase = step
                self.wait_at_most(self.backend.budget.idle_timeout_s)
                link.upstream.write(step.exchange.plan.head)
                return await self.carry(step, link)
        return await super().conclude(step, link, fault)

    def finish(self, step: Exchanging[Link], link: Link, fault: UpstreamFault | ClientFault | None) -> Step:
        if isinstance(step, InnerExchanging):
            return super().finish(step, link, fault)
        if fault is None and not step.exchange.upgraded:
            self.keep_or_close(step, link)
            return step.next()
        return step.ended(fault, expired=self.stream.expired)

    def keep_or_close(self, step: Exchanging[Link], link: Link) -> None:
        """Keep the upstream connection if it is fit for another request."""
        upstream, exchange = link.upstream, step.exchange
        link.attempt.close(None, exchange.sent, exchange.received)
        self.work = IDLE
        self.bytes_moved = 0
        fit = exchange.upstream_reusable and exchange.client_reusable
        if fit:
            upstream.resume()  # so that what comes unasked is seen (`Kept.fits`)
        if not fit or upstream.buffer or upstream.eof:
            upstream.abort()
        else:
            self.kept = link.kept or Kept(
                target=link.target, address=link.address, stream=upstream, parent=link.parent
            )

    def read_head(self, step: ReadingHead) -> None:
        """The connection goes on with another request."""
        self.read_later(step, self.backend.budget.idle_timeout_s)

    # --- the connection that is kept

    def pending_bytes(self) -> int:
        kept = self.kept
        held = len(kept.stream.buffer) + kept.stream.unsent() if kept is not None else 0
        return super().pending_bytes() + held

    def close_kept(self) -> None:
        if self.kept is not None:
            self.kept.stream.abort()
            self.kept = None

    actions = {
        **TargetClient.actions,
        Opening: await_open,
        Refused: answer_refused,
        ReadingHead: read_head,
    }


def is_plain(head: RequestHead) -> bool:
    """Whether a parent proxy may be asked in absolute form.

    A request for a WebSocket goes to a parent through CONNECT (RFC 6455 4.1): a parent that takes a 101 for an ordinary
    answer would read what follows as requests, for hosts that were never decided. A parent is not asked to answer a TRACE
    either, which would show our credentials for it to the client.
    """
    return not head.upgrade and head.method not in ("TRACE", "CONNECT")

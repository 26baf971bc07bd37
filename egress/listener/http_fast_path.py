"""The HTTP proxy on a backend's 127.0.0.1:3128: CONNECT and absolute-form requests.

Theory of operation
-------------------
Every request on a kept-alive connection is decided for itself. What is common is done here by functions that the poller
calls as bytes come, without a task: a head, a target whose address is at hand (`Dialer.at_hand`), the first bytes of a
tunnel, a response that came whole. Whatever has to be awaited is awaited in `egress.listener.http_client`. Both apply the
steps of the phases in `egress.connection.phases`, so there is one protocol and one place where it decides.
"""

from __future__ import annotations

import contextlib
import functools
import math
import socket

from egress.connection.backend import DecisionCache, Route, Source
from egress.connection.client import guarded, stream_of
from egress.connection.dialer import Reached
from egress.connection.phases import Deciding, Dialling, Lingering, ReadingHead
from egress.connection.service import ConnectionService
from egress.connection.steps import Refusal
from egress.connection.work import Asking, Dial, Link
from egress.http.error_response import error_response, error_text
from egress.http.request_head import RequestHead
from egress.journal.attempt import Attempt
from egress.listener.http_client import SlowPath
from egress.net.dial_error import DialError
from egress.net.stream import Stream
from egress.net.upstream import Dialling as DialInProgress
from observability.events import Reason


def refuse_connection(sock: socket.socket, source: Source, reason: Reason) -> None:
    """Answer a connection that a limit turned away; the caller closes it. Best effort, never waits."""
    text = error_text(
        reason, backend=source.backend.name, standalone=False, host="", port=0, detail="too many connections at once"
    )
    with contextlib.suppress(OSError):
        sock.recv(65536)
    with contextlib.suppress(OSError):
        sock.send(error_response(reason, text, close=True))
        sock.shutdown(socket.SHUT_WR)


def serve_proxy(egress: ConnectionService, source: Source, sock: socket.socket, address: str) -> None:
    """Serve one connection to the proxy's port."""
    stream = stream_of(egress, source, sock)
    if stream is not None:
        client = FastPath(egress, source, stream, address, ReadingHead(source.backend))
        client.wait(source.backend.budget.idle_timeout_s)


class FastPath(SlowPath):
    """A client that speaks HTTP to the proxy, served without a task where nothing has to be awaited."""

    first = True

    # --- a request

    def decide(self, step: Deciding) -> None:
        """A head is complete: find out whether and where the request may go."""
        self.phase = step
        self.stream.on_input = None
        self.deadline = math.inf
        head = step.head
        if not (self.first or self.backend.rate.take(self.egress.loop.time())):
            self.backend.note_flood(self.source.door, Reason.LIMIT_RATE)
            self.say(Reason.LIMIT_RATE, "too many requests a second", close=True)
            self.linger(Lingering())
            return
        self.first = False
        attempt = self.begin_attempt(head)
        route = self.egress.dialer.at_hand(self.source.backend, head.target)
        if route is None:
            self.work = asking = Asking(attempt)
            self.apply(step.wait(asking))
        else:
            self.go(step, attempt, route)

    def begin_attempt(self, head: RequestHead) -> Attempt:
        target = head.target
        if (names := self.egress.names_of(self.source)) is not None:
            names.note_proxied(target.host)
        return self.source.attempt(
            method=head.method, host=target.host, port=target.port, client_address=self.client_address
        )

    def go(self, step: Deciding, attempt: Attempt, route: Route) -> None:
        """The address is at hand: dial it, or use the connection that is kept."""
        head, kept = step.head, self.kept
        attempt.rule, attempt.rule_port, attempt.address = route.rule, route.rule_port, route.address_text
        if kept is not None and head.method != "CONNECT" and kept.fits(head.target, route.address):
            link = Link(attempt, head.target, route.verdict, kept.stream, route.address)
            link.kept, self.kept = kept, None
            self.work = link
            self.exchange(step.reuse(link))
        else:
            self.close_kept()
            self.dial(step.dial(Asking(attempt), route.address, route.verdict))

    # --- a dial

    def dial(self, step: Dialling[Asking]) -> None:
        """Dial the address that the policy picked."""
        loop, dialer = self.egress.loop, self.egress.dialer
        decisions = self.source.backend.decisions
        started = loop.time()
        dialling = DialInProgress(self.stream.poller, step.address, step.head.target.port)
        self.phase = step
        self.work = work = Dial(step.handle.attempt, dialling, started, step)
        if dialling.outcome is not None:
            self.dialled(work, decisions)
            return
        dialling.on_done = functools.partial(self.dialled, work, decisions)
        self.wait_at_most(dialer.connect_timeout_s)
        if step.head.method == "CONNECT":
            self.stream.on_end = self.abort  # a client that ends now has nothing to say to the target
            if self.stream.eof and not self.stream.buffer:
                self.abort()

    @guarded
    def dialled(self, work: Dial, decisions: DecisionCache) -> None:
        """The connection is made, or cannot be."""
        step, attempt, outcome = work.phase, work.attempt, work.dialling.outcome
        self.stream.on_end = None
        self.wait_forever()
        if isinstance(outcome, DialError):
            self.dial_failed(work, outcome)
        elif isinstance(outcome, Stream):
            attempt.connect_s = self.egress.loop.time() - work.started
            if self.source.backend.decisions is not decisions and not self.is_still_allowed(work, outcome):
                return
            link = Link(attempt, step.head.target, step.verdict, outcome, step.address)
            self.use(link, step.head)
            self.apply(step.opened(link))

    def dial_failed(self, work: Dial, error: DialError) -> None:
        self.work = Asking(work.attempt)
        self.apply(work.phase.failed(error))

    def is_still_allowed(self, work: Dial, stream: Stream) -> bool:
        """The policy changed while we dialled: what is not allowed any more does not begin."""
        step = work.phase
        reached = Reached(stream=stream, verdict=step.verdict, address=step.address)
        checked = self.egress.dialer.still_allowed(self.source.backend, step.head.target, reached)
        if isinstance(checked, Refusal):
            self.work = Asking(work.attempt)
            self.apply(step.refused(checked))
            return False
        return True

    def on_deadline(self) -> None:
        work = self.work
        if not isinstance(work, Dial):
            super().on_deadline()
            return
        self.stream.on_end = None
        work.dialling.abandon()
        self.dial_failed(work, work.dialling.late(self.egress.dialer.connect_timeout_s))

    actions = {**SlowPath.actions, Deciding: decide, Dialling: dial}

"""The HTTP proxy on a backend's 127.0.0.1:3128: CONNECT and absolute-form requests.

Theory of operation
-------------------
Every request on a kept-alive connection is decided anew. What is common is done here by functions that the poller calls as
bytes come, without a task: a head that is there whole, a target whose address is at hand (`Outside.at_hand`), a ClientHello
that names it, a response that came whole. As soon as anything else shows, a coroutine takes over from that point
(`egress.listener.http_client`, `egress.connection.target_client`) and serves the request to its end; both ways use the same
parts, so they decide alike.

    wait_for_head → head_came → go_ahead → dialled → established → hello_came → tunnel
                        ▲                     └────▶ ask → answer_came ─┐
                        └───────────────────────────────────────────────┘
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
from collections.abc import Callable

from egress.connection.backend import Origin, Verdicts
from egress.connection.client import stream_of
from egress.connection.dialer import Reached, Refusal
from egress.connection.first_bytes import Kind, look, objection
from egress.connection.service import ConnectionService
from egress.http.error_response import ESTABLISHED, answer, sentence
from egress.http.exchange import Exchange
from egress.http.plan import plan_request
from egress.http.request_head import BadRequest, BodyFraming, RequestHead, parse_head
from egress.listener.http_client import ProxyRequests
from egress.net.upstream import DialError, Dialling
from egress.policy.decide import Allow, Protocol
from egress.policy.names import IP
from observability.events import Reason

logger = logging.getLogger(__name__)


def alone(step: Callable[[ProxyClient], None]) -> Callable[[ProxyClient], None]:
    """A step that ends its connection alone when it fails, as a coroutine's failure does."""

    @functools.wraps(step)
    def guarded(client: ProxyClient) -> None:
        try:
            step(client)
        except Exception:
            logger.exception("a connection of %s failed", client.origin.door or client.backend.name)
            client.gone()

    return guarded


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


def serve_proxy(egress: ConnectionService, origin: Origin, sock: socket.socket, address: str) -> None:
    """Serve one connection to the proxy's port."""
    stream = stream_of(egress, origin, sock)
    if stream is not None:
        ProxyClient(egress, origin, stream, address).wait_for_head()


class ProxyClient(ProxyRequests):
    """A client that speaks HTTP to the proxy, served without a task as long as nothing unusual happens."""

    head: RequestHead
    """The request that is being served."""
    verdict: Allow
    """What allows it."""
    verdicts: Verdicts
    """The policy's, when it was decided."""
    dialling: Dialling | None = None
    dialled_at = 0.0

    # --- a head

    def wait_for_head(self) -> None:
        """The next request, or the end."""
        self.wait_at_most(self.backend.budget.idle_timeout_s)
        self.stream.on_input = self.head_came

    def next_head(self) -> None:
        """The connection goes on."""
        stream = self.stream
        if stream.buffer or stream.eof:
            stream.on_input = None
            stream.poller.later(self.head_came)
        else:
            self.wait_for_head()
            stream.resume()

    @alone
    def head_came(self) -> None:
        """A request's head is there, or a part of it, or the end."""
        stream = self.stream
        if self.over:
            return
        if not stream.buffer:
            self.end()
            return
        try:
            head = parse_head(stream.buffer)
        except BadRequest:
            head = None
        if head is None or not (self.first or self.backend.rate.take(self.egress.loop.time())):
            self.run(self.serve())
            return
        stream.on_input = None
        stream.skip(head.size)
        self.wait_for_ever()
        self.head = head
        attempt = self.begin(head)
        if head.framing is not BodyFraming.NONE or head.upgrade or head.expect_continue or not self.go_ahead():
            self.run(self.serve_head(head, attempt))

    # --- a connection to its target

    def go_ahead(self) -> bool:
        """Dial, or use the connection that is kept; False when the address is not at hand."""
        head, attempt, outside = self.head, self.attempt, self.egress.outside
        assert attempt is not None
        route = outside.at_hand(self.origin.backend, head.target)
        if route is None:
            return False
        address = route.address
        self.verdict, self.verdicts = route.verdict, self.origin.backend.verdicts
        attempt.rule, attempt.rule_port, attempt.address = route.rule, route.rule_port, route.address_text
        if self.kept is not None and head.method != "CONNECT" and self.kept.fits(head.target, address):
            self.address = address
            self.ask()
            return True
        self.close_upstream()
        self.kept = None
        self.dialled_at = self.egress.loop.time()
        self.dialling = Dialling(self.stream.poller, address, head.target.port)
        if self.dialling.stream is not None or self.dialling.error is not None:
            self.dialled()
            return True
        self.dialling.on_done = self.dialled
        self.wait_at_most(outside.connect_timeout_s)
        if head.method == "CONNECT":
            self.stream.on_end = self.gone  # who ends now has nothing to say to the target
            if self.stream.eof and not self.stream.buffer:
                self.gone()
        return True

    @alone
    def dialled(self) -> None:
        """The connection is made, or cannot be."""
        dialling, attempt = self.dialling, self.attempt
        assert dialling is not None
        assert attempt is not None
        self.dialling = self.stream.on_end = None
        self.wait_for_ever()
        if dialling.stream is None:
            assert dialling.error is not None
            self.dial_failed(dialling.address, dialling.error)
            return
        self.upstream, self.address = dialling.stream, dialling.address
        attempt.connect_s = self.egress.loop.time() - self.dialled_at
        if self.origin.backend.verdicts is not self.verdicts and not self.still_allowed():
            return
        if self.head.method == "CONNECT":
            self.established()
        else:
            self.ask()

    def dial_failed(self, address: IP, error: DialError) -> None:
        """The next address, or the reason."""
        assert self.attempt is not None
        self.run(self.serve_head(self.head, self.attempt, (address, error)))

    def still_allowed(self) -> bool:
        """The policy changed while we dialled: what is not allowed any more does not begin."""
        assert self.upstream is not None
        reached = Reached(stream=self.upstream, verdict=self.verdict, address=self.address)
        looked = self.egress.outside.still_allowed(self.origin.backend, self.head.target, reached)
        if isinstance(looked, Reached):
            return True
        self.upstream = None
        self.run(self.refuse_head(looked))
        return False

    async def refuse_head(self, refusal: Refusal) -> None:
        assert self.attempt is not None
        if self.head.method == "CONNECT":
            await self.refuse_connect(self.attempt, refusal)
        else:
            self.goes_on = await self.refuse_request(self.attempt, self.head, refusal)

    # --- CONNECT

    def established(self) -> None:
        """The tunnel's first bytes decide what it is."""
        self.stream.write(ESTABLISHED)
        rule = self.verdict.rule
        if rule is not None and rule.protocol is Protocol.TCP:
            self.run(self.serve_inside(self.verdict))
            return
        self.wait_at_most(self.backend.budget.head_timeout_s)
        self.stream.on_input = self.hello_came
        if self.stream.buffer or self.stream.eof:
            self.hello_came()
        else:
            self.stream.resume()

    @alone
    def hello_came(self) -> None:
        """The tunnel's first bytes, or some of them."""
        assert self.attempt is not None
        shown = look(self.stream.buffer)
        if shown is None or shown.kind is not Kind.TLS or objection(self.head.target, shown) is not None:
            self.run(self.serve_inside(self.verdict))
            return
        self.stream.on_input = None
        self.attempt.allow(self.verdict.would_deny)
        self.become_tunnel()

    # --- a plain request

    def ask(self) -> None:
        """Send a request that has no body."""
        upstream, attempt = self.upstream, self.attempt
        assert upstream is not None
        assert attempt is not None
        attempt.allow(self.verdict.would_deny)
        self.exchange = Exchange(self.stream, upstream, plan_request(self.head, None))
        self.exchange.ask()
        self.moved = 0
        self.wait_at_most(self.backend.budget.idle_timeout_s)
        upstream.on_input = self.answer_came
        if upstream.buffer or upstream.eof:
            self.answer_came()

    @alone
    def answer_came(self) -> None:
        """The response, or a part of it, or the end."""
        exchange, upstream = self.exchange, self.upstream
        assert exchange is not None
        assert upstream is not None
        upstream.on_input = None
        if not exchange.answer_at_once():
            self.run(self.take_over())
        elif self.book(self.head.target, None):
            self.next_head()
        else:
            self.end()

    async def take_over(self) -> None:
        """Carry the exchange to its end."""
        self.goes_on = await self.finish(self.head, None, await self.carry_on())

    # --- what ends it

    def finished(self) -> None:
        if self.goes_on and not self.over and not self.stream.lost and self.reason is None:
            self.goes_on = False
            self.next_head()
        else:
            self.end()

    def expire(self) -> None:
        dialling = self.dialling
        if dialling is None:
            super().expire()
            return
        self.dialling = self.stream.on_end = None
        dialling.abandon()
        self.dial_failed(dialling.address, dialling.late(self.egress.outside.connect_timeout_s))

    def end(self) -> None:
        if self.dialling is not None:
            self.dialling.abandon()
            self.dialling = None
        super().end()

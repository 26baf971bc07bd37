"""One client connection until it ends or becomes a tunnel: deadlines, denials, and what all listeners share."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Coroutine
from typing import Any

from egress.connection.backend import Origin
from egress.connection.dialer import Refusal
from egress.connection.service import ConnectionService
from egress.connection.tunnel_connection import CarriedTunnel
from egress.http.error_response import answer, sentence
from egress.http.exchange import Exchange
from egress.journal.attempt import Attempt
from egress.net.stream import Stream
from egress.policy.decide import Deny, Mode, Target
from egress.policy.names import IP
from observability.events import Reason

logger = logging.getLogger(__name__)

LINGER_S = 2.0
LINGER_BYTES = 1 << 20


class Client:
    """A connection that somebody behind `origin` made.

    It is served by functions that the poller calls, or (`run`) by a coroutine in a task of its own.
    """

    def __init__(self, egress: ConnectionService, origin: Origin, stream: Stream, address: str) -> None:
        self.egress = egress
        self.origin = origin
        self.backend = origin.backend
        """Where its place is counted."""
        self.stream = stream
        self.client_address = address
        self.attempt: Attempt | None = None
        """What it is carrying now."""
        self.target: Target | None = None
        self.address: IP | None = None
        self.upstream: Stream | None = None
        self.exchange: Exchange | None = None
        self.deadline = math.inf
        self.moved = 0
        self.reason: Reason | None = None
        """Why it was cut."""
        self.opaque = False
        """A rule carries it without a look at what is inside."""
        self.objection: Reason | None = None
        """What `enforce` would have against what is inside."""
        self.over = False
        """It ended, or a tunnel has its place."""
        self.task: asyncio.Task[None] | None = None
        stream.on_lost = self.gone
        origin.live.add(self)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine serve it from here on; when that ends, so does the connection."""
        self.stream.on_input = None
        if self.upstream is not None:
            self.upstream.on_input = None
        self.task = task = self.egress.tasks.create_task(self.guard(work))
        self.origin.tasks.add(task)
        task.add_done_callback(lambda _: self.ran(task, work))

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("a connection of %s failed", self.origin.door or self.backend.name)

    def ran(self, task: asyncio.Task[None], work: Coroutine[Any, Any, None]) -> None:
        """Its task is done, perhaps cancelled before it began."""
        work.close()
        self.origin.tasks.discard(task)
        self.task = None
        self.finished()

    def finished(self) -> None:
        """The coroutine that served it is done."""
        self.end()

    def gone(self) -> None:
        """Nobody is there any more, or it is cut."""
        if self.task is not None:
            self.task.cancel()
        else:
            self.end()

    # --- a live connection

    def tick(self, now: float) -> None:
        if self.exchange is not None:
            moved = self.exchange.sent + self.exchange.received
            if moved != self.moved:
                self.moved = moved
                self.deadline = now + self.backend.budget.idle_timeout_s
            if self.attempt is not None:
                self.attempt.progress(now, self.exchange.sent, self.exchange.received)
        if now >= self.deadline:
            self.deadline = math.inf
            self.expire()

    def expire(self) -> None:
        """It waited long enough: what it waits for ends."""
        self.stream.expire()
        if self.upstream is not None:
            self.upstream.expire()

    def revalidate(self) -> None:
        attempt, target = self.attempt, self.target
        if attempt is None or target is None or (self.upstream is None and not attempt.carried):
            return  # nothing is connected yet; `Outside.reach` looks again once it is
        network = self.upstream.network if self.upstream is not None else ""
        verdict = self.egress.outside.recheck(self.origin.backend, target, self.address, network)
        objected = self.objection is not None and self.origin.backend.policy.mode is Mode.ENFORCE
        if isinstance(verdict, Deny) or objected:
            if not attempt.carried:  # a tunnel that has not shown its first bytes
                attempt.deny(Reason.POLICY_REVOKED, "the policy changed meanwhile")
            self.cut(Reason.POLICY_REVOKED)

    def cut(self, reason: Reason) -> None:
        self.reason = reason
        self.stream.on_lost = None
        self.gone()

    def waiting(self) -> int:
        """Bytes that came and were not used yet, or that were written and not taken yet."""
        streams = (self.stream,) if self.upstream is None else (self.stream, self.upstream)
        return sum(len(stream.buffer) + unsent(stream) for stream in streams)

    # --- for its coroutine

    def wait_at_most(self, seconds: float) -> None:
        """What is awaited next ends after about `seconds` (the sweep looks once a second)."""
        self.deadline = self.egress.loop.time() + seconds

    def wait_for_ever(self) -> None:
        self.deadline = math.inf

    def close_upstream(self) -> None:
        if self.upstream is not None:
            self.upstream.abort()
            self.upstream = None

    def settle(self, reason: Reason | None = None, detail: str = "") -> None:
        """The current attempt is over."""
        if self.attempt is not None:
            exchange = self.exchange
            sent, received = (exchange.sent, exchange.received) if exchange is not None else (0, 0)
            self.attempt.close(reason, sent, received, detail)
        self.attempt = self.target = self.address = self.exchange = None

    def end(self) -> None:
        """Give back the place, unless a tunnel has it now. Once is enough; more does no harm."""
        if self.over:
            return
        self.over = True
        self.settle(self.reason)
        self.close_upstream()
        if self.reason is not None:
            self.stream.abort()
        else:
            self.stream.close()
        self.origin.live.discard(self)
        if self.reason is None and unsent(self.stream):
            Leaving(self)
        else:
            self.egress.released(self.backend)

    def become_tunnel(self, *, sent: int = 0, received: int = 0) -> None:
        """Join client and upstream; nothing is parsed any more."""
        assert self.attempt is not None
        assert self.target is not None
        assert self.upstream is not None
        CarriedTunnel(
            self.egress,
            self.origin,
            self.attempt,
            self.target,
            self.address,
            self.stream,
            self.upstream,
            backend=self.backend,
            opaque=self.opaque,
            objection=self.objection,
            sent=sent,
            received=received,
        )
        self.over = True
        self.origin.live.discard(self)

    def refuse(self, attempt: Attempt, refusal: Refusal) -> None:
        """Put a refusal on record."""
        if refusal.denied:
            attempt.deny(refusal.reason, refusal.detail)
        else:
            attempt.fail(refusal.reason, refusal.detail, would_deny=refusal.would_deny)

    def say(
        self, reason: Reason, detail: str, host: str = "", port: int = 0, *, close: bool, body: bool = True
    ) -> None:
        """Answer with an error of ours."""
        text = sentence(
            reason,
            backend=self.backend.name,
            standalone=self.egress.outside.surroundings.standalone,
            host=host,
            port=port,
            detail=detail,
            port_named=self.attempt is not None and self.attempt.rule_port is not None,
        )
        self.stream.write(answer(reason, text, close=close, with_body=body))

    async def delivered(self) -> bool:
        """Wait until the caller took enough of what it was answered; False when it does not."""
        self.wait_at_most(self.backend.budget.idle_timeout_s)
        taken = await self.stream.drain()
        self.wait_for_ever()
        await self.stream.poller.turn()  # others have their turn before the next of many pipelined requests
        return taken

    async def linger(self) -> None:
        """Close so that the caller can still read our answer: closing with its bytes unread would reset it."""
        self.stream.write_eof()
        self.wait_at_most(LINGER_S)
        taken = 0
        while taken < LINGER_BYTES and (data := await self.stream.receive()):
            taken += len(data)


class Leaving:
    """A connection that is over but for what its caller has not taken yet: it keeps its place until it did.

    Otherwise one that never reads would hold a descriptor that no cap counts.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.left = unsent(client.stream)
        self.since = client.egress.loop.time()
        client.stream.on_lost = self.gone
        client.origin.live.add(self)

    def tick(self, now: float) -> None:
        left = unsent(self.client.stream)
        if left != self.left:
            self.left, self.since = left, now
        elif now - self.since >= self.client.backend.budget.idle_timeout_s:
            self.cut(Reason.IDLE_TIMEOUT)

    def revalidate(self) -> None:
        """What was answered was allowed."""

    def cut(self, reason: Reason) -> None:
        self.client.stream.abort()
        self.gone()

    def waiting(self) -> int:
        return self.client.waiting()

    def gone(self) -> None:
        self.client.origin.live.discard(self)
        self.client.egress.released(self.client.backend)


def unsent(stream: Stream) -> int:
    """Bytes that were written and that the kernel has not taken yet."""
    return len(stream.out) if stream.out is not None else 0


def stream_of(egress: ConnectionService, origin: Origin, sock: socket.socket) -> Stream | None:
    """A stream on a connection that was admitted; None, and its place is given back, when that cannot be."""
    try:
        return Stream(origin.backend.poller, sock)
    except OSError:
        sock.close()
        egress.released(origin.backend)
        return None

"""One client connection until it ends or becomes a tunnel: the driver of its phases (`egress.connection.phases`).

Steps are applied at once, from the function that the poller calls; a task is made only where something has to be awaited (a
lookup, a body, a client that does not read), and the step that it ends with is applied like any other.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from egress.connection.backend import Source
from egress.connection.phases import LINGER_S, Lingering
from egress.connection.service import ConnectionService
from egress.connection.steps import ENDED, End, Phase, Refusal, Rejected, Step, Wait
from egress.connection.tunnel_connection import TunnelConnection
from egress.connection.work import IDLE, Link, Work
from egress.http.error_response import error_response, error_text
from egress.journal.attempt import Attempt
from egress.net.stream import WRITE_AHEAD, Stream
from egress.policy.decide import Deny, Mode
from observability.events import Reason

logger = logging.getLogger(__name__)

C = TypeVar("C", bound="Client")
Actions: TypeAlias = dict[type, Callable[[Any, Any], None]]
P = ParamSpec("P")


def guarded(step: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """A function that the poller calls: when it fails, its own connection ends, and no other."""

    @functools.wraps(step)
    def call(client: C, /, *args: P.args, **named: P.kwargs) -> None:
        try:
            step(client, *args, **named)
        except Exception:
            client.fail()

    return call


class Client:
    """A connection that a program behind `source` made."""

    def __init__(self, egress: ConnectionService, source: Source, stream: Stream, address: str, phase: Phase) -> None:
        self.egress = egress
        self.source = source
        self.backend = source.backend
        """The one that its slot is counted for."""
        self.stream = stream
        self.client_address = address
        self.phase = phase
        self.work: Work = IDLE
        self.deadline = math.inf
        self.bytes_moved = 0
        self.reason: Reason | None = None
        """Why it was aborted."""
        self.closed = False
        """It has ended, or a tunnel has taken over its slot."""
        self.task: asyncio.Task[Step] | None = None
        stream.on_lost = self.abort
        source.live.add(self)

    # --- bytes and steps

    def on_input(self) -> None:
        """The client sent something, or ended."""
        if self.closed:
            return
        try:
            step = self.phase.received(self.stream.buffer, self.stream.eof)
            self.actions[type(step)](self, step)
        except Exception:
            self.fail()

    def fail(self) -> None:
        """A fault of ours: log it, and end this connection and no other."""
        logger.exception("a connection of %s failed", self.source.door or self.backend.name)
        self.abort()

    def apply(self, step: Step) -> None:
        """Do what comes next."""
        self.actions[type(step)](self, step)

    def wait(self, seconds: float | None) -> None:
        """Stay in this phase until more comes."""
        if seconds is not None:
            self.wait_at_most(seconds)
        stream = self.stream
        stream.on_input = self.on_input
        if stream.unread:
            stream.poller.later(functools.partial(self.read_on, self.phase))
        else:
            stream.resume()

    def read_on(self, phase: Phase) -> None:
        if not self.closed and self.phase is phase:
            self.stream.resume()

    def read(self, phase: Phase, seconds: float) -> None:
        """Enter a phase that reads, and wait for its first byte for `seconds`."""
        self.phase = phase
        stream = self.stream
        self.deadline = self.egress.loop.time() + seconds
        if stream.expired:
            self.apply(phase.deadline(stream.buffer))
        elif stream.buffer or stream.eof:
            self.apply(phase.received(stream.buffer, stream.eof))
        else:
            self.wait(None)

    def read_later(self, phase: Phase, seconds: float) -> None:
        """The same in a turn of its own, so that many pipelined requests do not hold up others."""
        stream = self.stream
        if not (stream.buffer or stream.eof or stream.unread):
            self.phase = phase
            self.deadline = self.egress.loop.time() + seconds
            stream.on_input = self.on_input
            stream.resume()
        elif not stream.buffer and not stream.eof:
            self.read(phase, seconds)
        elif stream.unsent() > WRITE_AHEAD:
            self.await_step(self.after_drain(phase))
        else:
            stream.on_input = None
            self.phase = phase
            self.wait_at_most(seconds)
            stream.poller.later(self.on_input)

    async def after_drain(self, phase: Phase) -> Step:
        """Wait until the client has read its answers."""
        self.wait_at_most(self.backend.budget.idle_timeout_s)
        return phase if await self.stream.drain() else ENDED

    def await_step(self, work: Coroutine[Any, Any, Step]) -> None:
        """Let a task find out what comes next."""
        self.stream.on_input = None
        self.task = task = self.egress.tasks.create_task(self.guard(work))
        self.source.tasks.add(task)
        task.add_done_callback(lambda _: self.on_task_done(task, work))

    async def guard(self, work: Coroutine[Any, Any, Step]) -> Step:
        try:
            return await work
        except Exception:
            logger.exception("a connection of %s failed", self.source.door or self.backend.name)
            return ENDED

    @guarded
    def on_task_done(self, task: asyncio.Task[Step], work: Coroutine[Any, Any, Step]) -> None:
        """The task has ended; it may have been cancelled before it began."""
        work.close()
        self.source.tasks.discard(task)
        self.task = None
        if self.closed:
            return
        if task.cancelled() or self.stream.lost or self.reason is not None:
            self.close()
        else:
            self.apply(task.result())

    # --- deadlines, and the sweep

    def tick(self, now: float) -> None:
        moved = sum(self.work.counts())
        if moved != self.bytes_moved:
            self.bytes_moved = moved
            self.deadline = now + self.backend.budget.idle_timeout_s
        self.work.progress(now)
        if now >= self.deadline:
            self.deadline = math.inf
            self.on_deadline()

    def on_deadline(self) -> None:
        """Deadline passed: fail every pending read and write."""
        self.stream.on_input = None
        self.work.expire()
        self.stream.expire()
        if self.task is None:
            self.apply(self.phase.deadline(self.stream.buffer))

    def revalidate(self) -> None:
        """The policy changed: end the connection if it would not be allowed now."""
        link = self.work
        if not isinstance(link, Link):
            return  # nothing is connected yet; the dialer looks again once it is
        network = link.upstream.network
        verdict = self.egress.dialer.recheck(self.source.backend, link.target, link.address, network)
        mismatched = link.mismatch is not None and self.source.backend.policy.mode is Mode.ENFORCE
        if isinstance(verdict, Deny) or mismatched:
            if not link.attempt.carried:  # its first bytes have not come
                link.attempt.deny(Reason.POLICY_REVOKED, "the policy changed meanwhile")
            self.abort_with(Reason.POLICY_REVOKED)

    def pending_bytes(self) -> int:
        """Bytes that were received and not used, or written and not sent."""
        return len(self.stream.buffer) + self.stream.unsent() + self.work.pending_bytes()

    def wait_at_most(self, seconds: float) -> None:
        """Set the deadline, about `seconds` from now (the sweep looks once a second)."""
        self.deadline = self.egress.loop.time() + seconds

    def wait_forever(self) -> None:
        self.deadline = math.inf

    # --- work

    def begin(self, work: Work) -> None:
        """Be busy with that from now on."""
        self.work = work
        self.bytes_moved = 0

    def end_work(self, reason: Reason | None = None, detail: str = "") -> None:
        """The current attempt is over, and so is its connection to the outside."""
        work, self.work = self.work, IDLE
        self.bytes_moved = 0
        work.close(reason, detail)

    # --- answers of ours

    def reject(self, step: Rejected) -> None:
        """Answer what is no proper request."""
        self.record_rejected(step)
        target = step.target
        host, port = (target.host, target.port) if target is not None else ("", 0)
        self.say(step.reason, step.detail, host, port, close=True)
        self.linger(Lingering())

    def record_rejected(self, step: Rejected) -> None:
        """It has an event of its own, with what it names."""
        attempt = self.source.attempt(method=step.method, client_address=self.client_address)
        if step.target is not None:
            attempt.host, attempt.port = step.target.host, step.target.port
        attempt.deny(step.reason, step.detail)

    def refuse(self, attempt: Attempt, refusal: Refusal) -> None:
        """Record a refusal."""
        if refusal.denied:
            attempt.deny(refusal.reason, refusal.detail)
        else:
            attempt.fail(refusal.reason, refusal.detail, would_deny=refusal.would_deny)

    def say(
        self,
        reason: Reason,
        detail: str,
        host: str = "",
        port: int = 0,
        *,
        close: bool,
        body: bool = True,
        port_named: bool = False,
    ) -> None:
        """Answer with an error of ours."""
        text = error_text(
            reason,
            backend=self.backend.name,
            standalone=self.egress.dialer.surroundings.standalone,
            host=host,
            port=port,
            detail=detail,
            port_named=port_named,
        )
        self.stream.write(error_response(reason, text, close=close, with_body=body))

    def linger(self, phase: Lingering) -> None:
        """Close so that the client can still read our answer."""
        self.stream.write_eof()
        self.read(phase, LINGER_S)

    # --- the end

    def abort(self) -> None:
        """The connection broke, or is aborted."""
        if self.task is not None:
            self.task.cancel()
        else:
            self.close()

    def abort_with(self, reason: Reason) -> None:
        """End it now; `reason` goes on record."""
        self.reason = reason
        self.stream.on_lost = None
        self.abort()

    def close(self) -> None:
        """Give back the slot, unless a tunnel has it now. Does nothing when called again."""
        if self.closed:
            return
        self.closed = True
        self.end_work(self.reason)
        self.close_kept()
        if self.reason is not None:
            self.stream.abort()
        else:
            self.stream.close()
        self.source.live.discard(self)
        if self.reason is None and self.stream.unsent():
            FlushingClient(self)
        else:
            self.egress.released(self.backend)

    def close_kept(self) -> None:
        """Close a connection that waits for another request."""

    def become_tunnel(self, link: Link, *, opaque: bool) -> None:
        """Join client and upstream; nothing is parsed any more."""
        sent, received = link.counts()
        self.work = IDLE
        TunnelConnection(
            self.egress,
            self.source,
            link.attempt,
            link.target,
            link.address,
            self.stream,
            link.upstream,
            backend=self.backend,
            opaque=opaque,
            mismatch=link.mismatch,
            sent=sent,
            received=received,
        )
        self.closed = True
        self.source.live.discard(self)

    actions: Actions = {
        Wait: lambda client, step: client.wait(step.seconds),
        Lingering: linger,
        Rejected: reject,
        End: lambda client, _: client.close(),
    }
    """How each kind of step is applied."""


class FlushingClient:
    """A finished connection with unsent output. It counts against the limit until the client has read it.

    Otherwise a client that never reads would hold a descriptor that no limit counts.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.unsent = client.stream.unsent()
        self.since = client.egress.loop.time()
        client.stream.on_lost = self.release
        client.source.live.add(self)

    def tick(self, now: float) -> None:
        unsent = self.client.stream.unsent()
        if unsent != self.unsent:
            self.unsent, self.since = unsent, now
        elif now - self.since >= self.client.backend.budget.idle_timeout_s:
            self.abort_with(Reason.IDLE_TIMEOUT)

    def revalidate(self) -> None:
        """What was answered was allowed."""

    def abort_with(self, reason: Reason) -> None:
        self.client.stream.abort()
        self.release()

    def pending_bytes(self) -> int:
        return self.client.pending_bytes()

    def release(self) -> None:
        self.client.source.live.discard(self)
        self.client.egress.released(self.client.backend)


def stream_of(egress: ConnectionService, source: Source, sock: socket.socket) -> Stream | None:
    """A stream on a connection that was admitted; None, and its slot is given back, when that cannot be."""
    try:
        return Stream(source.backend.poller, sock)
    except OSError:
        sock.close()
        egress.released(source.backend)
        return None

"""What a client connection is busy with, as its owner and the sweep see it: nothing, a request, a dial, an open link."""

from __future__ import annotations

from typing import Protocol

from egress.connection.dialer import Kept
from egress.connection.phases import Dialling
from egress.http.exchange import Exchange
from egress.journal.attempt import Attempt
from egress.net.stream import Stream
from egress.net.upstream import Dialling as DialInProgress
from egress.policy.decide import Allow, Target
from egress.policy.names import IP
from egress.policy.parent_proxy import ParentProxy
from observability.events import Reason


class Work(Protocol):
    """What a connection is busy with."""

    def counts(self) -> tuple[int, int]:
        """Bytes, sent and received: of what was sent all, of what was received the bodies."""

    def progress(self, now: float) -> None:
        """Report the bytes of an open connection, now and then."""

    def expire(self) -> None:
        """Fail every pending read and write of the upstream connection."""

    def pending_bytes(self) -> int:
        """Bytes of the upstream connection that wait in this process."""

    def close(self, reason: Reason | None = None, detail: str = "") -> None:
        """End it, with `reason` when it did not end by itself."""


class Idle:
    """Between requests, or after the last one."""

    __slots__ = ()

    def counts(self) -> tuple[int, int]:
        return 0, 0

    def progress(self, now: float) -> None: ...

    def expire(self) -> None: ...

    def pending_bytes(self) -> int:
        return 0

    def close(self, reason: Reason | None = None, detail: str = "") -> None: ...


IDLE = Idle()


class Asking(Idle):
    """A request that has no connection to its target yet."""

    __slots__ = ("attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt

    def close(self, reason: Reason | None = None, detail: str = "") -> None:
        self.attempt.close(reason, detail=detail)


class Dial(Asking):
    """A request whose target is being dialled."""

    __slots__ = ("dialling", "phase", "started")

    def __init__(self, attempt: Attempt, dialling: DialInProgress, started: float, phase: Dialling[Asking]) -> None:
        super().__init__(attempt)
        self.dialling = dialling
        self.phase = phase
        self.started = started
        """By the loop's clock."""

    def close(self, reason: Reason | None = None, detail: str = "") -> None:
        self.dialling.abandon()
        super().close(reason, detail)


class Link:
    """A request, or a whole connection, with a connection to its target."""

    __slots__ = (
        "address",
        "attempt",
        "exchange",
        "kept",
        "mismatch",
        "parent",
        "remark",
        "target",
        "upstream",
        "verdict",
    )

    def __init__(
        self,
        attempt: Attempt,
        target: Target,
        verdict: Allow,
        upstream: Stream,
        address: IP | None,
        parent: ParentProxy | None = None,
    ) -> None:
        self.attempt = attempt
        self.target = target
        self.verdict = verdict
        """What allows it."""
        self.upstream = upstream
        self.address = address
        """None when a parent proxy looked the name up."""
        self.parent = parent
        """The parent proxy that `upstream` leads to, when it wants the absolute form."""
        self.kept: Kept | None = None
        """Set where an earlier request opened `upstream`."""
        self.mismatch: Reason | None = None
        """Why `enforce` would not carry what is inside."""
        self.exchange: Exchange | None = None
        """The latest one."""
        self.remark: Attempt | None = None
        """The event of a request inside that `enforce` would have denied, while it is carried."""

    def counts(self) -> tuple[int, int]:
        exchange = self.exchange
        return (exchange.sent, exchange.received) if exchange is not None else (0, 0)

    def progress(self, now: float) -> None:
        if self.exchange is not None:
            self.attempt.progress(now, *self.counts())

    def expire(self) -> None:
        self.upstream.on_input = None
        self.upstream.expire()

    def pending_bytes(self) -> int:
        return len(self.upstream.buffer) + self.upstream.unsent()

    def spoke_unasked(self) -> bool:
        """Whether the server has ended, or has sent more than it was asked for, since the last exchange."""
        if self.exchange is None:
            return False
        self.upstream.resume()
        return bool(self.upstream.buffer) or self.upstream.eof

    def end_remark(self) -> None:
        if self.remark is not None:
            self.remark.close(detail=self.remark.detail)
            self.remark = None

    def close(self, reason: Reason | None = None, detail: str = "") -> None:
        self.end_attempt(reason, detail)
        self.upstream.abort()

    def end_attempt(self, reason: Reason | None = None, detail: str = "") -> None:
        """Record the end; the connection stays open."""
        self.attempt.close(reason, *self.counts(), detail)
        self.end_remark()

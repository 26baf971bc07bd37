"""One client connection as a state machine: bytes, finished dials and deadlines in; what happens next out. No I/O.

Theory of operation
-------------------
A connection is in one phase at a time. A phase is asked what comes next when bytes have arrived (`received`), when its
deadline has passed (`deadline`), or when what it waits for is done (`opened`, `failed`, `ended`), and answers with a step: a
value that is another phase to enter, an end, or `KEEP_WAITING`. The driver (`egress.connection.client` and what is built on
it) applies steps to streams, at once where it can and in a task where it has to wait.

    ReadingHead → Deciding → Dialling → Sniffing → Tunnel
         ▲            └→ Opening ┴→ Exchanging ─┐
         └──────────────────────────────────────┘        inside a connection: Sniffing → ReadingInner ⇄ Exchanging

`Opening` is `Deciding` for a target that takes time: a lookup, a parent proxy, a second address. Phases take bytes off the
buffer that they are given. `handle` is an object of the driver; a phase carries it and never looks inside.
"""

from __future__ import annotations

from typing import ClassVar, Final, Generic, TypeVar

from egress.connection.first_bytes import FirstBytes, Kind, mismatch, sniff
from egress.connection.sni import HelloReader
from egress.connection.steps import (
    ENDED,
    KEEP_WAITING,
    Broken,
    Denied,
    Misplaced,
    Named,
    Phase,
    Refusal,
    Refused,
    Rejected,
    Rules,
    Step,
    Tunnel,
    Unused,
    Wait,
)
from egress.http.bad_request import BadRequest, describe
from egress.http.exchange import ClientFault, Exchange, UpstreamFault
from egress.http.plan import has_body, plan_request
from egress.http.request_head import HeadReader, RequestHead, parse_whole_head
from egress.net.dial_error import DialError
from egress.policy.decide import Allow, Mode, Target
from egress.policy.decide import Protocol as RuleProtocol
from egress.policy.names import IP
from egress.policy.parent_proxy import ParentProxy
from observability.events import Reason

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1 << 20
RETRIABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Requests that may be sent again when a kept connection turns out to be closed (RFC 9110 9.2.2)."""

H = TypeVar("H")
L = TypeVar("L")
NOTHING: Final = FirstBytes(Kind.NOTHING)
HTTP: Final = FirstBytes(Kind.HTTP)
OTHER: Final = FirstBytes(Kind.OTHER)


class ReadingHead(Phase):
    """A request's head is to come."""

    __slots__ = ("reader", "rules")
    reads = True
    inside: ClassVar[bool] = False

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.reader: HeadReader | None = None
        """Made when a head comes in pieces."""

    def received(self, buffer: bytearray, eof: bool) -> Step:
        if not buffer:
            return ENDED if eof else KEEP_WAITING
        reader = self.reader
        try:
            head = parse_whole_head(buffer, inside=self.inside) if reader is None else reader.read(buffer)
            if head is None and reader is None:
                self.reader = HeadReader(inside=self.inside)
                head = self.reader.read(buffer)
        except BadRequest as error:
            return self.bad(error)
        if head is not None:
            del buffer[: head.size]
            self.reader = None
            return self.complete(head)
        if eof:
            return self.unfinished(buffer, Reason.BAD_REQUEST, "the connection ended in the middle of a request head")
        return Wait(self.rules.budget.head_timeout_s) if reader is None else KEEP_WAITING

    def deadline(self, buffer: bytearray) -> Step:
        if not buffer:
            return ENDED
        seconds = self.rules.budget.head_timeout_s
        return self.unfinished(buffer, Reason.HEAD_TIMEOUT, f"no complete request head in {seconds:g} s")

    def unfinished(self, buffer: bytearray, reason: Reason, detail: str) -> Step:
        error = BadRequest(reason, detail)
        describe(error, buffer)
        return self.bad(error)

    def bad(self, error: BadRequest) -> Step:
        return Rejected(error.reason, error.detail, error.method, error.target)

    def complete(self, head: RequestHead) -> Step:
        return Deciding(self.rules, head)


class Deciding(Phase):
    """A request's head is complete; whether and where it may go is to be decided."""

    __slots__ = ("head", "rules")

    def __init__(self, rules: Rules, head: RequestHead) -> None:
        self.rules = rules
        self.head = head

    def dial(self, handle: H, address: IP, verdict: Allow) -> Dialling[H]:
        """It may go to that address, by a connection of its own."""
        return Dialling(self.rules, self.head, handle, address, verdict)

    def wait(self, handle: H) -> Opening[H]:
        """It has to wait for its address, or will be refused."""
        return Opening(self.rules, self.head, handle, None)

    def reuse(self, handle: H) -> Exchanging[H]:
        """It goes out on the connection of an earlier request."""
        return Exchanging(self.rules, self.head, handle, None)


class Dialling(Phase, Generic[H]):
    """The address that the policy picked is dialled."""

    __slots__ = ("address", "handle", "head", "rules", "verdict")

    def __init__(self, rules: Rules, head: RequestHead, handle: H, address: IP, verdict: Allow) -> None:
        self.rules = rules
        self.head = head
        self.handle = handle
        self.address = address
        self.verdict = verdict

    def opened(self, handle: L) -> Step:
        return opened(self.rules, self.head, handle, self.verdict, None)

    def failed(self, error: DialError) -> Opening[H]:
        """No connection, or not in time: try the next address, or find out what to report."""
        return Opening(self.rules, self.head, self.handle, (self.address, error))

    def refused(self, refusal: Refusal) -> Refused[H]:
        """It is not allowed any more."""
        return refused(self.head, self.handle, refusal)


class Opening(Phase, Generic[H]):
    """A connection to the target is awaited. `failed`: an address that was dialled already, and its error."""

    __slots__ = ("failed", "handle", "head", "rules")

    def __init__(self, rules: Rules, head: RequestHead, handle: H, failed: tuple[IP, DialError] | None) -> None:
        self.rules = rules
        self.head = head
        self.handle = handle
        self.failed = failed

    def opened(self, handle: L, verdict: Allow, parent: ParentProxy | None) -> Step:
        """`parent`: the connection leads to a parent proxy that wants the absolute form."""
        return opened(self.rules, self.head, handle, verdict, parent)

    def refused(self, refusal: Refusal) -> Refused[H]:
        return refused(self.head, self.handle, refusal)


def opened(rules: Rules, head: RequestHead, handle: H, verdict: Allow, parent: ParentProxy | None) -> Step:
    if head.method == "CONNECT":
        return begin_inside(rules, head.target, handle, verdict)
    return Exchanging(rules, head, handle, parent)


def refused(head: RequestHead, handle: H, refusal: Refusal) -> Refused[H]:
    keep = head.method != "CONNECT" and head.keep_alive and not has_body(head)
    return Refused(handle, refusal, keep, body=head.method != "HEAD")


def begin_inside(rules: Rules, target: Target, handle: H, verdict: Allow) -> Step:
    """A connection to one target is open: whether its first bytes are looked at."""
    if verdict.rule is not None and verdict.rule.protocol is RuleProtocol.TCP:
        return Tunnel(handle, opaque=True)
    return Sniffing(rules, target, handle)


class Sniffing(Phase, Generic[H]):
    """The first bytes on a connection to one target: TLS for that host becomes a tunnel, plain HTTP is read."""

    __slots__ = ("handle", "hello", "rules", "target")
    reads = True

    def __init__(self, rules: Rules, target: Target, handle: H) -> None:
        self.rules = rules
        self.target = target
        self.handle = handle
        self.hello = HelloReader()

    def received(self, buffer: bytearray, eof: bool) -> Step:
        first = sniff(buffer, self.hello)
        if first is not None:
            return self.judge(first)
        if not eof:
            return KEEP_WAITING
        return self.judge(NOTHING) if buffer else Unused(self.handle)

    def deadline(self, buffer: bytearray) -> Step:
        return self.judge(NOTHING)

    def judge(self, first: FirstBytes) -> Step:
        if first.kind is Kind.HTTP:
            return ReadingInner(self.rules, self.target, self.handle)
        return judge(self.rules, self.target, self.handle, first)


def judge(rules: Rules, target: Target, handle: H, first: FirstBytes) -> Denied[H] | Tunnel[H]:
    """What becomes of a connection to one target that begins like this, and not with plain HTTP."""
    no = mismatch(target, first)
    if no is None:
        return Tunnel(handle)
    reason, detail = no
    if rules.policy.mode is Mode.ENFORCE or first.kind is Kind.NOTHING:
        return Denied(handle, reason, detail)
    return Tunnel(handle, mismatch=reason)


class ReadingInner(ReadingHead, Generic[H]):
    """Plain HTTP on a connection to one target: the Host of each request must be that target."""

    __slots__ = ("first", "handle", "target")
    inside = True

    def __init__(self, rules: Rules, target: Target, handle: H) -> None:
        super().__init__(rules)
        self.target = target
        self.handle = handle
        self.first = True
        """No request has come yet."""

    def bad(self, error: BadRequest) -> Step:
        if self.first and error.foreign:  # it only began like HTTP
            return judge(self.rules, self.target, self.handle, OTHER)
        return Rejected(error.reason, error.detail, error.method, self.target)

    def complete(self, head: RequestHead) -> Step:
        self.first = False
        asked, target, misfit = head.target, self.target, ""
        if (asked.host, asked.port) != (target.host, target.port):
            misfit = f"the request inside names {asked.authority}; the connection is to {target.authority}"
            if self.rules.policy.mode is Mode.ENFORCE:
                return Misplaced(self.handle, head, misfit)
        return InnerExchanging(self.rules, head, self.handle, self, misfit)


class Exchanging(Phase, Generic[H]):
    """A request goes out and its response comes back."""

    __slots__ = ("exchange", "handle", "head", "rules")

    def __init__(self, rules: Rules, head: RequestHead, handle: H, parent: ParentProxy | None) -> None:
        self.rules = rules
        self.head = head
        self.handle = handle
        self.exchange = Exchange(plan_request(head, parent))

    def may_repeat(self, fault: UpstreamFault | ClientFault | None) -> bool:
        """Whether the request may be sent a second time, when a reused connection failed like this."""
        silent = isinstance(fault, UpstreamFault) and fault.silent
        return silent and self.head.method in RETRIABLE and not has_body(self.head)

    def again(self, handle: L, parent: ParentProxy | None) -> Exchanging[L]:
        """The same request on another connection."""
        return Exchanging(self.rules, self.head, handle, parent)

    def ended(self, fault: UpstreamFault | ClientFault | None, *, expired: bool) -> Step:
        """What follows an exchange. `fault`: what went wrong, if anything. `expired`: no byte moved before the deadline."""
        if fault is None:
            return Tunnel(self.handle) if self.exchange.upgraded else self.next()
        if expired:
            return self.deadline(bytearray())
        if isinstance(fault, UpstreamFault):
            return Broken(self.handle, fault.reason, fault.detail, self.exchange.started)
        if fault.detail:
            return Broken(self.handle, Reason.BAD_REQUEST, fault.detail, self.exchange.started)
        return ENDED  # the client has gone

    def deadline(self, buffer: bytearray) -> Step:
        return Broken(self.handle, Reason.IDLE_TIMEOUT, "nothing moved for too long", self.exchange.started)

    def next(self) -> Step:
        """What follows a whole response."""
        if self.exchange.client_reusable:
            return ReadingHead(self.rules)
        return ENDED if self.exchange.uploaded else Lingering()


class InnerExchanging(Exchanging[H]):
    """The same inside a connection to one target. `misfit` says why `enforce` would have denied the request."""

    __slots__ = ("misfit", "reading")

    def __init__(self, rules: Rules, head: RequestHead, handle: H, reading: ReadingInner[H], misfit: str) -> None:
        super().__init__(rules, head, handle, None)
        self.reading = reading
        self.misfit = misfit

    def next(self) -> Step:
        return self.reading if self.exchange.client_reusable and self.exchange.upstream_reusable else ENDED


class Lingering(Phase):
    """An answer is the last thing that the client gets. What it still sends is read and dropped for a while: closing
    with unread bytes would reset the connection, and the answer might be lost."""

    __slots__ = ("taken",)
    reads = True

    def __init__(self) -> None:
        self.taken = 0

    def received(self, buffer: bytearray, eof: bool) -> Step:
        self.taken += len(buffer)
        buffer.clear()
        return ENDED if eof or self.taken >= LINGER_BYTES else KEEP_WAITING


class Peeking(Phase):
    """A direct connection that has not shown its target yet."""

    __slots__ = ("hello", "reader")
    reads = True

    def __init__(self) -> None:
        self.hello = HelloReader()
        self.reader = HeadReader(inside=True)

    def received(self, buffer: bytearray, eof: bool) -> Step:
        first = sniff(buffer, self.hello)
        if first is not None:
            named = self.request(buffer) if first.kind is Kind.HTTP else Named(first.server_name or "", first)
            if named is not None:
                return named
        return Named("", NOTHING) if eof else KEEP_WAITING

    def deadline(self, buffer: bytearray) -> Step:
        return Named("", NOTHING)

    def request(self, buffer: bytearray) -> Named | None:
        """What the request that has begun shows, None while its head is incomplete."""
        try:
            head = self.reader.read(buffer)
        except BadRequest as error:
            return Named("", OTHER if error.foreign else HTTP)
        if head is None:
            return None
        return Named(head.target.host if head.target.ip is None else "", HTTP)


class OpeningDirect(Phase, Generic[H]):
    """A connection to the target of a direct connection is awaited."""

    __slots__ = ("handle", "rules", "target")

    def __init__(self, rules: Rules, target: Target, handle: H) -> None:
        self.rules = rules
        self.target = target
        self.handle = handle

    def opened(self, handle: L, verdict: Allow) -> Step:
        return begin_inside(self.rules, self.target, handle, verdict)

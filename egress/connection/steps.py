"""What a phase of a connection answers with: a value that says what comes next, and no more than that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

from egress.connection.first_bytes import FirstBytes
from egress.http.request_head import RequestHead
from egress.policy.budget import Budget
from egress.policy.decide import Policy, Target
from observability.events import Reason

H = TypeVar("H")


class Rules(Protocol):
    """What holds for a connection's backend now."""

    policy: Policy
    budget: Budget


@dataclass(slots=True)
class Wait:
    """Stay in this phase until more bytes come; `seconds`, where given, is the deadline from now on."""

    seconds: float | None = None


@dataclass(slots=True)
class End:
    """Close the connection."""


@dataclass(slots=True)
class Rejected:
    """No proper request: answer with the reason, and close."""

    reason: Reason
    detail: str
    method: str = ""
    target: Target | None = None
    """What the request names, where it can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """No connection. `denied` tells a denial by the policy from an outside that failed."""

    reason: Reason
    detail: str
    denied: bool
    would_deny: Reason | None = None


@dataclass(slots=True)
class Refused(Generic[H]):
    """A request that is not carried: answer with the reason; the client may send another one if `keep`."""

    handle: H
    refusal: Refusal
    keep: bool
    body: bool
    """The answer has a body."""


@dataclass(slots=True)
class Denied(Generic[H]):
    """The first bytes are not those of the target: record it, and close without an answer."""

    handle: H
    reason: Reason
    detail: str


@dataclass(slots=True)
class Unused(Generic[H]):
    """Opened and closed again without a byte: there is nothing to deny."""

    handle: H


@dataclass(slots=True)
class Tunnel(Generic[H]):
    """Join both connections; nothing is parsed any more."""

    handle: H
    opaque: bool = False
    """A rule carries it without a look at what is inside."""
    mismatch: Reason | None = None
    """Why `enforce` would not carry what is inside."""


@dataclass(slots=True)
class Misplaced(Generic[H]):
    """A request inside a connection that names another host: deny it, answer, and close."""

    handle: H
    head: RequestHead
    detail: str


@dataclass(slots=True)
class Broken(Generic[H]):
    """An exchange that failed: record it, and answer where nothing of a response has gone out yet."""

    handle: H
    reason: Reason
    detail: str
    started: bool


@dataclass(slots=True)
class Named:
    """What a direct connection shows of its target: a server name or Host, empty when there is none."""

    name: str
    first: FirstBytes


class Phase:
    """Where a connection is. Bytes that a phase does not read wait; a deadline ends the connection."""

    __slots__ = ()
    reads: ClassVar[bool] = False
    """It takes the client's bytes."""

    def received(self, buffer: bytearray, eof: bool) -> Step:
        """More bytes have come from the client, or its end."""
        return KEEP_WAITING

    def deadline(self, buffer: bytearray) -> Step:
        """The deadline has passed."""
        return ENDED


Step: TypeAlias = (
    Phase
    | Wait
    | End
    | Rejected
    | Refused[Any]
    | Denied[Any]
    | Unused[Any]
    | Tunnel[Any]
    | Misplaced[Any]
    | Broken[Any]
    | Named
)
"""What comes next: a phase to enter, `Wait`, or something to do first."""

KEEP_WAITING: Final = Wait()
ENDED: Final = End()

"""A tunnel as a live connection of its backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from egress.attempt import Attempt
from egress.backend import Backend, Origin
from egress.names import IP
from egress.policy import Deny, Target
from egress.stream import Stream
from egress.tunnel import Tunnel
from observability.events import Reason

if TYPE_CHECKING:
    from egress.server import Egress


class CarriedTunnel:
    """Joins two connections and stays on the books until both are gone."""

    __slots__ = ("address", "attempt", "backend", "egress", "origin", "target", "tunnel")

    def __init__(
        self,
        egress: Egress,
        origin: Origin,
        attempt: Attempt,
        target: Target,
        address: IP | None,
        client: Stream,
        upstream: Stream,
        *,
        backend: Backend,
        sent: int = 0,
        received: int = 0,
    ) -> None:
        """`backend` admitted the connection; its place there is given back when the tunnel ends."""
        self.egress = egress
        self.origin = origin
        self.backend = backend
        self.attempt = attempt
        self.target = target
        self.address = address
        origin.live.add(self)
        self.tunnel = Tunnel(client, upstream, self.ended, now=egress.loop.time(), sent=sent, received=received)

    def ended(self, reason: Reason | None, sent: int, received: int) -> None:
        self.attempt.close(reason, sent, received)
        self.origin.live.discard(self)
        self.egress.released(self.backend)

    def tick(self, now: float) -> None:
        self.attempt.progress(now, *self.tunnel.counts())
        self.tunnel.tick(now, self.backend.budget.idle_timeout_s)

    def revalidate(self) -> None:
        verdict = self.egress.outside.recheck(self.origin.backend, self.target, self.address)
        if isinstance(verdict, Deny):
            self.cut(Reason.POLICY_REVOKED)

    def waiting(self) -> int:
        """Bytes that were read of one side and not taken by the other; what is in a pipe waits in the kernel."""
        return len(self.tunnel.outward.rest) + len(self.tunnel.inward.rest)

    def cut(self, reason: Reason) -> None:
        self.tunnel.cut(reason)

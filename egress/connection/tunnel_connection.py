"""A tunnel as a live connection of its backend."""

from __future__ import annotations

from egress.connection.backend import Backend, Origin
from egress.connection.service import ConnectionService
from egress.journal.attempt import Attempt
from egress.net.stream import Stream
from egress.net.tunnel import Tunnel
from egress.policy.decide import Allow, Deny, Mode, Protocol, Target
from egress.policy.names import IP
from observability.events import Reason


class CarriedTunnel:
    """Joins two connections and stays on the books until both are gone."""

    __slots__ = (
        "address",
        "attempt",
        "backend",
        "egress",
        "network",
        "objection",
        "opaque",
        "origin",
        "over",
        "places",
        "target",
        "tunnel",
    )

    def __init__(
        self,
        egress: ConnectionService,
        origin: Origin,
        attempt: Attempt,
        target: Target,
        address: IP | None,
        client: Stream,
        upstream: Stream,
        *,
        backend: Backend,
        opaque: bool = False,
        objection: Reason | None = None,
        sent: int = 0,
        received: int = 0,
    ) -> None:
        """`backend` admitted the connection; its place there is given back when the tunnel ends.

        `opaque`: nobody looked at what is inside. `objection`: somebody did, and `enforce` would not have carried it.
        """
        self.egress = egress
        self.origin = origin
        self.backend = backend
        self.attempt = attempt
        self.target = target
        self.address = address
        self.network = upstream.network
        self.opaque = opaque
        self.objection = objection
        self.over = False
        self.places = 0
        self.tunnel = Tunnel(client, upstream, self.ended, now=egress.loop.time(), sent=sent, received=received)
        if not self.over:
            origin.live.add(self)

    def ended(self, reason: Reason | None, sent: int, received: int) -> None:
        self.over = True
        self.book(0)
        self.attempt.close(reason, sent, received)
        self.origin.live.discard(self)
        self.egress.released(self.backend)

    def book(self, places: int) -> None:
        """Take so many places, beside its own, from those that all connections have: a pipe has two descriptors too."""
        self.egress.most -= places - self.places
        self.places = places

    def tick(self, now: float) -> None:
        self.attempt.progress(now, *self.tunnel.counts())
        self.book(self.tunnel.pipes())
        self.tunnel.tick(now, self.backend.budget.idle_timeout_s)

    def revalidate(self) -> None:
        policy = self.origin.backend.policy
        verdict = self.egress.outside.recheck(self.origin.backend, self.target, self.address, self.network)
        if isinstance(verdict, Deny) or (policy.mode is Mode.ENFORCE and not self.may_be_inside(verdict)):
            self.abort_with(Reason.POLICY_REVOKED)

    def may_be_inside(self, verdict: Allow) -> bool:
        """Whether a rule would now carry what was carried unseen, or against an objection."""
        opaque = verdict.rule is not None and verdict.rule.protocol is Protocol.TCP
        return opaque or (not self.opaque and self.objection is None)

    def pending_bytes(self) -> int:
        """Bytes that were read of one side and not taken by the other; what is in a pipe waits in the kernel."""
        return len(self.tunnel.outward.rest) + len(self.tunnel.inward.rest)

    def abort_with(self, reason: Reason) -> None:
        self.tunnel.cut(reason)

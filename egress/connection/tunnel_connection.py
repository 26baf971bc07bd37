"""A tunnel as a live connection of its backend."""

from __future__ import annotations

from egress.connection.backend import Backend, Source
from egress.connection.service import ConnectionService
from egress.journal.attempt import Attempt
from egress.net.stream import Stream
from egress.net.tunnel import Tunnel
from egress.policy.decide import Allow, Deny, Mode, Protocol, Target
from egress.policy.names import IP
from observability.events import Reason


class TunnelConnection:
    """Joins two connections and counts as one of its backend until both are closed."""

    __slots__ = (
        "address",
        "attempt",
        "backend",
        "closed",
        "egress",
        "mismatch",
        "network",
        "opaque",
        "slots",
        "source",
        "target",
        "tunnel",
    )

    def __init__(
        self,
        egress: ConnectionService,
        source: Source,
        attempt: Attempt,
        target: Target,
        address: IP | None,
        client: Stream,
        upstream: Stream,
        *,
        backend: Backend,
        opaque: bool = False,
        mismatch: Reason | None = None,
        sent: int = 0,
        received: int = 0,
    ) -> None:
        """`backend` admitted the connection; its slot there is given back when the tunnel ends.

        `opaque`: the first bytes were not looked at. `mismatch`: why `enforce` would not have carried them.
        """
        self.egress = egress
        self.source = source
        self.backend = backend
        self.attempt = attempt
        self.target = target
        self.address = address
        self.network = upstream.network
        self.opaque = opaque
        self.mismatch = mismatch
        self.closed = False
        self.slots = 0
        self.tunnel = Tunnel(client, upstream, self.ended, now=egress.loop.time(), sent=sent, received=received)
        if not self.closed:
            source.live.add(self)

    def ended(self, reason: Reason | None, sent: int, received: int) -> None:
        self.closed = True
        self.charge(0)
        self.attempt.close(reason, sent, received)
        self.source.live.discard(self)
        self.egress.released(self.backend)

    def charge(self, slots: int) -> None:
        """Charge that many slots, besides its own, to the limit of all connections: a pipe has two descriptors too."""
        self.egress.most -= slots - self.slots
        self.slots = slots

    def tick(self, now: float) -> None:
        self.attempt.progress(now, *self.tunnel.counts())
        self.charge(self.tunnel.pipes())
        self.tunnel.tick(now, self.backend.budget.idle_timeout_s)

    def revalidate(self) -> None:
        policy = self.source.backend.policy
        verdict = self.egress.dialer.recheck(self.source.backend, self.target, self.address, self.network)
        if isinstance(verdict, Deny) or (policy.mode is Mode.ENFORCE and not self.allows_inside(verdict)):
            self.abort_with(Reason.POLICY_REVOKED)

    def allows_inside(self, verdict: Allow) -> bool:
        """Whether the policy would now carry what was carried unseen, or in spite of a mismatch."""
        opaque = verdict.rule is not None and verdict.rule.protocol is Protocol.TCP
        return opaque or (not self.opaque and self.mismatch is None)

    def pending_bytes(self) -> int:
        """Bytes that were read from one side and not taken by the other; what is in a pipe waits in the kernel."""
        return len(self.tunnel.outward.rest) + len(self.tunnel.inward.rest)

    def abort_with(self, reason: Reason) -> None:
        self.tunnel.cut(reason)

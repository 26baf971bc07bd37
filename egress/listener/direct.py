"""Connections that ignore the proxy: seen, by default closed, and carried where the policy says so.

A door's listeners take connections to *any* address, so the accepted socket's own name is what the program
dialled. That address is the backend's claim: it says what was wanted, it is never trusted as an identity, and
what is dialled outside is looked up, checked and decided like any other target.
"""

from __future__ import annotations

import ipaddress
import socket

from egress.connection.backend import Source
from egress.connection.client import guarded, stream_of
from egress.connection.first_bytes import FirstBytes, Kind, mismatch
from egress.connection.phases import OpeningDirect, Peeking
from egress.connection.service import ConnectionService
from egress.connection.steps import ENDED, Named, Refusal, Step
from egress.connection.target_client import TargetClient
from egress.connection.work import Asking, Link
from egress.journal.attempt import Attempt
from egress.net.stream import Stream
from egress.policy.decide import Allow, Deny, Protocol, Target, decide_name
from egress.policy.names import IP
from observability.events import Reason, Via

PEEK_S = 1.0
"""How long a connection that will be closed anyway may take to show a name."""


def serve_direct(egress: ConnectionService, source: Source, sock: socket.socket, address: str) -> None:
    """Serve one connection to a direct port."""
    try:
        destination, port = sock.getsockname()[:2]
    except OSError:
        sock.close()
        egress.released(source.backend)
        return
    stream = stream_of(egress, source, sock)
    if stream is not None:
        DirectClient(egress, source, stream, address, ipaddress.ip_address(destination), port).start()


class DirectClient(TargetClient):
    """A program that dialled an address itself."""

    def __init__(
        self, egress: ConnectionService, source: Source, stream: Stream, address: str, destination: IP, port: int
    ) -> None:
        super().__init__(egress, source, stream, address, Peeking())
        self.destination = destination
        self.port = port

    @guarded
    def start(self) -> None:
        """Find out what is wanted, by the address or by the first bytes."""
        opaque = self.opaque_target()
        if opaque is not None:
            self.connect(opaque, Via.TCP, None)
        else:
            direct = self.source.backend.policy.direct
            self.read(self.phase, self.backend.budget.head_timeout_s if direct else PEEK_S)

    def named(self, step: Named) -> None:
        """The first bytes have shown a name, or that there is none: connect, or close."""
        name = step.name
        self.stream.on_input = None
        self.wait_forever()
        if not self.source.backend.policy.direct:
            self.deny(name, "it did not use the proxy")
        elif name:
            self.connect_named(name)
        else:
            self.connect_address(step.first)

    def opaque_target(self) -> Target | None:
        """The target when a `protocol: tcp` rule has it: by the address made up for its name, or as a literal."""
        names = self.egress.names_of(self.source)
        name = names.named.get(self.destination, "") if names is not None else ""
        target = Target(host=name, ip=None, port=self.port) if name else self.literal()
        verdict = decide_name(self.source.backend.policy, target, self.egress.dialer.surroundings)
        if name:
            return target
        if isinstance(verdict, Allow) and verdict.rule is not None and verdict.rule.protocol is Protocol.TCP:
            return target
        return None

    def literal(self) -> Target:
        return Target(host=str(self.destination), ip=self.destination, port=self.port)

    def connect_named(self, name: str) -> None:
        """A name was shown: this backend must have been answered with this address for it."""
        names = self.egress.names_of(self.source)
        network = names.told_of(name, self.destination) if names is not None else None
        if network is None:
            self.deny(name, f"{self.destination} was not answered to a lookup of that name")
            return
        self.connect(Target(host=name, ip=None, port=self.port), Via.DIRECT, self.destination, network)

    def connect_address(self, first: FirstBytes) -> None:
        """No name was shown: the address counts. Where no rule has it, the name that it was answered for explains why,
        unless the request itself names the address."""
        source, target = self.source, self.literal()
        names = self.egress.names_of(source)
        no = source.backend.decisions.name(target, self.egress.dialer.surroundings)
        explain = names is not None and isinstance(no, Deny) and first.kind is not Kind.HTTP
        name = names.name_given(self.destination) if names is not None and explain else ""
        if not name:
            self.connect(target, Via.DIRECT, self.destination)
            return
        meant = Target(host=name, ip=None, port=self.port)
        denied = source.backend.decisions.name(meant, self.egress.dialer.surroundings)
        if isinstance(denied, Deny):
            self.deny(name, denied.detail, denied.reason)
        else:
            reason, detail = mismatch(meant, first) or (
                Reason.IP_NOT_ALLOWED,
                f"the request names no host; {name} was looked up",
            )
            self.deny(name, detail, reason)

    def deny(self, name: str, detail: str, reason: Reason = Reason.DIRECT_ATTEMPT) -> None:
        host = name or str(self.destination)
        attempt = self.source.attempt(
            via=Via.DIRECT,
            method="TCP",
            host=host,
            port=self.port,
            client_address=self.client_address,
            destination=f"{self.destination}:{self.port}",
        )
        attempt.deny(reason, detail)
        self.close()

    def connect(self, target: Target, via: Via, only: IP | None, network: str = "") -> None:
        """Carry the connection to `target` under the policy."""
        attempt = self.source.attempt(
            via=via,
            method="TCP",
            host=target.host,
            port=target.port,
            client_address=self.client_address,
            destination=f"{self.destination}:{self.port}",
        )
        asking = DirectAsking(attempt, only, network)
        self.begin(asking)
        self.apply(OpeningDirect(self.backend, target, asking))

    def await_open(self, opening: OpeningDirect[DirectAsking]) -> None:
        self.phase = opening
        self.await_step(self.open(opening, opening.handle))

    async def open(self, opening: OpeningDirect[DirectAsking], asking: DirectAsking) -> Step:
        """A connection to the target; the end where there is none."""
        attempt, target = asking.attempt, opening.target
        reached = await self.egress.dialer.open(
            self.source, target, attempt, only=asking.only, network=asking.network
        )
        if isinstance(reached, Refusal):
            self.refuse(attempt, reached)
            return ENDED
        link = Link(attempt, target, reached.verdict, reached.stream, reached.address)
        self.begin(link)
        return opening.opened(link, reached.verdict)

    actions = {**TargetClient.actions, Named: named, OpeningDirect: await_open}


class DirectAsking(Asking):
    """What a direct connection wants, while it has no connection to its target."""

    __slots__ = ("network", "only")

    def __init__(self, attempt: Attempt, only: IP | None, network: str) -> None:
        super().__init__(attempt)
        self.only = only
        """Connect to this address; None to look the target up."""
        self.network = network
        """The joined network on which the address was answered."""

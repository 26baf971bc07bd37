"""Connections that ignore the proxy: seen, by default closed, and carried where the policy says so.

A door's listeners take connections to *any* address, so the accepted socket's own name is what the program
dialled. That address is the backend's claim: it says what was wanted, it is never trusted as an identity, and
what is dialled outside is looked up, checked and decided like any other target.
"""

from __future__ import annotations

import ipaddress
import socket

from egress.connection.backend import Origin
from egress.connection.client import stream_of
from egress.connection.dialer import Refusal
from egress.connection.first_bytes import Kind, Shown, first_bytes
from egress.connection.service import ConnectionService
from egress.connection.target_client import TargetClient
from egress.http.request_head import BadRequest, HeadReader
from egress.policy.decide import Allow, Protocol, Target, decide_name
from egress.policy.names import IP
from observability.events import Reason, Via

PEEK_S = 1.0
"""How long a connection that will be closed anyway may take to show a name."""


def serve_direct(egress: ConnectionService, origin: Origin, sock: socket.socket, address: str) -> None:
    """Serve one connection to a direct port."""
    try:
        destination, port = sock.getsockname()[:2]
    except OSError:
        sock.close()
        egress.released(origin.backend)
        return
    stream = stream_of(egress, origin, sock)
    if stream is None:
        return
    client = DirectClient(egress, origin, stream, address)
    client.destination = ipaddress.ip_address(destination)
    client.port = port
    client.run(client.serve())


class DirectClient(TargetClient):
    """A program that dialled an address itself."""

    destination: IP
    port: int

    async def serve(self) -> None:
        """Find out what is wanted, then carry or close it."""
        opaque = self.opaque_target()
        if opaque is not None:
            await self.connect(opaque, Via.TCP, None)
            return
        self.wait_at_most(self.backend.budget.head_timeout_s if self.origin.backend.policy.direct else PEEK_S)
        shown = await first_bytes(self.stream)
        name = await self.shown_name(shown)
        self.wait_for_ever()
        if not self.origin.backend.policy.direct:
            self.deny(name, "it did not use the proxy")
        elif name:
            await self.connect_named(name)
        else:
            await self.connect(self.literal(), Via.DIRECT, self.destination)

    def opaque_target(self) -> Target | None:
        """The target when a `protocol: tcp` rule has it: by the address made up for its name, or as a literal."""
        names = self.egress.names_of(self.origin)
        name = names.named.get(self.destination, "") if names is not None else ""
        target = Target(host=name, ip=None, port=self.port) if name else self.literal()
        verdict = decide_name(self.origin.backend.policy, target, self.egress.outside.surroundings)
        if name:
            return target
        if isinstance(verdict, Allow) and verdict.rule is not None and verdict.rule.protocol is Protocol.TCP:
            return target
        return None

    def literal(self) -> Target:
        return Target(host=str(self.destination), ip=self.destination, port=self.port)

    async def shown_name(self, shown: Shown) -> str:
        """The server name or Host that the first bytes show, empty when none."""
        if shown.kind is Kind.TLS:
            return shown.server_name or ""
        if shown.kind is not Kind.HTTP:
            return ""
        reader = HeadReader(inside=True)
        while True:
            try:
                head = reader.read(self.stream.buffer)
            except BadRequest:
                return ""
            if head is not None:
                return head.target.host if head.target.ip is None else ""
            if not await self.stream.more():
                return ""

    async def connect_named(self, name: str) -> None:
        """A name was shown: it must be one that this backend was told this address for."""
        names = self.egress.names_of(self.origin)
        network = names.told_of(name, self.destination) if names is not None else None
        if network is None:
            self.deny(name, f"{self.destination} was not answered to a lookup of that name")
            return
        await self.connect(Target(host=name, ip=None, port=self.port), Via.DIRECT, self.destination, network)

    def deny(self, name: str, detail: str) -> None:
        host = name or str(self.destination)
        attempt = self.origin.attempt(
            via=Via.DIRECT,
            method="TCP",
            host=host,
            port=self.port,
            client_address=self.client_address,
            destination=f"{self.destination}:{self.port}",
        )
        attempt.deny(Reason.DIRECT_ATTEMPT, detail)

    async def connect(self, target: Target, via: Via, only: IP | None, network: str = "") -> None:
        """Carry the connection to `target` under the policy."""
        self.target = target
        self.attempt = self.origin.attempt(
            via=via,
            method="TCP",
            host=target.host,
            port=target.port,
            client_address=self.client_address,
            destination=f"{self.destination}:{self.port}",
        )
        reached = await self.egress.outside.reach(self.origin, target, self.attempt, only=only, network=network)
        if isinstance(reached, Refusal):
            self.refuse(self.attempt, reached)
            return
        self.upstream, self.address = reached.stream, reached.address
        await self.serve_inside(reached.verdict)

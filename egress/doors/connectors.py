"""The networks that backends join, as the egress sees them: one connector stands on each (`egress.door.connector`)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from egress.door.passing import close_all
from egress.doors.sessions import DoorError, Doors, Session
from egress.net.dial_error import DialError
from egress.net.poller import Poller
from egress.net.stream import Stream
from egress.net.upstream import CONNECT_TIMEOUT_S, adopt
from egress.policy.names import IP
from observability.events import Reason

LOOKUP_S = 5.0


class Connectors:
    """Looks names up and dials on joined networks."""

    def __init__(self, doors: Doors) -> None:
        self.doors = doors

    def on(self, network: str) -> Session | None:
        """The connector that stands on that network now."""
        for session in self.doors.sessions.values():
            if session.ticket.role == "connector" and session.ticket.network == network:
                return session
        return None

    async def resolve(self, network: str, host: str) -> tuple[IP, ...]:
        """Addresses by that network's DNS; none when it does not know the name or no connector stands there."""
        session = self.on(network)
        if session is None:
            return ()
        with contextlib.suppress(DoorError, ValueError):
            answer, fds = await session.ask({"op": "resolve", "host": host}, LOOKUP_S)
            close_all(fds)
            return tuple(ipaddress.ip_address(text) for text in answer.get("addresses", []))
        return ()

    async def dial(self, poller: Poller, network: str, address: IP, port: int) -> Stream:
        """A connection that the connector made, checked to lead where it should. Raises DialError."""
        session = self.on(network)
        if session is None:
            raise DialError(Reason.CONNECT_FAILED, f"no connector stands on {network}")
        question = {"op": "dial", "address": str(address), "port": port, "timeout_s": CONNECT_TIMEOUT_S}
        try:
            _, fds = await session.ask(question, CONNECT_TIMEOUT_S + 1)
        except DoorError as error:
            raise DialError(Reason.CONNECT_FAILED, f"on {network}: {error}") from error
        if len(fds) != 1:
            close_all(fds)
            raise DialError(Reason.CONNECT_FAILED, f"the connector on {network} sent no socket")
        sock = socket.socket(fileno=fds[0])
        try:
            peer = sock.getpeername()
        except OSError as error:
            sock.close()
            raise DialError(Reason.CONNECT_FAILED, f"on {network}: {error.strerror}") from error
        if (ipaddress.ip_address(peer[0]), peer[1]) != (address, port):
            sock.close()
            raise DialError(Reason.CONNECT_FAILED, f"the connector on {network} dialled something else")
        return adopt(poller, sock)

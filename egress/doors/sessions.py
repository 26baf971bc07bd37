"""Where doors and connectors meet the egress: tickets, registrations, and questions to them.

A registration is good only with the nonce of a ticket that the gateway made. It replaces an earlier one of the
same door, never adds to it; the end of its connection ends everything that came through it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from egress.door.notes import NoteKind
from egress.door.passing import Message, close_all
from egress.door.ports import OWN_PORTS
from egress.doors.packets import PacketConnection
from egress.doors.states import DoorState, state_of_note
from egress.doors.ticket import Ticket

ANSWER_TIMEOUT_S = 10.0
MAX_SOCKETS = 2100


class DoorError(Exception):
    """Raised when a door is not there or could not do what it was asked; the text is a sentence."""


ListenerKey = tuple[str, str, int]


class DoorLife(Protocol):
    """The listeners and connections of one registered door."""

    def add(self, key: ListenerKey, sock: socket.socket) -> None: ...
    def remove(self, proto: str, port: int) -> None: ...
    def counted(self, attempt_fails: int, no_ports: int) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Session:
    """One live connection of a door or connector."""

    ticket: Ticket
    connection: PacketConnection
    life: DoorLife | None
    listening: set[tuple[str, int]] = field(default_factory=set)
    answers: dict[int, asyncio.Future[tuple[Message, list[int]]]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def ask(self, question: Message, timeout_s: float = ANSWER_TIMEOUT_S) -> tuple[Message, list[int]]:
        """Ask the door; its answer and the descriptors, which are the caller's. Raises DoorError."""
        number = next(self.numbers)
        future: asyncio.Future[tuple[Message, list[int]]] = asyncio.get_running_loop().create_future()
        self.answers[number] = future
        self.connection.send({**question, "id": number})
        try:
            async with asyncio.timeout(timeout_s):
                answer, fds = await taken(future)
        except TimeoutError:
            raise DoorError(f"{self.ticket.role} {self.ticket.door} did not answer in {timeout_s:g} s") from None
        finally:
            self.answers.pop(number, None)
        if "error" in answer:
            close_all(fds)
            raise DoorError(str(answer["error"]))
        return answer, fds

    def answered(self, message: Message, fds: list[int]) -> None:
        future = self.answers.get(message.get("id", -1))
        if future is None or future.done():
            close_all(fds)
        else:
            future.set_result((message, fds))

    def end(self) -> None:
        for future in self.answers.values():
            if not future.done():
                future.set_exception(DoorError(f"{self.ticket.role} {self.ticket.door} went away"))
        if self.life is not None:
            self.life.close()


async def taken(future: asyncio.Future[tuple[Message, list[int]]]) -> tuple[Message, list[int]]:
    """The answer. Cancelling the caller just as it arrives leaves none of its descriptors open."""
    try:
        return await future
    except asyncio.CancelledError:
        if future.done() and not future.cancelled() and future.exception() is None:
            close_all(future.result()[1])
        raise


@dataclass(slots=True)
class Arrival:
    """A peer that has not finished its registration."""

    keys: list[ListenerKey] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)


class Doors:
    """All tickets and sessions."""

    def __init__(
        self, open_door: Callable[[Ticket], DoorLife], on_state: Callable[[Ticket, DoorState, str], None]
    ) -> None:
        """`on_state(ticket, state, detail)` is called for each change, and for each thing that the door could not do."""
        self.open_door = open_door
        self.on_state = on_state
        self.tickets: dict[str, Ticket] = {}
        self.sessions: dict[str, Session] = {}

    def expect(self, ticket: Ticket) -> None:
        """Let that door register. A session with an older ticket of the same door ends now."""
        known = self.tickets.get(ticket.door)
        self.tickets[ticket.door] = ticket
        if known is not None and known != ticket:
            self.hang_up(ticket.door)

    def drop(self, door: str) -> None:
        """Forget that door: its listeners close, its connections are cut."""
        self.tickets.pop(door, None)
        self.hang_up(door)

    def keep_only(self, doors: set[str]) -> None:
        """Drop every door that is not named."""
        for door in set(self.tickets) - doors:
            self.drop(door)

    def hang_up(self, door: str) -> None:
        session = self.sessions.get(door)
        if session is not None:
            session.connection.close()

    def on_peer(self, connection: PacketConnection) -> None:
        """Wait for the registration of a new peer."""
        arrival = Arrival()
        connection.on_message = lambda message, fds: self.on_registration(connection, arrival, message, fds)
        connection.on_close = lambda: close_all(arrival.fds)

    def on_registration(
        self, connection: PacketConnection, arrival: Arrival, message: Message, fds: list[int]
    ) -> None:
        arrival.fds += fds
        ticket = self.tickets.get(str(message.get("door")))
        if ticket is None or message.get("nonce") != ticket.nonce or len(arrival.fds) > MAX_SOCKETS:
            # Perhaps the gateway has not announced it yet (again): it may come back.
            connection.send({"wait": True})
            connection.close()
            return
        arrival.keys += [(str(proto), str(address), int(port)) for proto, address, port in message["listeners"]]
        if message.get("last", True):
            self.admit(connection, arrival, ticket, message)

    def admit(self, connection: PacketConnection, arrival: Arrival, ticket: Ticket, message: Message) -> None:
        """Accept the registration: its listeners serve connections from here on."""
        self.hang_up(ticket.door)
        session = Session(ticket, connection, None)
        connection.on_message = lambda message, fds: self.on_message(session, message, fds)
        connection.on_close = lambda: self.on_close(session)
        self.sessions[ticket.door] = session
        if ticket.role == "door":
            session.life = self.open_door(ticket)
            for key, fd in zip(arrival.keys, arrival.fds, strict=False):
                self.adopt(session, key, fd)
        else:
            close_all(arrival.fds)
        connection.send({"ok": True})
        for note in message.get("notes", []):
            kind, text = note
            self.on_state(ticket, state_of_note(NoteKind(kind)), str(text))
        for failure in message.get("failures", []):
            self.on_state(ticket, DoorState.LISTENER_FAILED, str(failure))
        self.on_state(ticket, DoorState.READY, "")

    def adopt(self, session: Session, key: ListenerKey, fd: int) -> None:
        proto, _, port = key
        kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        session.listening.add((proto, port))
        if session.life is None:
            os.close(fd)
        else:
            session.life.add(key, socket.socket(socket.AF_INET, kind, fileno=fd))

    def on_message(self, session: Session, message: Message, fds: list[int]) -> None:
        counters = message.get("counters")
        if counters is not None and session.life is not None:
            close_all(fds)
            session.life.counted(int(counters.get("attempt_fails", 0)), int(counters.get("no_ports", 0)))
        else:
            session.answered(message, fds)

    def on_close(self, session: Session) -> None:
        if self.sessions.get(session.ticket.door) is session:
            del self.sessions[session.ticket.door]
        session.end()
        self.on_state(session.ticket, DoorState.CLOSED, "")

    def session(self, door: str) -> Session:
        """Raises DoorError when that door is not registered now."""
        session = self.sessions.get(door)
        if session is None:
            raise DoorError(f"door {door} is not there")
        return session

    async def connect_inside(self, door: str, port: int, timeout_s: float) -> int:
        """A descriptor connected to 127.0.0.1:`port` inside that door's namespace. Raises DoorError."""
        question = {"op": "connect", "port": port, "timeout_s": timeout_s}
        _, fds = await self.session(door).ask(question, timeout_s + 1)
        if len(fds) != 1:
            close_all(fds)
            raise DoorError(f"door {door} sent no socket")
        return fds[0]

    async def listen(self, door: str, ports: set[int]) -> None:
        """Make the direct TCP listeners of that door be `ports`; failures are reported through `on_state`."""
        session = self.session(door)
        have = {port for proto, port in session.listening if proto == "tcp"} - OWN_PORTS
        for port in sorted(have - ports):
            session.listening.discard(("tcp", port))
            if session.life is not None:
                session.life.remove("tcp", port)
            await session.ask({"op": "unlisten", "proto": "tcp", "port": port})
        for port in sorted(ports - have):
            await self.listen_one(session, port)

    async def listen_one(self, session: Session, port: int) -> None:
        try:
            answer, fds = await session.ask({"op": "listen", "proto": "tcp", "port": port})
        except DoorError as error:
            self.on_state(session.ticket, DoorState.LISTENER_FAILED, f"tcp port {port}: {error}")
            return
        if len(fds) != 1:
            close_all(fds)
            return
        proto, address, number = answer["listener"]
        self.adopt(session, (proto, address, number), fds[0])

    async def counters(self, door: str) -> None:
        """Make that door report what its kernel refused, now."""
        await self.session(door).ask({"op": "counters"})

    def close(self) -> None:
        for door in list(self.sessions):
            self.hang_up(door)

"""The gateway's end of the control protocol with the egress process (`egress.service.control`, `egress.doors.ingress`).

The link is one task, `run`. It connects, says where it stopped reading, pushes the policies and the doors that
the gateway last asked for, and hands every event on. When the egress dies it does all of that again with the
next one: what was asked for is stored here, so that no caller has to repeat it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import mmap
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egress.door.passing import close_all, receive_packet, send_packet
from egress.doors.states import DoorState, door_state
from egress.doors.ticket import Ticket
from observability.event_json import event_from_json
from observability.events import EgressEvent, NoticeEvent, Severity, notice

logger = logging.getLogger(__name__)

MAX_LINE = 16 * 1024 * 1024
ANSWER_TIMEOUT_S = 10.0
RETRY_MIN_S, RETRY_MAX_S = 0.05, 2.0
READ_AT_ONCE = 32
"""Messages that are read before others have their turn: one backend brings about thousands."""


class PolicyRejected(ValueError):
    """Raised when the egress refuses a push; the old policies stay. `problems`: `{backend, path, message}`."""

    def __init__(self, message: str, problems: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.problems = problems


class EgressUnavailable(ConnectionError):
    """Raised when the egress is not connected, or went away while it was asked."""


@dataclass(slots=True)
class Push:
    """The policies that should hold."""

    generation: int
    backends: Mapping[str, Mapping[str, object]]
    surroundings: Mapping[str, object]


class EgressLink:
    """One gateway's link to its egress."""

    def __init__(
        self,
        control_dir: Path,
        *,
        on_event: Callable[[EgressEvent | NoticeEvent], None],
        host_listeners: Callable[[int], Awaitable[str]] | None = None,
        on_door: Callable[[str, DoorState, str], None] | None = None,
        known: tuple[str, int] | None = None,
        on_known: Callable[[EgressEvent | NoticeEvent], None] | None = None,
    ) -> None:
        """`host_listeners(port)` answers `none`, `loopback` or `all`; `on_door(door, state, detail)` is
        called for each state of a door. `known` are the epoch and number up to which an earlier
        gateway stored the events: an egress that outlived it sends them again, and only `on_known` gets those."""
        self.control_dir = control_dir
        self.on_event = on_event
        self.host_listeners = host_listeners
        self.on_door = on_door
        self.known = known
        self.on_known = on_known
        self.epoch = ""
        self.seq = 0
        """The last event read in this epoch."""
        self.announced = 0
        """How many of the missing events the egress has reported as lost."""
        self.push: Push | None = None
        self.tickets: dict[str, Ticket] = {}
        self.ready: set[str] = set()
        self.changed = asyncio.Condition()
        """Notified when the connection, the doors or `seq` changed."""
        self.connected = False
        self.greeted = False
        self.writer: asyncio.StreamWriter | None = None
        self.numbers = itertools.count(1)
        self.answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.mapped: mmap.mmap | None = None
        self.waiters = 0

    # --- the connection

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        pause_s = RETRY_MIN_S
        try:
            while True:
                with contextlib.suppress(OSError, EgressUnavailable):
                    await self.one_connection()
                    pause_s = RETRY_MIN_S
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_MAX_S)
        finally:
            self.unmap()

    async def one_connection(self) -> None:
        """From connect to hang-up. Raises OSError or EgressUnavailable."""
        reader, writer = await asyncio.open_unix_connection(str(self.control_dir / "egress.sock"), limit=MAX_LINE)
        self.writer = writer
        try:
            async with asyncio.TaskGroup() as tasks:
                greeting = tasks.create_task(self.greet())
                await self.read_lines(reader, tasks)
                greeting.cancel()
        except* (OSError, EgressUnavailable, ValueError) as failures:
            logger.info("egress link: %s", failures.exceptions[0])
        finally:
            self.writer = None
            writer.close()
            await self.disconnected()

    async def greet(self) -> None:
        """Resume the events, then make the egress hold what the gateway wants. Raises EgressUnavailable."""
        answer = await self.ask(
            {"op": "hello", "resume": {"epoch": self.epoch, "seq": self.seq} if self.epoch else None}
        )
        if self.push is not None:
            await self.repeat_push(self.push)
        for ticket in list(self.tickets.values()):
            await self.ask({"op": "door", **asdict(ticket)})
        if self.greeted:
            # Not on the first connection: a gateway that starts adopts the doors that an earlier one left.
            await self.ask({"op": "keep_doors", "doors": list(self.tickets)})
        self.greeted = True
        self.map_sequence()
        async with self.changed:
            self.ready |= set(answer.get("doors", [])) & set(self.tickets)
            self.connected = True
            self.changed.notify_all()

    async def repeat_push(self, push: Push) -> None:
        """Pushes again without a waiting caller: a refusal becomes a notice, and everything stays denied."""
        try:
            await self.send_push(push)
        except PolicyRejected as error:
            self.tell("policies_rejected", f"the egress refused the policies: {error}", Severity.ERROR)

    async def disconnected(self) -> None:
        for future in self.answers.values():
            if not future.done():
                future.set_exception(EgressUnavailable("the egress went away"))
        self.announced = 0
        self.unmap()
        async with self.changed:
            self.connected = False
            self.ready.clear()
            self.changed.notify_all()

    async def read_lines(self, reader: asyncio.StreamReader, tasks: asyncio.TaskGroup) -> None:
        for number in itertools.count(1):
            if number % READ_AT_ONCE == 0:
                await asyncio.sleep(0)  # `readline` does not wait while there is more
            if not (line := await reader.readline()):
                return
            message = json.loads(line)
            if "event" in message:
                self.take_event(message)
                if self.waiters:
                    await self.notify()
            elif "id" in message:
                self.take_answer(message)
            elif "door" in message:
                await self.take_door(message)
            elif "gap" in message:
                self.announced += int(message["gap"])
                self.take_gap(message)
            elif message.get("ask") == "host_port":
                tasks.create_task(self.answer_host_port(message))

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def take_event(self, message: Mapping[str, Any]) -> None:
        self.number(int(message["seq"]))
        try:
            event = event_from_json(message["event"])
        except ValueError:
            logger.exception("egress link: an event that this gateway does not know")
            self.tell("events_dropped", "the egress sent an event that this gateway does not know", Severity.WARNING)
            return
        if not isinstance(event, EgressEvent | NoticeEvent):
            return
        if self.known is None or self.epoch != self.known[0] or self.seq > self.known[1]:
            self.on_event(event)
        elif self.on_known is not None:
            self.on_known(event)

    def number(self, seq: int) -> None:
        """The next event has this number; missing numbers before it that were not announced are lost events."""
        missing = max(0, seq - self.seq - 1)
        announced = min(missing, self.announced)
        self.announced -= announced
        if missing > announced:
            text = f"{missing - announced} egress events are missing: the egress did not say why"
            self.tell("events_dropped", text, Severity.WARNING, missing - announced)
        self.seq = seq

    def take_answer(self, message: dict[str, Any]) -> None:
        if "epoch" in message and message["epoch"] != self.epoch:
            self.epoch, self.seq = message["epoch"], 0
        future = self.answers.get(message["id"])
        if future is not None and not future.done():
            future.set_result(message)

    async def take_door(self, message: Mapping[str, Any]) -> None:
        door, detail = str(message["door"]), str(message.get("detail", ""))
        state = door_state(str(message["state"]))
        async with self.changed:
            if state is DoorState.READY:
                self.ready.add(door)
            elif state is DoorState.CLOSED:
                self.ready.discard(door)
            self.changed.notify_all()
        if self.on_door is not None:
            self.on_door(door, state, detail)

    def take_gap(self, message: Mapping[str, Any]) -> None:
        """Events were lost: report how many, for each backend."""
        for backend, lost in (message.get("backends") or {"": message["gap"]}).items():
            of = f" of {backend}" if backend else ""
            text = f"{lost} egress events{of} were lost: the gateway was away or too slow"
            self.tell("events_dropped", text, Severity.WARNING, int(lost), str(backend))

    def tell(self, code: str, message: str, severity: Severity, count: int = 1, backend: str = "") -> None:
        self.on_event(notice("egress", code, message, severity, backend=backend, count=count))

    async def answer_host_port(self, message: Mapping[str, Any]) -> None:
        listeners = "unknown"
        if self.host_listeners is not None:
            try:
                listeners = await self.host_listeners(int(message["port"]))
            except Exception:
                logger.exception("egress link: looking at the host's listeners failed")
        self.write({"answer": message["ask_id"], "listeners": listeners})

    def write(self, message: Mapping[str, Any]) -> None:
        if self.writer is None:
            raise EgressUnavailable("the egress is not connected")
        self.writer.write(json.dumps(message).encode() + b"\n")

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """One question, its answer. Raises EgressUnavailable, or PolicyRejected when the answer is an error."""
        number = next(self.numbers)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.answers[number] = future
        try:
            self.write({**message, "id": number})
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                answer = await future
        except TimeoutError:
            raise EgressUnavailable(f"the egress did not answer in {ANSWER_TIMEOUT_S:g} s") from None
        finally:
            self.answers.pop(number, None)
        if "error" in answer:
            raise PolicyRejected(answer["error"]["message"], answer["error"].get("problems", []))
        return answer

    # --- what the gateway asks for

    async def wait_connected(self, timeout_s: float) -> None:
        """Until the egress is there and holds what it should. Raises TimeoutError."""
        await self.wait_for(lambda: self.connected, timeout_s)

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            self.waiters += 1
            try:
                async with self.changed:
                    await self.changed.wait_for(condition)
            finally:
                self.waiters -= 1

    async def push_policies(
        self, backends: Mapping[str, Mapping[str, object]], surroundings: Mapping[str, object]
    ) -> int:
        """Replace all policies, now and in every egress to come; the generation they got.

        Raises PolicyRejected (the old ones stay). Without an egress the push waits for the next one.
        """
        push = Push((self.push.generation if self.push else 0) + 1, backends, surroundings)
        if self.connected:
            with contextlib.suppress(EgressUnavailable):
                await self.send_push(push)
        self.push = push
        return push.generation

    async def send_push(self, push: Push) -> None:
        await self.ask(
            {
                "op": "policies",
                "generation": push.generation,
                "backends": push.backends,
                "surroundings": push.surroundings,
            }
        )

    async def expect_door(self, ticket: Ticket) -> None:
        """Announce a door; it replaces an earlier one of the same id."""
        self.tickets[ticket.door] = ticket
        self.ready.discard(ticket.door)
        if self.connected:
            with contextlib.suppress(EgressUnavailable):
                await self.ask({"op": "door", **asdict(ticket)})

    async def wait_door(self, door: str, timeout_s: float) -> None:
        """Until that door's sockets are acknowledged. Raises TimeoutError."""
        await self.wait_for(lambda: door in self.ready, timeout_s)

    async def drop_door(self, door: str) -> None:
        """Forget a door: its listeners are closed, its connections aborted."""
        self.tickets.pop(door, None)
        self.ready.discard(door)
        if self.connected:
            with contextlib.suppress(EgressUnavailable):
                await self.ask({"op": "drop_door", "door": door})

    async def connect_inside(self, door: str, port: int, timeout_s: float = 5) -> socket.socket:
        """A non-blocking socket connected to 127.0.0.1:`port` in that door's namespace.

        Raises ConnectionRefusedError with the egress's sentence, EgressUnavailable, or TimeoutError.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker:
            broker.setblocking(False)
            try:
                broker.connect(str(self.control_dir / "ingress.sock"))
                send_packet(broker, {"door": door, "port": port, "timeout_s": timeout_s})
            except OSError as error:
                raise EgressUnavailable(f"the egress is not there: {error.strerror}") from error
            async with asyncio.timeout(timeout_s + 2):
                await readable(broker)
            packet = receive_packet(broker)
        if packet is None:
            raise EgressUnavailable("the egress hung up")
        message, fds = packet
        if len(fds) != 1:
            close_all(fds)
            raise ConnectionRefusedError(str(message.get("error", "the egress sent no socket")))
        connected = socket.socket(fileno=fds[0])
        connected.setblocking(False)
        return connected

    async def status(self) -> dict[str, object]:
        """The egress's own status. Raises EgressUnavailable."""
        answer = await self.ask({"op": "status"})
        status: dict[str, object] = answer["status"]
        return status

    # --- is there more to read?

    def map_sequence(self) -> None:
        self.unmap()
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(self.control_dir / "seq", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self.mapped = mmap.mmap(fd, 8, prot=mmap.PROT_READ)
            finally:
                os.close(fd)

    def unmap(self) -> None:
        if self.mapped is not None:
            self.mapped.close()
            self.mapped = None

    def pending(self) -> bool:
        """Whether the egress has events that were not read yet. No system call."""
        return self.mapped is not None and struct.unpack_from("<Q", self.mapped)[0] != self.seq

    async def settle(self, timeout_s: float = 0.25) -> None:
        """Wait until all events are read, at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await self.wait_for(lambda: not self.pending(), timeout_s)


async def readable(sock: socket.socket) -> None:
    """Until `sock` has something to read."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(sock.fileno(), wake)
    try:
        await future
    finally:
        loop.remove_reader(sock.fileno())

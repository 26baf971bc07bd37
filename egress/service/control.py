"""The gateway's line to the egress: JSON lines over `egress.sock`, one gateway at a time, the newest wins.

The gateway asks (`id`, `op`), the egress answers (`id`, `ok` or `error`). Unasked, the egress sends
events with their numbers, `gap` for events that are lost (how many, and of which backends), `door` when a door
comes or goes, and `ask` when it wants to know something of the host. What a gateway may ask:

    hello     {resume: {epoch, seq} | null}            who is there; events after `seq` follow
    policies  {generation, backends, surroundings}      all policies: replaces the old ones, or is refused whole
    door      {door, backend, nonce, …}                 a door will come
    drop_door {door}                                    forget it: listeners closed, connections cut
    keep_doors {doors: [...]}                           forget every other door
    status    {}                                        counts
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from egress.doors.sessions import Doors
from egress.doors.states import DoorState
from egress.doors.ticket import Ticket
from egress.journal.record import Recorder

logger = logging.getLogger(__name__)

VERSION = 1
MAX_LINE = 16 * 1024 * 1024
ASK_TIMEOUT_S = 1.0
ASK_AGAIN_S = 0.2
"""A question makes the gateway read all of the host's sockets, and a backend can make us ask as often as it likes."""


class PoliciesRefused(ValueError):
    """Raised by `apply` when a push is refused whole; `problems` are `{backend, path, message}`."""

    def __init__(self, problems: list[dict[str, Any]]) -> None:
        super().__init__("; ".join(f"{p.get('backend', '')}: {p['message']}" for p in problems))
        self.problems = problems


class ControlTarget(Protocol):
    """What the gateway can reach of the egress."""

    recorder: Recorder
    doors: Doors

    def apply(self, message: Mapping[str, Any]) -> None:
        """Replace all policies. Raises PoliciesRefused and changes nothing."""

    def status(self) -> dict[str, Any]: ...


class ControlConnection(asyncio.Protocol):
    """One connection of a gateway."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.target = control.target
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.cursor = -1
        """The last event sent; below 0 until the gateway said hello."""
        self.paused = False
        self.scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        stream.set_write_buffer_limits(high=1 << 20)
        self.transport = stream

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.control.lost(self)

    def data_received(self, data: bytes) -> None:
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = bytes(self.buffer + end)
            self.buffer.clear()
            self.answer(line)
        self.buffer += rest
        if len(self.buffer) > MAX_LINE:
            self.close()

    def answer(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if "answer" in message:
                self.control.answered(message)
                return
            reply = self.perform(message)
        except PoliciesRefused as error:
            reply = {"error": {"message": str(error), "problems": error.problems}}
        except (ValueError, TypeError, KeyError) as error:
            message, reply = {}, {"error": {"message": f"malformed message: {error}", "problems": []}}
        self.send({"id": message.get("id"), **reply})
        if message.get("op") == "hello":
            self.flush()

    def perform(self, message: Mapping[str, Any]) -> dict[str, Any]:
        match message.get("op"):
            case "hello":
                return self.hello(message)
            case "policies":
                self.target.apply(message)
                return {"ok": True, "generation": message.get("generation", 0)}
            case "door":
                self.target.doors.expect(Ticket.from_message(message))
            case "drop_door":
                self.target.doors.drop(str(message["door"]))
            case "keep_doors":
                self.target.doors.keep_only(set(message["doors"]))
            case "status":
                return {"ok": True, "status": self.target.status()}
            case unknown:
                raise ValueError(f"unknown op {unknown!r}")
        return {"ok": True}

    def hello(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Take this gateway as the one; events after its cursor follow, all of them when it knows another epoch."""
        recorder = self.target.recorder
        resume = message.get("resume") or {}
        same_life = resume.get("epoch") == recorder.epoch
        self.cursor = min(int(resume.get("seq", 0)), recorder.seq) if same_life else 0
        self.control.take(self)
        return {
            "ok": True,
            "epoch": recorder.epoch,
            "seq": recorder.seq,
            "version": VERSION,
            "doors": sorted(self.target.doors.sessions),
        }

    def send(self, message: Mapping[str, Any]) -> None:
        if self.transport is not None:
            self.transport.write(json.dumps(message).encode() + b"\n")

    def wake(self) -> None:
        """There is an event: send it, together with what else this turn of the loop brings."""
        if not self.scheduled:
            self.scheduled = True
            self.control.loop.call_soon(self.flush)

    def flush(self) -> None:
        self.scheduled = False
        if self.transport is None or self.paused or self.cursor < 0:
            return
        lines, self.cursor, lost = self.target.recorder.read(self.cursor)
        if lost:
            self.send({"gap": sum(lost.values()), "backends": lost})
        if lines:
            self.transport.write("".join(lines).encode())
        if self.cursor < self.target.recorder.seq:
            self.wake()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.wake()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Control:
    """The listening end for gateways."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: ControlTarget) -> None:
        self.loop = loop
        self.target = target
        self.gateway: ControlConnection | None = None
        self.questions: dict[int, asyncio.Future[str]] = {}
        self.numbers = itertools.count(1)
        self.next_question = 0.0
        self.server: asyncio.AbstractServer | None = None

    async def listen(self, path: Path) -> None:
        """Bind `egress.sock`, replacing a socket of an earlier process. Raises OSError."""
        remove_socket(path)
        self.server = await self.loop.create_unix_server(lambda: ControlConnection(self), str(path))
        # Who may come here is decided by the 0700 directory above, on the host.
        os.chmod(path, 0o666)  # noqa: S103

    def take(self, gateway: ControlConnection) -> None:
        if self.gateway is not None and self.gateway is not gateway:
            self.gateway.close()
        self.gateway = gateway
        self.target.recorder.on_event = gateway.wake

    def lost(self, gateway: ControlConnection) -> None:
        if self.gateway is gateway:
            self.gateway = None
            self.target.recorder.on_event = None

    def door_state(self, door: str, state: DoorState, detail: str) -> None:
        """Tell the gateway that a door came, went or has something to say."""
        if self.gateway is not None:
            self.gateway.send({"door": door, "state": state, "detail": detail})

    async def ask_host_port(self, port: int) -> str:
        """Which listeners the host has on that TCP port: `none`, `loopback`, `all`, or `unknown`."""
        if self.gateway is None or self.gateway.paused or self.loop.time() < self.next_question:
            return "unknown"
        self.next_question = self.loop.time() + ASK_AGAIN_S
        number = next(self.numbers)
        future: asyncio.Future[str] = self.loop.create_future()
        self.questions[number] = future
        self.gateway.send({"ask": "host_port", "port": port, "ask_id": number})
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                return await future
        except TimeoutError:
            return "unknown"
        finally:
            self.questions.pop(number, None)

    def answered(self, message: Mapping[str, Any]) -> None:
        future = self.questions.get(message["answer"])
        if future is not None and not future.done():
            future.set_result(str(message.get("listeners", "unknown")))

    def close(self) -> None:
        if self.server is not None:
            self.server.close()
        if self.gateway is not None:
            self.gateway.close()


def remove_socket(path: Path) -> None:
    """Remove the socket of an earlier process, if there is one."""
    path.unlink(missing_ok=True)

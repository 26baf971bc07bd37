"""One running backend with its door: the `Instance` that the endpoint talks to, and how it is made and removed.

Order. Up: the policy is at the egress (`Policies` pushed it) -> the door is announced -> the door starts -> its sockets
are acknowledged -> the backend is created in the door's namespace -> its streams are attached -> it starts. Down:
backend, then the door at the egress (listeners closed, connections aborted), then the door itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from egress.door.ports import OWN_PORTS
from gateway.runtime.containers.door import Door
from gateway.runtime.containers.ends import KILLED, exit_sentence, late_sentence, late_words, listening
from gateway.runtime.containers.secret_files import FilledFiles, memory_in, placed
from gateway.runtime.containers.volumes import give_volumes, to_give
from gateway.runtime.engine.base import Attachment, ContainerPlan, Mount
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Role
from gateway.runtime.inventory.users import uid_of
from gateway.runtime.plan.homes import numeric_uid
from gateway.runtime.plan.plans import (
    backend_network_plan,
    check_hardening,
    check_image_user,
    check_mounts,
)
from gateway.runtime.sandbox.base import ExitInfo, transport_of
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError
from gateway.runtime.sandbox.last_words import KEPT_LINES as TELLING_LINES
from gateway.runtime.sandbox.log_ring import MAX_LOG_LINE, LogLine, LogRing, printable
from registry.model.server import Server
from registry.model.sources import LocalSource

POLL_FIRST_S, POLL_LONGEST_S = 0.02, 0.5
LAST_LINES_S: Final = 1.0
UNREAD: Final = 64 * 1024
"""Bytes of standard output that are logged that had no reader."""
TURNS: Final = 10
DEAF_GRACE_S: Final = 5.0
DEAF: Final = "It closed stdin/stdout but kept running, so it was killed."
KEPT_LINES: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A backend as it should run; what a `BackendInstance` is made from."""

    instance: str
    server: Server
    source: LocalSource
    ports: frozenset[int]
    """Direct ports of the door."""
    plan: Callable[[str], Awaitable[ContainerPlan]]
    """The backend's plan, given the door's container ID."""
    files: FilledFiles
    """Its secret files."""
    version: str = ""
    """Of the package in its image."""


class BackendInstance:
    """A backend's container and its door (the `ManagedInstance` protocol)."""

    def __init__(self, wanted: Wanted, backend: str, context: RuntimeContext, ring: LogRing) -> None:
        self.backend = backend
        self.id = wanted.instance
        self.wanted = wanted
        self.context = context
        self.ring = ring
        self.transport = transport_of(wanted.server)
        self.port = wanted.server.port
        self.path = wanted.server.path
        self.version = wanted.version
        isolated = wanted.server.isolated
        self.door = Door(wanted.instance, backend, wanted.ports, context) if isolated else None
        self.container = ""
        self.address = ""
        """Of a backend that is not isolated."""
        self.uid: int | None = None
        """The user that it runs as, once known."""
        self.folders: tuple[Mount, ...] = ()
        """Where its secret files are."""
        self.attachment: Attachment | None = None
        self.started_at = 0.0
        self.printed: deque[str] = deque(maxlen=TELLING_LINES)
        """The last lines that it printed: on standard error, and what was no message on standard output."""
        self.is_read = False
        """Whether the standard output of this incarnation has a reader."""
        self.ended: asyncio.Future[int] | None = None
        self.was_deaf = False
        """Whether it was killed because its streams were gone."""

    # -- the Instance protocol

    async def attach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Standard output and input of a stdio backend. Raises BackendUnavailable when it has none."""
        if self.attachment is None or self.transport != "stdio":
            raise BackendUnavailable(self.backend, "It has no standard streams.")
        self.is_read = True
        return self.attachment.reader, self.attachment.writer

    def take_stray(self, text: str) -> None:
        """A line on standard output that is no message."""
        self.take_line(LogLine(time=time.time(), stream="stdout", text=printable(text)))

    async def connect(self) -> socket.socket:
        """A connected, non-blocking socket to the backend's port. Raises BackendUnavailable."""
        if self.port is None:
            raise BackendUnavailable(self.backend, "It listens on no port.")
        try:
            if self.door is not None:
                return await self.context.link.connect_inside(self.id, self.port)
            return await connect_plain(self.address, self.port)
        except (OSError, TimeoutError) as error:
            raise BackendUnavailable(
                self.backend,
                f"It does not accept connections on port {self.port} ({error}). See `stockade logs {self.backend}`.",
            ) from error

    async def wait_exit(self) -> ExitInfo:
        """How the backend ended, once it did."""
        assert self.ended is not None
        code = await asyncio.shield(self.ended)
        return ExitInfo(code=code, detail=await self.exit_detail(code))

    async def exit_detail(self, code: int) -> str:
        """How it ended, with its last lines (which may still arrive), and whether it ran out of memory."""
        if self.attachment is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_LINES_S):
                    await self.attachment.ended()
                    await self.take_rest(self.attachment.reader)
        out_of_memory = False
        if code == KILLED:
            with contextlib.suppress(EngineError):
                info = await self.context.engine.inspect(self.container)
                out_of_memory = info is not None and info.out_of_memory
        return exit_sentence(
            code,
            list(self.printed),
            self.wanted.source,
            out_of_memory=out_of_memory,
            listened=self.listened,
        )

    @property
    def listened(self) -> frozenset[int]:
        """The ports that its door listens on in its network."""
        return self.wanted.ports | OWN_PORTS if self.door is not None else frozenset()

    async def why_late(self) -> str:
        """What it printed and, of one over http, where it listens instead."""
        why = ""
        with contextlib.suppress(EngineError):
            info = await self.context.engine.inspect(self.container) if self.transport == "http" else None
            if info is not None and self.port is not None:
                found = await asyncio.to_thread(listening, info.pid, info.id)
                why = late_sentence(found, self.port, self.listened, isolated=self.door is not None)
        return late_words(self.printed, self.wanted.source, why)

    async def take_rest(self, reader: asyncio.StreamReader) -> None:
        """What it wrote to standard output goes to the log, also if it ended before that had a reader."""
        if self.transport != "stdio":
            return
        if self.is_read:
            for _ in range(TURNS):  # in which its reader finds what is no message
                await asyncio.sleep(0)
            return
        for line in (await reader.read(UNREAD)).decode(errors="replace").split("\n"):
            if line.strip():
                self.take_stray(line[:MAX_LOG_LINE].rstrip("\r"))

    # -- up

    async def start(self) -> None:
        """Begins the next incarnation: in the same containers where they exist. On failure call `stop`."""
        await (self.start_again() if self.container else self.start_first())

    async def start_first(self) -> None:
        """Brings up the door, then the backend; each is recorded before it is made."""
        if self.door is not None:
            await self.door.start()
        else:
            network = backend_network_plan(self.context.names, self.id)
            await self.context.ownership.create_network(network, owned(network.name, Role.BACKEND_NETWORK, self.id))
        plan = await self.wanted.plan(self.door.container if self.door else "")
        check_hardening(plan)
        about = owned(plan.name, Role.BACKEND, self.id, fingerprint=plan.fingerprint())
        self.container = await self.context.ownership.create(plan, about)
        self.uid = numeric_uid(plan.user)
        self.folders = memory_in(plan)
        ours = self.context.users.gave(self.uid)
        if volumes := to_give(self.context.names, self.wanted.source, plan, ours=ours):
            owner = next((volume.owner for volume in volumes if volume.owner), plan.user)
            await give_volumes(self.context, self.id, owner, volumes)
        await self.start_backend()

    async def adopt(self) -> bool:
        """Takes over what an earlier gateway left running, if it is exactly what is wanted; False if not."""
        context, record = self.context, self.context.ownership.record
        recorded = record.owned.get(context.names.backend(self.id))
        door = record.owned.get(context.names.door(self.id))
        if recorded is None or (door is None) != (self.door is None):
            return False
        if door is not None and self.door is not None and not await self.door.adopt(door):
            return False
        found = await context.ownership.container(recorded.name)
        plan = await self.wanted.plan(self.door.container if self.door else "")
        if found is None or not found.running or recorded.fingerprint != plan.fingerprint():
            return False
        self.container, self.uid = found.id, numeric_uid(plan.user)
        self.folders = memory_in(plan)
        self.wanted.files.forget()
        if self.transport == "http":
            for line in await context.engine.logs(self.container, KEPT_LINES):
                self.take_line(line)
            await self.attach_streams()
            self.ended = context.exits.of(self.container)
            await self.look()
        return True

    async def start_backend(self) -> None:
        """Attaches, then starts, then (http) waits for its port. Raises PlanError for a mount that leads elsewhere."""
        check_mounts(self.wanted.source)
        await self.attach_streams()
        self.was_deaf = False
        self.started_at = time.monotonic()
        async with placed(self.context, self.id, self.container, self.folders, self.wanted.files):
            self.ended = await start_watched(self.context.engine, self.context.exits, self.container)
        await self.look()
        if self.transport == "http":
            await self.wait_port()

    async def attach_streams(self) -> None:
        """Opens the container's streams, before it starts."""
        stdio = self.transport == "stdio"
        self.is_read = False
        self.attachment = await self.context.engine.attach(
            self.container, stdin=stdio, on_line=self.take_line, stdout_lines=not stdio, pace=self.ring.pace
        )

    async def look(self) -> None:
        """Reads the address of a backend that is not isolated, and the uid of one whose image names its user.

        Raises PlanError for a uid that no image may bring.
        """
        if self.door is not None and self.uid is not None:
            return
        info = await self.context.engine.inspect(self.container)
        if info is not None and self.door is None:
            self.address = info.addresses[0] if info.addresses else ""
        if info is not None and self.uid is None:
            self.uid = await asyncio.to_thread(uid_of, info.pid, info.id)
            check_image_user(self.uid, self.context.users.span)

    async def wait_port(self) -> None:
        """Until an http backend accepts. Raises BackendUnavailable when it ends first."""
        assert self.ended is not None
        pause_s = POLL_FIRST_S
        while True:
            try:
                (await self.connect()).close()
                return
            except BackendUnavailable:
                if self.ended.done():
                    raise BackendUnavailable(self.backend, (await self.wait_exit()).detail) from None
            await asyncio.wait([self.ended], timeout=pause_s)
            pause_s = min(pause_s * 2, POLL_LONGEST_S)

    def take_line(self, line: LogLine) -> None:
        """One line that the backend printed."""
        self.ring.add(LogLine(time=line.time, stream=line.stream, text=line.text, instance=self.id))
        self.printed.append(line.text[:500])

    # -- its end

    async def wait_end(self) -> str:
        """Waits until the backend or its door ended; which, in one sentence."""
        assert self.ended is not None
        ends = [self.ended]
        if self.door is not None:
            ends.append(self.context.exits.of(self.door.container))
        async with asyncio.TaskGroup() as tasks:
            deaf = tasks.create_task(self.end_deaf())
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            deaf.cancel()
        if self.ended.done():
            return DEAF if self.was_deaf else (await self.wait_exit()).detail
        return "Its door ended; it is started again behind a new one."

    async def end_deaf(self) -> None:
        """Kills a stdio backend whose streams are gone, after a moment to end by itself: it can serve no client.

        It closed them, or it did not answer and was disconnected. Its end lets the next incarnation begin.
        """
        if self.transport != "stdio" or self.attachment is None:
            return
        await self.attachment.ended()
        await asyncio.sleep(DEAF_GRACE_S)
        self.was_deaf = True
        with contextlib.suppress(EngineError):
            await self.context.engine.kill(self.container)

    @property
    def is_running(self) -> bool:
        """Whether an incarnation began and its container's end was not reported yet."""
        return self.ended is not None and not self.ended.done()

    @property
    def is_over(self) -> bool:
        """Whether this incarnation has ended (its container did, or a stdio one's output), even if unnoticed so far."""
        if self.attachment is None or (self.transport == "stdio" and self.attachment.reader.at_eof()):
            return True
        return self.ended is None or self.ended.done()

    async def start_again(self) -> None:
        """Restarts the same containers: the door stands, the backend ended (or is an adopted one on stdio)."""
        await self.release()
        await self.context.engine.stop(self.container, 1)
        self.printed.clear()
        await self.start_backend()

    @property
    def can_restart(self) -> bool:
        """Whether the namespace is still there, so that the same containers can go on."""
        return self.door is None or self.door.alive

    @property
    def user_is_configured(self) -> bool:
        """Whether the entry names the user."""
        return bool(self.wanted.source.user)

    @property
    def containers(self) -> tuple[str, ...]:
        """IDs: the backend's, the door's."""
        return tuple(c for c in (self.container, self.door.container if self.door else "") if c)

    async def release(self) -> None:
        """Closes the streams; the containers keep running."""
        if self.attachment is not None:
            await self.attachment.close()
            self.attachment = None

    # -- down

    async def end(self, grace_s: float) -> None:
        """Stops the backend's container, as if it had crashed. Raises EngineError."""
        await self.context.engine.stop(self.container, grace_s)

    async def stop(self, grace_s: float) -> None:
        """Stops and removes everything of this instance; what is gone already is fine."""
        if self.container and grace_s > 0 and self.ended is not None and not self.ended.done():
            await self.context.engine.stop(self.container, grace_s)
        await self.release()
        await self.context.ownership.remove(self.context.names.backend(self.id))
        if self.door is not None:
            await self.door.stop()
        await self.context.ownership.remove_instance(self.id)
        self.context.exits.forget(self.container)
        self.context.users.release(self.id)


async def connect_plain(address: str, port: int) -> socket.socket:
    """A TCP connection to a backend on an ordinary network."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock

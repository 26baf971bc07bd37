"""One running backend with its door: the `Instance` that the endpoint talks to, and how it is made and unmade.

Order (DESIGN "Order"). Up: the policy is at the egress (the supervisor pushed it) -> the door is announced ->
the door starts -> its sockets are acknowledged -> the backend is made in the door's namespace -> its streams are
attached -> it starts. Down: backend, then the door at the egress (listeners closed, connections cut), then the
door itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from registry.config import Server
from registry.spec import ImageSource, PackageSource

from .base import Attachment, ContainerPlan, Engine, ExitInfo, LogLine
from .egress_link import DoorTicket
from .errors import BackendUnavailable, EngineError
from .logring import LogRing
from .ownership import Ownership
from .plans import Names, backend_network_plan, check_hardening, door_plan
from .record import Owned, Role

DOOR_TIMEOUT_S: Final = 20.0
POLL_FIRST_S, POLL_LONGEST_S = 0.02, 0.5
TELLING_LINES: Final = 5


class Link(Protocol):
    """What this module needs of the link to the egress (`egress_link.EgressLink`)."""

    async def expect_door(self, ticket: DoorTicket) -> None: ...
    async def wait_door(self, door: str, timeout_s: float) -> None: ...
    async def drop_door(self, door: str) -> None: ...
    async def connect_inside(self, door: str, port: int, timeout_s: float = 5) -> socket.socket: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A backend as it should run; what a `Pair` is made from."""

    instance: str
    server: Server
    source: PackageSource | ImageSource
    ports: frozenset[int]
    """Direct ports of the door."""
    plan: Callable[[str], Awaitable[ContainerPlan]]
    """The backend's plan, given the door's container ID."""


@dataclass(slots=True)
class Exits:
    """Who waits for which container to end; the supervisor's watcher tells."""

    waiting: dict[str, asyncio.Future[int]] = field(default_factory=dict)

    def of(self, container: str) -> asyncio.Future[int]:
        """The exit code, once the container ended."""
        if container not in self.waiting:
            self.waiting[container] = asyncio.get_running_loop().create_future()
        return self.waiting[container]

    def tell(self, container: str, code: int) -> None:
        """That container ended."""
        future = self.waiting.get(container)
        if future is not None and not future.done():
            future.set_result(code)

    def forget(self, container: str) -> None:
        """Nobody will ask again; the next `of` is about its next life."""
        future = self.waiting.pop(container, None)
        if future is not None and not future.done():
            future.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every pair of one supervisor works with."""

    engine: Engine
    link: Link
    ownership: Ownership
    names: Names
    exits: Exits
    doors_image: Callable[[], str]
    doors_directory: Callable[[], str]


class Pair:
    """One life of one backend (the `Instance` protocol)."""

    def __init__(self, wanted: Wanted, backend: str, tools: Tools, ring: LogRing) -> None:
        self.backend = backend
        self.id = wanted.instance
        self.wanted = wanted
        self.tools = tools
        self.ring = ring
        self.transport: Literal["stdio", "http"] = "stdio" if wanted.server.transport.value == "stdio" else "http"
        self.port = wanted.server.port
        self.path = wanted.server.path
        self.door = ""
        """The door's container ID; empty when the backend is not isolated."""
        self.container = ""
        self.address = ""
        """Of a backend that is not isolated."""
        self.attachment: Attachment | None = None
        self.started_at = 0.0
        self.said: list[str] = []
        """The last lines on standard error."""
        self.ended: asyncio.Future[int] | None = None

    # -- the Instance protocol

    async def attach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Standard output and input of a stdio backend. Raises BackendUnavailable when it has none."""
        if self.attachment is None or self.transport != "stdio":
            raise BackendUnavailable(self.backend, f"Backend {self.backend} has no standard streams.")
        return self.attachment.reader, self.attachment.writer

    async def connect(self) -> socket.socket:
        """A connected, non-blocking socket to the backend's port. Raises BackendUnavailable."""
        if self.port is None:
            raise BackendUnavailable(self.backend, f"Backend {self.backend} listens on no port.")
        try:
            if self.door:
                return await self.tools.link.connect_inside(self.id, self.port)
            return await connect_plain(self.address, self.port)
        except (OSError, TimeoutError) as error:
            raise BackendUnavailable(
                self.backend,
                f"Backend {self.backend} does not accept connections on port {self.port} ({error}). See `stockade logs "
                f"{self.backend}`.",
            ) from error

    async def wait_exit(self) -> ExitInfo:
        """How the backend ended, once it did."""
        assert self.ended is not None
        code = await asyncio.shield(self.ended)
        return ExitInfo(code=code, detail=exit_sentence(self.backend, code, self.said))

    # -- up

    async def start(self) -> None:
        """Brings up the door, then the backend. What was made is recorded; on failure call `stop`."""
        if self.wanted.server.isolated:
            await self.start_door()
        else:
            plan = backend_network_plan(self.tools.names, self.id)
            await self.tools.ownership.create_network(plan, owned(plan.name, Role.BACKEND_NETWORK, self.id))
        plan = await self.wanted.plan(self.door)
        check_hardening(plan)
        about = owned(plan.name, Role.BACKEND, self.id, fingerprint=plan.fingerprint())
        self.container = await self.tools.ownership.create(plan, about)
        await self.start_backend()

    async def start_door(self) -> None:
        """The namespace: announced, made, started, its sockets acknowledged."""
        tools, nonce, generation = self.tools, secrets.token_hex(16), next_generation()
        plan = door_plan(
            tools.names,
            self.id,
            tools.doors_image(),
            tools.doors_directory(),
            nonce=nonce,
            generation=generation,
            ports=self.wanted.ports,
        )
        about = owned(plan.name, Role.DOOR, self.id, nonce=nonce, generation=generation)
        self.door = await tools.ownership.create(plan, about)
        ticket = DoorTicket(
            door=self.id, backend=self.backend, nonce=nonce, container=self.door, generation=generation
        )
        await tools.link.expect_door(ticket)
        tools.exits.of(self.door)
        await tools.engine.start(self.door)
        await self.wait_door()

    async def wait_door(self) -> None:
        """Until the egress has the door's sockets. Raises EngineError when the door ends or stays silent."""
        try:
            await self.tools.link.wait_door(self.id, DOOR_TIMEOUT_S)
        except TimeoutError:
            printed = [line.text for line in await self.tools.engine.logs(self.door, TELLING_LINES)]
            raise EngineError(
                f"The door of backend {self.backend} did not reach the egress within {DOOR_TIMEOUT_S:g} s. "
                f"{' / '.join(printed)}"
            ) from None

    async def start_backend(self) -> None:
        """Attaches, then starts, then (http) waits for its port."""
        await self.attach_streams()
        self.ended = self.tools.exits.of(self.container)
        self.started_at = time.monotonic()
        await self.tools.engine.start(self.container)
        if not self.door:
            await self.find_address()
        if self.transport == "http":
            await self.wait_port()

    async def attach_streams(self) -> None:
        """Opens the container's streams, before it starts."""
        stdio = self.transport == "stdio"
        self.attachment = await self.tools.engine.attach(
            self.container, stdin=stdio, on_line=self.take_line, stdout_lines=not stdio
        )

    async def find_address(self) -> None:
        """The address of a backend that is not isolated."""
        info = await self.tools.engine.inspect(self.container)
        self.address = info.addresses[0] if info and info.addresses else ""

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
                    code = self.ended.result()
                    raise BackendUnavailable(self.backend, exit_sentence(self.backend, code, self.said)) from None
            await asyncio.wait([self.ended], timeout=pause_s)
            pause_s = min(pause_s * 2, POLL_LONGEST_S)

    def take_line(self, line: LogLine) -> None:
        """One line that the backend printed."""
        self.ring.add(LogLine(time=line.time, stream=line.stream, text=line.text, instance=self.id))
        self.said = [*self.said[1 - TELLING_LINES :], line.text[:500]]

    # -- life

    async def wait_end(self) -> str:
        """Waits until the backend or its door ended; says which in one sentence."""
        assert self.ended is not None
        ends = [self.ended]
        if self.door:
            ends.append(self.tools.exits.of(self.door))
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self.ended.done():
            return (await self.wait_exit()).detail
        return f"The door of backend {self.backend} ended; the backend starts anew behind a new one."

    @property
    def is_over(self) -> bool:
        """Whether this life has ended (its output did, or its container), even if nobody acted on it yet."""
        if self.attachment is None or self.attachment.reader.at_eof():
            return True
        return self.ended is None or self.ended.done()

    async def start_again(self) -> None:
        """Starts the same containers' next life: the door stands, the backend ended (or is adopted, a stdio one)."""
        await self.detach()
        await self.tools.engine.stop(self.container, 1)
        self.tools.exits.forget(self.container)
        self.said = []
        await self.start_backend()

    @property
    def door_alive(self) -> bool:
        """Whether the namespace is still there, so that the same containers can go on."""
        return not self.door or not self.tools.exits.of(self.door).done()

    async def detach(self) -> None:
        """Lets go of the streams; the containers keep running."""
        if self.attachment is not None:
            await self.attachment.close()
            self.attachment = None

    # -- down

    async def stop(self, grace_s: float) -> None:
        """Stops and removes everything of this instance; what is gone already is fine."""
        if self.attachment is not None and self.transport == "stdio":
            with contextlib.suppress(OSError, RuntimeError):
                self.attachment.writer.write_eof()  # MCP 2025-11-25, lifecycle: a stdio server ends when its input does
        if self.container and grace_s > 0 and self.ended is not None and not self.ended.done():
            await self.tools.engine.stop(self.container, grace_s)
        await self.detach()
        await self.tools.ownership.remove(self.tools.names.backend(self.id))
        if self.door:
            await self.tools.link.drop_door(self.id)
        await self.tools.ownership.remove_instance(self.id)
        for container in (self.container, self.door):
            self.tools.exits.forget(container)


def owned(
    name: str, role: Role, instance: str = "", *, fingerprint: str = "", nonce: str = "", generation: int = 0
) -> Owned:
    """A thing to be recorded."""
    return Owned(
        name=name, role=role, mark="", instance=instance, fingerprint=fingerprint, nonce=nonce, generation=generation
    )


def next_generation() -> int:
    """A number that rises over restarts of the gateway too."""
    return time.time_ns() // 1000


def exit_sentence(backend: str, code: int, said: list[str]) -> str:
    """How a backend ended, in words, with what it printed last."""
    how = "was killed (out of memory, perhaps: see `resources.memory`)" if code == 137 else f"exited with code {code}"
    last = f" It printed: {' / '.join(said)}" if said else " It printed nothing on standard error."
    return f"Backend {backend} {how}.{last}"


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

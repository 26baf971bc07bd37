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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Protocol

from registry.config import Server
from registry.spec import ImageSource, PackageSource

from .base import Attachment, ContainerPlan, Engine, ExitInfo, LogLine
from .egress_link import DoorTicket
from .errors import BackendUnavailable, EngineError
from .logring import LogRing
from .ownership import Ownership
from .plans import DOOR_CAPABILITIES, Names, backend_network_plan, check_hardening, door_plan
from .record import Owned, Role

DOOR_TIMEOUT_S: Final = 20.0
POLL_FIRST_S, POLL_LONGEST_S = 0.02, 0.5
TELLING_LINES: Final = 5
LAST_LINES_S: Final = 1.0
KILLED: Final = 137
"""The exit code of a container that SIGKILL ended."""
KEPT_LINES: Final = 200


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


async def start_watched(engine: Engine, exits: Exits, container: str) -> asyncio.Future[int]:
    """Starts a container; the future is the exit code of this life of it, not of an earlier one."""
    await engine.start(container)
    exits.forget(container)
    future = exits.of(container)
    info = await engine.inspect(container)
    if info is None or not info.running:
        exits.tell(container, info.exit_code if info else 137)
    return future


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every pair of one supervisor works with."""

    engine: Engine
    link: Link
    ownership: Ownership
    names: Names
    exits: Exits
    doors_image: Callable[[], str]
    doors_directory: Path
    nofile: Callable[[], int]
    """The most open files that the engine grants a container."""


class Door:
    """The owner of one network namespace, and what the egress knows of it."""

    def __init__(self, instance: str, backend: str, ports: frozenset[int], tools: Tools) -> None:
        self.instance = instance
        self.backend = backend
        self.ports = ports
        self.tools = tools
        self.container = ""

    async def start(self) -> None:
        """Announced, made, started, its sockets acknowledged. Raises EngineError."""
        try:
            await self.make(DOOR_CAPABILITIES)
        except EngineError as error:
            if "capabilit" not in str(error).lower():
                raise
            # The same isolation, less to see (DESIGN, "The door"); the door says so in a note.
            await self.make(tuple(name for name in DOOR_CAPABILITIES if name != "NET_ADMIN"))
        await self.wait()

    async def make(self, capabilities: tuple[str, ...]) -> None:
        """Makes and starts the container, once the egress knows whom to expect."""
        nonce, generation = secrets.token_hex(16), next_generation()
        plan = replace(self.plan(nonce, generation), capabilities=capabilities)
        about = owned(
            plan.name, Role.DOOR, self.instance, fingerprint=plan.fingerprint(), nonce=nonce, generation=generation
        )
        self.container = await self.tools.ownership.create(plan, about)
        await self.tools.link.expect_door(door_ticket(self.tools.ownership.record.owned[plan.name]))
        await start_watched(self.tools.engine, self.tools.exits, self.container)

    def plan(self, nonce: str, generation: int) -> ContainerPlan:
        """The door's container."""
        return door_plan(
            self.tools.names,
            self.instance,
            self.tools.doors_image(),
            self.tools.doors_directory,
            nonce=nonce,
            generation=generation,
            ports=self.ports,
            nofile=self.tools.nofile(),
        )

    async def wait(self) -> None:
        """Until the egress has its sockets. Raises EngineError when it ends first or stays silent."""
        try:
            await self.tools.link.wait_door(self.instance, DOOR_TIMEOUT_S)
        except TimeoutError:
            printed = [line.text for line in await self.tools.engine.logs(self.container, TELLING_LINES)]
            raise EngineError(
                f"The door of backend {self.backend} did not reach the egress within {DOOR_TIMEOUT_S:g} s. "
                f"{' / '.join(printed)}"
            ) from None

    async def adopt(self, recorded: Owned) -> bool:
        """Takes over a running one; it was announced again before the link went up. False when it does not fit."""
        found = await self.tools.ownership.container(recorded.name)
        plan = self.plan(recorded.nonce, recorded.generation)
        if found is None or not found.running or recorded.fingerprint != plan.fingerprint():
            return False
        self.container = found.id
        self.tools.exits.of(self.container)
        await self.wait()
        return True

    @property
    def alive(self) -> bool:
        """Whether the namespace is still there."""
        return bool(self.container) and not self.tools.exits.of(self.container).done()

    async def stop(self) -> None:
        """Closed at the egress (its listeners, its connections), then removed."""
        await self.tools.link.drop_door(self.instance)
        await self.tools.ownership.remove(self.tools.names.door(self.instance))
        self.tools.exits.forget(self.container)


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
        isolated = wanted.server.isolated
        self.door = Door(wanted.instance, backend, wanted.ports, tools) if isolated else None
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
            if self.door is not None:
                return await self.tools.link.connect_inside(self.id, self.port)
            return await connect_plain(self.address, self.port)
        except (OSError, TimeoutError) as error:
            raise BackendUnavailable(
                self.backend,
                f"Backend {self.backend} does not accept connections on port {self.port} ({error}). "
                f"See `stockade logs {self.backend}`.",
            ) from error

    async def wait_exit(self) -> ExitInfo:
        """How the backend ended, once it did."""
        assert self.ended is not None
        code = await asyncio.shield(self.ended)
        return ExitInfo(code=code, detail=await self.exit_detail(code))

    async def exit_detail(self, code: int) -> str:
        """How it ended, with its last lines, which may still be under way, and whether it ran out of memory."""
        if self.attachment is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_LINES_S):
                    await self.attachment.ended()
        out_of_memory = False
        if code == KILLED:
            with contextlib.suppress(EngineError):
                info = await self.tools.engine.inspect(self.container)
                out_of_memory = info is not None and info.out_of_memory
        return exit_sentence(self.backend, code, self.said, out_of_memory=out_of_memory)

    # -- up

    async def start(self) -> None:
        """Brings up the door, then the backend. What was made is recorded; on failure call `stop`."""
        if self.door is not None:
            await self.door.start()
        else:
            network = backend_network_plan(self.tools.names, self.id)
            await self.tools.ownership.create_network(network, owned(network.name, Role.BACKEND_NETWORK, self.id))
        plan = await self.wanted.plan(self.door.container if self.door else "")
        check_hardening(plan)
        about = owned(plan.name, Role.BACKEND, self.id, fingerprint=plan.fingerprint())
        self.container = await self.tools.ownership.create(plan, about)
        await self.start_backend()

    async def adopt(self) -> bool:
        """Takes over what an earlier gateway left running, if it is exactly what is wanted; False if not."""
        tools, record = self.tools, self.tools.ownership.record
        recorded = record.owned.get(tools.names.backend(self.id))
        door = record.owned.get(tools.names.door(self.id))
        if recorded is None or (door is None) != (self.door is None):
            return False
        if door is not None and self.door is not None and not await self.door.adopt(door):
            return False
        found = await tools.ownership.container(recorded.name)
        plan = await self.wanted.plan(self.door.container if self.door else "")
        if found is None or not found.running or recorded.fingerprint != plan.fingerprint():
            return False
        self.container = found.id
        if self.transport == "http":
            for line in await tools.engine.logs(self.container, KEPT_LINES):
                self.take_line(line)
            await self.attach_streams()
            self.ended = tools.exits.of(self.container)
            await self.find_address()
        return True

    async def start_backend(self) -> None:
        """Attaches, then starts, then (http) waits for its port."""
        await self.attach_streams()
        self.started_at = time.monotonic()
        self.ended = await start_watched(self.tools.engine, self.tools.exits, self.container)
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
        """Learns the address of a backend that is not isolated."""
        if self.door is not None:
            return
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
                    raise BackendUnavailable(self.backend, (await self.wait_exit()).detail) from None
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
        if self.door is not None:
            ends.append(self.tools.exits.of(self.door.container))
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
        self.said = []
        await self.start_backend()

    @property
    def door_alive(self) -> bool:
        """Whether the namespace is still there, so that the same containers can go on."""
        return self.door is None or self.door.alive

    @property
    def containers(self) -> tuple[str, ...]:
        """IDs: the backend's, the door's."""
        return tuple(c for c in (self.container, self.door.container if self.door else "") if c)

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
                self.attachment.writer.write_eof()  # MCP, lifecycle: a stdio server ends when its input does
        if self.container and grace_s > 0 and self.ended is not None and not self.ended.done():
            await self.tools.engine.stop(self.container, grace_s)
        await self.detach()
        await self.tools.ownership.remove(self.tools.names.backend(self.id))
        if self.door is not None:
            await self.door.stop()
        await self.tools.ownership.remove_instance(self.id)
        self.tools.exits.forget(self.container)


def owned(
    name: str, role: Role, instance: str = "", *, fingerprint: str = "", nonce: str = "", generation: int = 0
) -> Owned:
    """A thing to be recorded."""
    return Owned(
        name=name, role=role, mark="", instance=instance, fingerprint=fingerprint, nonce=nonce, generation=generation
    )


def door_ticket(recorded: Owned, network: str = "") -> DoorTicket:
    """What the egress is told of a door, or of the connector on `network`."""
    return DoorTicket(
        role="connector" if network else "door",
        network=network,
        door=recorded.instance,
        backend=recorded.instance.partition("/")[0],
        nonce=recorded.nonce,
        container=recorded.id,
        generation=recorded.generation,
    )


def next_generation() -> int:
    """A number that rises over restarts of the gateway too."""
    return time.time_ns() // 1000


def exit_sentence(backend: str, code: int, said: list[str], *, out_of_memory: bool = False) -> str:
    """How a backend ended, in words, with what it printed last."""
    if out_of_memory:
        how = "ran out of memory (raise `resources.memory`)"
    elif code == KILLED:
        how = "was killed"
    else:
        how = f"exited with code {code}"
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

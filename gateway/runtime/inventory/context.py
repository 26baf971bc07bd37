"""What every part that makes containers works with: the engine, the link, the record, and which containers ended."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from egress.doors.states import DoorState
from egress.doors.ticket import Ticket
from gateway.runtime.engine.base import ContainerEngine, Engine
from gateway.runtime.inventory.ownership import Ownership
from gateway.runtime.inventory.record import Owned, Role
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.inventory.users import Users
from gateway.runtime.plan.plans import Names
from observability.events import EgressEvent, NoticeEvent


class Link(Protocol):
    """What a sandbox needs of the link to the egress (`egress_link.EgressLink`)."""

    on_event: Callable[[EgressEvent | NoticeEvent], None]
    on_door: Callable[[str, DoorState, str], None] | None

    async def run(self) -> None: ...
    async def wait_connected(self, timeout_s: float) -> None: ...
    async def push_policies(
        self, backends: Mapping[str, Mapping[str, object]], surroundings: Mapping[str, object]
    ) -> int: ...
    async def expect_door(self, ticket: Ticket) -> None: ...
    async def wait_door(self, door: str, timeout_s: float) -> None: ...
    async def drop_door(self, door: str) -> None: ...
    async def connect_inside(self, door: str, port: int, timeout_s: float = 5) -> socket.socket: ...


@dataclass(slots=True)
class Exits:
    """A future for each container whose end is awaited; `ExitWatch` resolves them."""

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
        """This end is no longer awaited; the next `of` is about the next incarnation."""
        future = self.waiting.pop(container, None)
        if future is not None and not future.done():
            future.cancel()


async def start_watched(engine: ContainerEngine, exits: Exits, container: str) -> asyncio.Future[int]:
    """Starts a container; a future of the exit code of this incarnation, not of an earlier one."""
    await engine.start(container)
    exits.forget(container)
    future = exits.of(container)
    info = await engine.inspect(container)
    if info is None or not info.running:
        exits.tell(container, info.exit_code if info else 137)
    return future


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeContext:
    """What every container of one project is made with."""

    engine: Engine
    link: Link
    ownership: Ownership
    users: Users
    names: Names
    exits: Exits
    doors_image: Callable[[], str]
    """The image of the egress and the doors; empty before it was made."""
    run_directory: RunDirectory
    nofile: Callable[[], int]
    """The most open files that the engine grants a container."""


def owned(
    name: str, role: Role, instance: str = "", *, fingerprint: str = "", nonce: str = "", generation: int = 0
) -> Owned:
    """A thing to be recorded."""
    return Owned(
        name=name, role=role, mark="", instance=instance, fingerprint=fingerprint, nonce=nonce, generation=generation
    )

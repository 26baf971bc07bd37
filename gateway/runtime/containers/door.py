"""One backend's door as the runtime sees it: announced, made, started, adopted, removed."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Final

from egress.doors.ticket import Ticket
from gateway.runtime.engine.base import ContainerPlan
from gateway.runtime.engine.errors import CapabilityRefused
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Owned, Role
from gateway.runtime.inventory.users import door_holder
from gateway.runtime.plan.plans import DOOR_CAPABILITIES, door_plan
from gateway.runtime.sandbox.errors import EngineError

DOOR_TIMEOUT_S: Final = 20.0
TELLING_LINES: Final = 5


class Door:
    """The owner of one network namespace, and what the egress knows of it."""

    def __init__(self, instance: str, backend: str, ports: frozenset[int], context: RuntimeContext) -> None:
        self.instance = instance
        self.backend = backend
        self.ports = ports
        self.context = context
        self.container = ""

    async def start(self) -> None:
        """Announced, made, started, its sockets acknowledged. Raises EngineError."""
        try:
            await self.make(DOOR_CAPABILITIES)
        except CapabilityRefused:
            # Isolation is the same; connections that ignore the proxy are not seen, which the door reports in a note.
            await self.make(tuple(name for name in DOOR_CAPABILITIES if name != "NET_ADMIN"))
        await self.wait()

    async def make(self, capabilities: tuple[str, ...]) -> None:
        """Makes and starts the container, once the egress expects it."""
        nonce, generation = secrets.token_hex(16), next_generation()
        plan = replace(await self.plan(nonce, generation), capabilities=capabilities)
        about = owned(
            plan.name, Role.DOOR, self.instance, fingerprint=plan.fingerprint(), nonce=nonce, generation=generation
        )
        self.container = await self.context.ownership.create(plan, about)
        await self.context.link.expect_door(door_ticket(self.context.ownership.record.owned[plan.name]))
        await start_watched(self.context.engine, self.context.exits, self.container)

    async def plan(self, nonce: str, generation: int) -> ContainerPlan:
        """The door's container. Raises EngineError."""
        return door_plan(
            self.context.names,
            self.instance,
            self.context.doors_image(),
            self.context.run_directory.doors,
            nonce=nonce,
            generation=generation,
            ports=self.ports,
            nofile=self.context.nofile(),
            uid=await self.context.users.of(door_holder(self.instance)),
        )

    async def wait(self) -> None:
        """Until the egress has its sockets. Raises EngineError when it ends first or stays silent."""
        try:
            await self.context.link.wait_door(self.instance, DOOR_TIMEOUT_S)
        except TimeoutError:
            printed = [line.text for line in await self.context.engine.logs(self.container, TELLING_LINES)]
            raise EngineError(
                f"The door of server {self.backend} did not reach the egress within {DOOR_TIMEOUT_S:g} s. "
                f"{' / '.join(printed)}"
            ) from None

    async def adopt(self, recorded: Owned) -> bool:
        """Takes over a running one, which was announced before the link went up. False when it is not as planned."""
        found = await self.context.ownership.container(recorded.name)
        plan = await self.plan(recorded.nonce, recorded.generation)
        if found is None or not found.running or recorded.fingerprint != plan.fingerprint():
            return False
        self.container = found.id
        self.context.exits.of(self.container)
        await self.wait()
        return True

    @property
    def alive(self) -> bool:
        """Whether the namespace is still there."""
        return bool(self.container) and not self.context.exits.of(self.container).done()

    async def stop(self) -> None:
        """Closed at the egress (its listeners, its connections), then removed."""
        await self.context.link.drop_door(self.instance)
        await self.context.ownership.remove(self.context.names.door(self.instance))
        self.context.exits.forget(self.container)


def door_ticket(recorded: Owned, network: str = "") -> Ticket:
    """What the egress needs to recognize a door, or the connector on `network`."""
    return Ticket(
        role="connector" if network else "door",
        network=network,
        door=recorded.instance,
        backend=recorded.instance.partition("/")[0],
        nonce=recorded.nonce,
        container=recorded.id,
        generation=recorded.generation,
    )


def next_generation() -> int:
    """A number that keeps increasing across restarts of the gateway."""
    return time.time_ns() // 1000

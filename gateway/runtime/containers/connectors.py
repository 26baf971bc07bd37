"""Connectors: one container of ours on each network that a backend joins, dialling there for the egress.

Neither the egress nor a backend is ever on such a network. A connector decides nothing: the egress asks it for
the addresses of allowed names and for connections to checked addresses (`egress.door.connector`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.runtime.containers.door import door_ticket, next_generation
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Owned, Role
from gateway.runtime.inventory.users import connector_holder
from gateway.runtime.plan.plans import connector_plan
from gateway.runtime.sandbox.errors import EngineError
from observability.events import NoticeEvent, Severity

logger = logging.getLogger(__name__)

PREFIX: Final = "_connector"
READY_TIMEOUT_S: Final = 20.0
RETRY_S: Final = 5.0


def connector_id(network: str) -> str:
    """A connector's id at the egress; no backend can have it."""
    return f"{PREFIX}/{network}"


class Connectors:
    """The connectors of one project, each kept running by a task of its own."""

    def __init__(self, context: RuntimeContext, on_notice: Callable[[NoticeEvent], None]) -> None:
        self.context = context
        self.on_notice = on_notice
        self.keepers: dict[str, asyncio.Task[None]] = {}
        self.ready: set[str] = set()

    async def reconcile(self, networks: Iterable[str], tasks: asyncio.TaskGroup) -> None:
        """Starts and stops connectors until there is one for each of these networks."""
        wanted = set(networks)
        for network in set(self.keepers) - wanted:
            await self.stop(network)
        for network in sorted(wanted - set(self.keepers)):
            self.keepers[network] = tasks.create_task(self.keep(network))

    async def stop(self, network: str) -> None:
        """Ends one connector and removes its container."""
        keeper = self.keepers.pop(network)
        keeper.cancel()
        await asyncio.wait([keeper])

    async def stop_all(self) -> None:
        """Ends all."""
        for network in list(self.keepers):
            await self.stop(network)

    async def keep(self, network: str) -> None:
        """One connector, restarted whenever it ends, until cancelled."""
        reported = ""
        try:
            while True:
                try:
                    ended = await self.start(network)
                    reported = ""
                    await asyncio.shield(ended)
                except EngineError as error:
                    if reported != str(error):
                        reported = str(error)
                        self.complain(network, reported)
                    await asyncio.sleep(RETRY_S)
                finally:
                    self.ready.discard(network)
        finally:
            with contextlib.suppress(EngineError):
                await self.remove(network)

    async def start(self, network: str) -> asyncio.Future[int]:
        """Creates and starts the connector; a future of its exit code. Raises EngineError, as for a missing network."""
        context, identity = self.context, connector_id(network)
        found = await context.engine.network(network)
        if found is not None and found.name != network:  # engines take IDs too, of the host's network among others
            raise EngineError(f"{network} is the ID of the network {found.name}; write its name in `join`.")
        if found is None:
            raise EngineError(
                f"There is no network {network} on the engine, which `join` names. Start what makes it (`docker "
                f"compose up`, or `docker network create {network}`), or correct the name."
            )
        about = owned(
            context.names.connector(network), Role.CONNECTOR, identity, nonce=secrets.token_hex(16),
            generation=next_generation(),
        )  # fmt: skip
        plan = connector_plan(
            context.names, network, identity, context.doors_image(), context.run_directory.doors, nonce=about.nonce,
            generation=about.generation, nofile=context.nofile(), uid=await context.users.of(connector_holder(network)),
        )  # fmt: skip
        container = await context.ownership.create(plan, about)
        await context.link.expect_door(door_ticket(context.ownership.record.owned[plan.name], network=network))
        ended = await start_watched(context.engine, context.exits, container)
        try:
            await context.link.wait_door(identity, READY_TIMEOUT_S)
        except TimeoutError:
            raise EngineError(f"The connector on network {network} did not reach the egress.") from None
        self.ready.add(network)
        return ended

    async def remove(self, network: str) -> None:
        """Forgets it at the egress and removes its container."""
        await self.context.link.drop_door(connector_id(network))
        recorded: Owned | None = self.context.ownership.record.owned.get(self.context.names.connector(network))
        await self.context.ownership.remove(self.context.names.connector(network))
        if recorded is not None:
            self.context.exits.forget(recorded.id)

    def complain(self, network: str, sentence: str) -> None:
        """Reports why backends cannot reach a joined network."""
        logger.warning("%s", sentence)
        self.on_notice(
            NoticeEvent(
                time=time.time(),
                source="runtime",
                code="connector_failed",
                severity=Severity.WARNING,
                message=sentence,
            )
        )

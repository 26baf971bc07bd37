"""Keeps the one egress container of a project running: its network, its start, its restarts.

While it is down nothing gets out of any backend. When it comes back the link pushes the policies and the doors
hand over their sockets again; no other part has to act.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from gateway.runtime.engine.base import ContainerPlan, NetworkInfo
from gateway.runtime.engine.errors import LimitRefused
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Role
from gateway.runtime.plan.plans import egress_network_plan
from gateway.runtime.sandbox.backoff import Backoff
from gateway.runtime.sandbox.errors import EngineError
from observability.events import NoticeEvent, Severity

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 20.0
NOFILE: Final = (65536, 16384, 8192, 4096, 1024)
"""Limits of open files to request, in order; an engine grants no more than it has itself."""
LONGEST_PAUSE_S: Final = 5.0
TELLING_LINES: Final = 8


class EgressKeeper:
    """The egress container and its network."""

    def __init__(
        self,
        context: RuntimeContext,
        on_notice: Callable[[NoticeEvent], None],
        plan: Callable[[int], ContainerPlan],
        clear: Callable[[], None],
    ) -> None:
        """`plan` makes the container's plan for a limit of open files; `clear` removes an earlier one's sockets."""
        self.context = context
        self.on_notice = on_notice
        self.plan = plan
        self.clear = clear
        self.nofile = NOFILE[0]
        """The most open files that this engine grants a container, of those in `NOFILE`."""
        self.container = ""
        self.network: NetworkInfo | None = None
        self.addresses: tuple[str, ...] = ()
        self.restarts = 0
        self.backoff = Backoff()

    async def up(self) -> None:
        """Brings the network and the container up, or finds them running. Raises EngineError."""
        network_plan = egress_network_plan(self.context.names)
        self.network = await self.context.ownership.create_network(
            network_plan, owned(network_plan.name, Role.EGRESS_NETWORK)
        )
        if not await self.adopt():
            await self.make()
        await self.look()

    async def make(self) -> None:
        """Makes and starts it, with as many open files as the engine grants."""
        for self.nofile in NOFILE:
            plan = self.plan(self.nofile)
            about = owned(plan.name, Role.EGRESS, fingerprint=plan.fingerprint())
            self.container = await self.context.ownership.create(plan, about)
            self.clear()
            try:
                await start_watched(self.context.engine, self.context.exits, self.container)
                return
            except LimitRefused:
                if self.nofile == NOFILE[-1]:
                    raise

    async def adopt(self) -> bool:
        """Keeps a running egress that is exactly the planned one."""
        name = self.context.names.egress
        recorded = self.context.ownership.record.owned.get(name)
        found = await self.context.ownership.container(name)
        if recorded is None or found is None or not found.running:
            return False
        granted = [limit for limit in NOFILE if self.plan(limit).fingerprint() == recorded.fingerprint]
        if not granted:
            return False
        self.nofile, self.container = granted[0], found.id
        self.context.exits.of(self.container)
        return True

    async def renew(self) -> None:
        """Recreates it when its plan has changed. Raises EngineError."""
        recorded = self.context.ownership.record.owned.get(self.context.names.egress)
        if self.container and recorded is not None and self.plan(self.nofile).fingerprint() != recorded.fingerprint:
            await self.context.engine.remove(self.container)  # `keep` notices, and makes the one that is planned now

    async def look(self) -> None:
        """Reads its addresses."""
        info = await self.context.engine.inspect(self.container)
        self.addresses = info.addresses if info else ()

    async def wait_connected(self) -> None:
        """Until the link is up. Raises EngineError with what the egress printed."""
        try:
            await self.context.link.wait_connected(CONNECT_TIMEOUT_S)
        except TimeoutError:
            printed = [line.text for line in await self.context.engine.logs(self.container, TELLING_LINES)]
            raise EngineError(
                f"The egress container did not answer within {CONNECT_TIMEOUT_S:g} s. It printed: "
                f"{' / '.join(printed) or 'nothing'}"
            ) from None

    async def keep(self) -> None:
        """Waits until it ends, then restarts it."""
        started = time.monotonic()
        code = await asyncio.shield(self.context.exits.of(self.container))
        self.backoff.crashed(time.monotonic() - started, time.monotonic())
        self.notice("egress_died", f"The egress ended (code {code}); nothing gets out until it is back.")
        if self.backoff.crashes > 1:
            await asyncio.sleep(min(0.25 * 2.0**self.backoff.crashes, LONGEST_PAUSE_S))
        await self.start_again()

    async def start_again(self) -> None:
        """Restarts the container, or makes a new one when it is gone."""
        self.restarts += 1
        try:
            await start_watched(self.context.engine, self.context.exits, self.container)
        except EngineError as error:
            logger.warning("egress: %s", error)
            with contextlib.suppress(EngineError):
                await self.up()
            return
        with contextlib.suppress(EngineError):
            await self.look()

    def notice(self, code: str, message: str) -> None:
        """Reports what happened to the egress."""
        self.on_notice(
            NoticeEvent(time=time.time(), source="runtime", code=code, severity=Severity.ERROR, message=message)
        )

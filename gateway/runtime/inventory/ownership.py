"""Makes and removes containers and networks so that each is in the record before it is on the engine."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Final

from gateway.runtime.engine.base import ContainerInfo, ContainerPlan, Machinery, NetworkInfo, NetworkPlan
from gateway.runtime.engine.errors import NameTaken
from gateway.runtime.inventory.record import Owned, Record, Role
from gateway.runtime.sandbox.errors import EngineError

logger = logging.getLogger(__name__)

MARK_LABEL: Final = "stockade.mark"


@dataclass(frozen=True, slots=True)
class Ownership:
    """What one project has on one engine."""

    engine: Machinery
    record: Record

    async def create(self, plan: ContainerPlan, owned: Owned) -> str:
        """Makes a container; a recorded one of that name goes first. Raises NameTaken for one that is not ours, and
        EngineError for one of ours that the engine does not remove."""
        refusal = await self.tidy(plan.name)
        before = self.record.owned.get(plan.name)
        marked = self.record.intend(owned)
        labelled = replace(plan, labels=(*plan.labels, (MARK_LABEL, marked.mark)))
        try:
            identity = await self.engine.create(labelled)
        except NameTaken:
            if before is not None and refusal is not None:
                self.record.restore(before)
                raise refusal from None
            self.record.forget(plan.name)
            raise taken("container", plan.name, "docker rm -f") from None
        self.record.made(plan.name, identity)
        return identity

    async def create_network(self, plan: NetworkPlan, owned: Owned) -> NetworkInfo:
        """Makes a network, or finds the recorded one. Raises NameTaken for one that is not ours."""
        if found := await self.network(plan.name):
            return found
        self.record.forget(plan.name)
        if await self.engine.network(plan.name):
            raise taken("network", plan.name, "docker network rm")
        marked = self.record.intend(owned)
        labelled = replace(plan, labels=(*plan.labels, (MARK_LABEL, marked.mark)))
        self.record.made(plan.name, await self.engine.create_network(labelled))
        made = await self.network(plan.name)
        assert made is not None
        return made

    async def container(self, name: str) -> ContainerInfo | None:
        """The recorded container of that name as the engine has it; None when there is none or it is not ours."""
        owned = self.record.owned.get(name)
        if owned is None:
            return None
        found = await self.engine.inspect(owned.id or name)
        return found if found and is_ours(owned, found.id, found.labels.get(MARK_LABEL)) else None

    async def network(self, name: str) -> NetworkInfo | None:
        """The recorded network of that name as the engine has it; None when there is none or it is not ours."""
        owned = self.record.owned.get(name)
        if owned is None:
            return None
        found = await self.engine.network(owned.id or name)
        return found if found and is_ours(owned, found.id, found.labels.get(MARK_LABEL)) else None

    async def remove(self, name: str) -> None:
        """Removes what is recorded under that name, if it is there, and forgets it."""
        owned = self.record.owned.get(name)
        if owned is None:
            return
        if owned.role.is_network:
            if network := await self.network(name):
                await self.engine.remove_network(network.id)
        elif container := await self.container(name):
            await self.engine.remove(container.id)
        self.record.forget(name)

    async def tidy(self, *names: str) -> EngineError | None:
        """`remove` as housekeeping: what the engine refuses is logged, stays in the record for the next time, and is
        returned (the first of them)."""
        first: EngineError | None = None
        for name in names:
            try:
                await self.remove(name)
            except EngineError as error:
                logger.warning("%s is not removed for now: %s", name, error)
                first = first or error
        return first

    async def tidy_instance(self, instance: str) -> EngineError | None:
        """`tidy` for everything of one backend instance: the backend, then its door, then its network."""
        order = [Role.BACKEND, Role.CONNECTOR, Role.DOOR, Role.BACKEND_NETWORK]
        mine = [owned for owned in self.record.all(*order) if owned.instance == instance]
        return await self.tidy(*(owned.name for owned in sorted(mine, key=lambda o: order.index(o.role))))

    async def tidy_all(self, *roles: Role) -> EngineError | None:
        """`tidy` for everything of these roles (all when none is given); networks last."""
        order = sorted(self.record.all(*roles), key=lambda o: (o.role.is_network, o.role is Role.EGRESS))
        return await self.tidy(*(owned.name for owned in order))

    async def remove_instance(self, instance: str) -> None:
        """As `tidy_instance`. Raises EngineError in the end if the engine refused something."""
        if refusal := await self.tidy_instance(instance):
            raise refusal

    async def remove_all(self, *roles: Role) -> None:
        """As `tidy_all`. Raises EngineError in the end if the engine refused something."""
        if refusal := await self.tidy_all(*roles):
            raise refusal


def is_ours(owned: Owned, identity: str, mark: str | None) -> bool:
    """By ID; for an intent, by the mark that only we know."""
    return identity == owned.id if owned.id else mark == owned.mark


def taken(kind: str, name: str, command: str) -> NameTaken:
    """A thing that we did not make has our name."""
    return NameTaken(
        f"There is a {kind} {name} already, and this project did not make it (or its record was lost). Look at it; "
        f"if nothing needs it, `{command} {name}` and start again."
    )

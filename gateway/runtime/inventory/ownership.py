"""Makes and removes containers and networks so that each is in the record before it is on the engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gateway.runtime.engine.base import ContainerInfo, ContainerPlan, Machinery, NetworkInfo, NetworkPlan
from gateway.runtime.engine.errors import NameTaken
from gateway.runtime.inventory.record import Owned, Record, Role

MARK_LABEL: Final = "stockade.mark"


@dataclass(frozen=True, slots=True)
class Ownership:
    """What one project has on one engine."""

    engine: Machinery
    record: Record

    async def create(self, plan: ContainerPlan, owned: Owned) -> str:
        """Makes a container; a recorded one of that name goes first. Raises NameTaken for one that is not ours."""
        await self.remove(plan.name)
        marked = self.record.intend(owned)
        labelled = replace(plan, labels=(*plan.labels, (MARK_LABEL, marked.mark)))
        try:
            identity = await self.engine.create(labelled)
        except NameTaken:
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

    async def remove_instance(self, instance: str) -> None:
        """Removes everything of one backend instance: the backend, then its door, then its network."""
        order = [Role.BACKEND, Role.CONNECTOR, Role.DOOR, Role.BACKEND_NETWORK]
        mine = [owned for owned in self.record.all(*order) if owned.instance == instance]
        for owned in sorted(mine, key=lambda o: order.index(o.role)):
            await self.remove(owned.name)

    async def remove_all(self, *roles: Role) -> None:
        """Removes everything of these roles (all when none is given); networks last."""
        for owned in sorted(self.record.all(*roles), key=lambda o: (o.role.is_network, o.role is Role.EGRESS)):
            await self.remove(owned.name)


def is_ours(owned: Owned, identity: str, mark: str | None) -> bool:
    """By ID; for an intent, by the mark that only we know."""
    return identity == owned.id if owned.id else mark == owned.mark


def taken(kind: str, name: str, command: str) -> NameTaken:
    """A thing that we did not make has our name."""
    return NameTaken(
        f"There is a {kind} {name} already, and this project did not make it (or its record was lost). Look at it; "
        f"if nothing needs it, `{command} {name}` and start again."
    )

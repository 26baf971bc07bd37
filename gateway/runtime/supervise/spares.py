"""Spares: started pairs that nobody has used yet, one step ahead of the next client session.

A spare is an ordinary instance of a session's own whose session is still to come. Taking it is final: it leaves the
pool, becomes that session's, and ends with it; it never comes back. A pool begins with the gateway for an eager
`per-client` backend, else when the first session got an instance of its own.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.runtime.inventory.backoff import Backoff
from gateway.runtime.supervise.keeper import Slot
from observability.events import BackendState

logger = logging.getLogger(__name__)

MAX_OWN: Final = 32
"""Instances of one backend that belong to one client session each; spares count."""
HOMES: Final = frozenset({"modern", "legacy"})
"""What the endpoint calls the shared instances for the other era; they are nobody's own."""
_PREFIX: Final = "spare-"


class Pool:
    """The spares of one backend. `keep` is its task."""

    def __init__(
        self,
        backend: str,
        open_slot: Callable[[str], Slot],
        forget: Callable[[Slot], None],
        wanted: Callable[[], int],
    ) -> None:
        """`wanted` is how many there should be now, `forget` is told of those that are gone."""
        self.backend = backend
        self.open = open_slot
        self.forget = forget
        self.wanted = wanted
        self.slots: dict[Slot, float] = {}
        """Each spare, and the monotonic second in which it was begun."""
        self.look = asyncio.Event()
        self.backoff = Backoff()

    async def keep(self) -> None:
        """Keeps as many as are wanted, with pauses while they do not hold, until cancelled."""
        while True:
            self.look.clear()
            pause_s = await self.bury()
            if pause_s is None:
                await self.look.wait()  # they fail again and again: the next session is the next try
                continue
            await asyncio.sleep(pause_s)
            await self.trim()
            while len(self.slots) < self.wanted():
                slot = self.open(f"{self.backend}/{_PREFIX}{secrets.token_hex(4)}")
                self.slots[slot] = time.monotonic()
            await self.look.wait()

    async def bury(self) -> float | None:
        """Takes away those that ended. How long to wait before the next one is made; None: until there is need."""
        pause_s: float | None = 0.0
        for slot in [slot for slot in self.slots if slot.state is BackendState.FAILED]:
            began = self.slots.pop(slot)
            logger.warning("backend %s: a spare ended: %s", self.backend, slot.detail)
            pause_s = self.backoff.crashed(time.monotonic() - began, time.monotonic())
            await self.end(slot)
        return pause_s

    async def trim(self) -> None:
        """Takes away those that are too many."""
        while len(self.slots) > self.wanted():
            slot, _ = self.slots.popitem()
            await self.end(slot)

    async def end(self, slot: Slot) -> None:
        """Stops one."""
        await slot.stop(0)
        self.forget(slot)

    def take(self) -> Slot | None:
        """One for a session, a running one first; it is a spare no more."""
        alive = [slot for slot in self.slots if slot.state is not BackendState.FAILED and not slot.is_over]
        slot = min(alive, key=lambda one: one.state is not BackendState.RUNNING, default=None)
        if slot is not None:
            del self.slots[slot]
            self.look.set()
        return slot


class Spares:
    """The pools of one project, and which session got which spare."""

    def __init__(
        self, open_slot: Callable[[str], Slot], forget: Callable[[Slot], None], wanted: Callable[[str], int]
    ) -> None:
        self.open = open_slot
        self.forget = forget
        self.wanted = wanted
        self.pools: dict[str, Pool] = {}
        self.keepers: dict[str, asyncio.Task[None]] = {}
        self.lent: dict[str, Slot] = {}
        """`NAME/SESSION` -> the spare that became its instance."""

    def begin(self, backend: str, tasks: asyncio.TaskGroup) -> None:
        """There is, or soon will be, a session with an instance of its own."""
        if backend in self.pools:
            self.pools[backend].look.set()
        elif self.wanted(backend):
            pool = Pool(backend, self.open, self.forget, lambda: self.wanted(backend))
            self.pools[backend] = pool
            self.keepers[backend] = tasks.create_task(pool.keep())

    def for_session(self, instance: str) -> Slot | None:
        """The session's instance, if it was or now becomes a spare's."""
        slot = self.lent.get(instance)
        if slot is not None and not slot.done.is_set():
            return slot
        self.lent.pop(instance, None)
        pool = self.pools.get(instance.partition("/")[0])
        slot = pool.take() if pool is not None else None
        if slot is not None:
            self.lent[instance] = slot
        return slot

    def gone(self, slot: Slot) -> None:
        """An instance was taken away."""
        self.lent = {instance: one for instance, one in self.lent.items() if one is not slot}

    def changed(self, slot: Slot) -> None:
        """A slot took a new state."""
        pool = self.pools.get(slot.backend)
        if pool is not None and slot in pool.slots and slot.state is BackendState.FAILED:
            pool.look.set()

    def reconcile(self) -> None:
        """How many are wanted may have changed."""
        for pool in self.pools.values():
            pool.look.set()

    async def stop(self, backends: Iterable[str]) -> None:
        """Ends these pools; their slots are ended with all others of the backend."""
        for backend in backends:
            if (keeper := self.keepers.pop(backend, None)) is not None:
                keeper.cancel()
                await asyncio.wait([keeper])
                del self.pools[backend]

    async def stop_all(self) -> None:
        """Ends all."""
        await self.stop(list(self.keepers))

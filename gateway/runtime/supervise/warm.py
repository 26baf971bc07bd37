"""Warm instances: started, and not used by any session yet, one step ahead of the next client session.

A warm instance is an ordinary instance of one session whose session is still to come. Taking it is final: it leaves
the pool, becomes that session's, and ends with it; it never comes back. A pool begins with the gateway for an eager
`per-client` backend, otherwise when the first session got an instance of its own. The configuration calls them `spares`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

from gateway.runtime.sandbox.backoff import Backoff
from gateway.runtime.supervise.keeper import InstanceKeeper
from observability.events import BackendState

logger = logging.getLogger(__name__)

MAX_OWN: Final = 32
"""Instances of one backend that belong to one client session each; warm ones count."""
HOMES: Final = frozenset({"modern", "legacy", "quiet"})
"""What the endpoint calls the shared instances besides the first one, for the other generation of the protocol and for
clients that cannot be asked; no session owns them."""
_PREFIX: Final = "spare-"


class Pool:
    """The warm instances of one backend. `run` is its task."""

    def __init__(
        self,
        backend: str,
        open_keeper: Callable[[str], InstanceKeeper],
        forget: Callable[[InstanceKeeper], None],
        wanted: Callable[[], int],
    ) -> None:
        """`wanted` is how many there should be now; `forget` is called for each one that is gone."""
        self.backend = backend
        self.open = open_keeper
        self.forget = forget
        self.wanted = wanted
        self.keepers: dict[InstanceKeeper, float] = {}
        """Each warm instance, and the monotonic second in which it was begun."""
        self.look = asyncio.Event()
        self.backoff = Backoff()

    async def run(self) -> None:
        """Keeps as many as are wanted, with pauses while they crash, until cancelled."""
        while True:
            self.look.clear()
            pause_s = await self.bury()
            if pause_s is None:
                await self.look.wait()  # they fail again and again: the next session is the next try
                continue
            await asyncio.sleep(pause_s)
            await self.trim()
            while len(self.keepers) < self.wanted():
                keeper = self.open(f"{self.backend}/{_PREFIX}{secrets.token_hex(4)}")
                self.keepers[keeper] = time.monotonic()
            await self.look.wait()

    async def bury(self) -> float | None:
        """Removes those that ended. Seconds to wait before the next one is made; None: until a session needs one."""
        pause_s: float | None = 0.0
        for keeper in [keeper for keeper in self.keepers if keeper.state is BackendState.FAILED]:
            began = self.keepers.pop(keeper)
            logger.warning("server %s: a warm instance ended: %s", self.backend, keeper.detail)
            pause_s = self.backoff.crashed(time.monotonic() - began, time.monotonic())
            await self.end(keeper)
        return pause_s

    async def trim(self) -> None:
        """Removes those that are too many."""
        while len(self.keepers) > self.wanted():
            keeper, _ = self.keepers.popitem()
            await self.end(keeper)

    async def end(self, keeper: InstanceKeeper) -> None:
        """Stops one."""
        await keeper.stop(0)
        self.forget(keeper)

    def take(self) -> InstanceKeeper | None:
        """One for a session, a running one first; it leaves the pool."""
        alive = [keeper for keeper in self.keepers if keeper.state is not BackendState.FAILED and not keeper.is_over]
        keeper = min(alive, key=lambda one: one.state is not BackendState.RUNNING, default=None)
        if keeper is not None:
            del self.keepers[keeper]
            self.look.set()
        return keeper


class WarmInstances:
    """The pools of one project, and which session took which instance."""

    def __init__(
        self,
        open_keeper: Callable[[str], InstanceKeeper],
        forget: Callable[[InstanceKeeper], None],
        wanted: Callable[[str], int],
    ) -> None:
        self.open = open_keeper
        self.forget = forget
        self.wanted = wanted
        self.pools: dict[str, Pool] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.lent: dict[str, InstanceKeeper] = {}
        """`NAME/SESSION` -> the warm instance that became the session's."""

    def begin(self, backend: str, tasks: asyncio.TaskGroup) -> None:
        """There is, or soon will be, a session with an instance of its own."""
        if backend in self.pools:
            self.pools[backend].look.set()
        elif self.wanted(backend):
            pool = Pool(backend, self.open, self.forget, lambda: self.wanted(backend))
            self.pools[backend] = pool
            self.tasks[backend] = tasks.create_task(pool.run())

    def for_session(self, instance: str) -> InstanceKeeper | None:
        """The session's instance, if it is a warm one that the session took before, or takes now."""
        keeper = self.lent.get(instance)
        if keeper is not None and not keeper.done.is_set():
            return keeper
        self.lent.pop(instance, None)
        pool = self.pools.get(instance.partition("/")[0])
        keeper = pool.take() if pool is not None else None
        if keeper is not None:
            self.lent[instance] = keeper
        return keeper

    def holds(self, keeper: InstanceKeeper) -> bool:
        """Whether no session has taken that instance yet."""
        return keeper.backend in self.pools and keeper in self.pools[keeper.backend].keepers

    def gone(self, keeper: InstanceKeeper) -> None:
        """An instance was removed."""
        self.lent = {instance: one for instance, one in self.lent.items() if one is not keeper}

    def changed(self, keeper: InstanceKeeper) -> None:
        """An instance took a new state."""
        pool = self.pools.get(keeper.backend)
        if pool is not None and keeper in pool.keepers and keeper.state is BackendState.FAILED:
            pool.look.set()

    def reconcile(self) -> None:
        """How many are wanted may have changed."""
        for pool in self.pools.values():
            pool.look.set()

    async def stop(self, backends: Iterable[str]) -> None:
        """Ends these pools; their instances are ended with all others of the backend."""
        for backend in backends:
            if (task := self.tasks.pop(backend, None)) is not None:
                task.cancel()
                await asyncio.wait([task])
                del self.pools[backend]

    async def stop_all(self) -> None:
        """Ends all."""
        await self.stop(list(self.tasks))

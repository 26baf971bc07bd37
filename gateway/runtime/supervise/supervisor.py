"""Brings what runs in line with the configuration, and keeps it so.

Theory of operation. Desired state is the last configuration given to `apply`; actual state is what the sandbox has of
this project. `run` opens the sandbox (its egress, its policies, the isolation probe), adopts what an earlier gateway
left running (if it is exactly what is wanted; the rest is removed), and then keeps one `InstanceKeeper` per instance,
each with a task of its own. A changed policy is one push to the egress and restarts nothing; any other change of a
server replaces that server's instances. Where all servers are remote, the sandbox stays closed until one is to run here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final

from gateway.runtime.sandbox.base import Instance, ManagedInstance, Sandbox
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError, StillBuilding, first_leaf
from gateway.runtime.sandbox.log_ring import LogLine, LogRing
from gateway.runtime.supervise.keeper import BUILD_PATIENCE_S, InstanceKeeper, building_sentence
from gateway.runtime.supervise.source_watch import SourceWatch
from gateway.runtime.supervise.status import BackendStatus, status_of
from gateway.runtime.supervise.warm import HOMES, MAX_OWN, WarmInstances
from observability.events import BackendEvent, BackendState, Event
from registry.config import Config
from registry.model.errors import ConfigError, Problem
from registry.model.fields import Sessions, Start
from registry.model.server import Server

logger = logging.getLogger(__name__)

STOP_GRACE_S: Final = 2.0
NOT_HERE: Final = "It runs in no container here: it is remote, disabled, or not in the file any more."
NOT_OPENED: Final = (
    "What runs servers could not be started when it came into the file. `stockade reload` tries again."
)


class Supervisor:
    """All backends of one project."""

    def __init__(self, sandbox: Sandbox, on_event: Callable[[Event], None]) -> None:
        self.sandbox = sandbox
        self.on_event = on_event
        self.config = Config()
        self.warm = WarmInstances(self.keeper, self.forget, self.warm_wanted)
        self.sources = SourceWatch(self.local_servers, sandbox.source_state, self.restart)
        self.keepers: dict[str, InstanceKeeper] = {}
        """By the instance's id."""
        self.rings: dict[str, LogRing] = {}
        self.keys: dict[str, str] = {}
        """Backend -> hash of what its instances are made from."""
        self.tasks: asyncio.TaskGroup | None = None
        self.opened: asyncio.Task[None] | None = None
        """The sandbox's own work, from its opening to the end."""
        self.opening = 0.0
        """The Unix time at which a late opening began; 0 where there is none."""
        self.born = time.time()
        self.begun = asyncio.Event()
        self.failure: BaseException | None = None
        self.stopping = asyncio.Event()
        self.stopped = asyncio.Event()
        self.remove = True
        self.applying = asyncio.Lock()
        self.replacing: frozenset[str] = frozenset()
        """Backends whose instances are being replaced: what still runs of them answers no new call."""

    # -- from start to stop

    async def run(self) -> None:
        """Until `stop`. Raises EngineError when nothing can be started; then nothing of ours is left running."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self.tasks = tasks
                await self.begin_or_fail(tasks)
                watching = tasks.create_task(self.sources.run())
                await self.stopping.wait()
                watching.cancel()
                async with self.applying:  # what is being opened is closed whole
                    await self.close()
        except* EngineError as group:
            raise first_leaf(group) from None
        finally:
            try:
                if self.remove and not self.is_idle:
                    await self.sandbox.clear()
            finally:
                self.begun.set()
                self.stopped.set()

    async def begin_or_fail(self, tasks: asyncio.TaskGroup) -> None:
        """`begin`; every caller that waits for it gets its failure."""
        try:
            await self.begin(tasks)
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.begun.set()

    async def begin(self, tasks: asyncio.TaskGroup) -> None:
        """The sandbox, what was left running from before, then the backends."""
        self.sandbox.use(self.config)
        if not self.is_idle:
            await self.open(tasks)
        await self.reconcile()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs here, was left from before or is to run: every server is remote or disabled."""
        closed = self.opened is None and self.sandbox.is_empty
        return closed and bool(self.config.servers) and not self.local_servers()

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """The sandbox, with what an earlier gateway left running. Raises EngineError, PolicyRejected."""
        await self.sandbox.open(tasks)
        wanted = self.local_servers()
        self.keys = {name: self.sandbox.key(server) for name, server in wanted.items()}
        for adopted in await self.sandbox.adopt(wanted, self.ring):
            self.keeper(adopted.id, adopted)
        self.opened = tasks.create_task(self.sandbox.run())

    async def open_late(self, tasks: asyncio.TaskGroup) -> None:
        """`open`, for the first server that is to run here. Where it fails, nothing of it is left: it may be tried again."""
        self.opening = time.time()
        try:
            await self.open(tasks)
        except BaseException:
            with contextlib.suppress(EngineError):
                await self.sandbox.close(remove=True)
            raise
        finally:
            self.opening = 0.0

    async def close(self) -> None:
        """Ends what runs, and the sandbox."""
        if self.opened is not None:
            self.opened.cancel()  # first: nothing may be restarted while everything is taken down
            await asyncio.wait([self.opened])
        await self.end()
        if self.opened is not None:
            await self.sandbox.close(remove=self.remove)

    async def end(self) -> None:
        """Stops every instance, or lets go of it."""
        await self.warm.stop_all()
        async with asyncio.TaskGroup() as tasks:
            for keeper in list(self.keepers.values()):
                grace_s = STOP_GRACE_S if self.remove else 0
                tasks.create_task(keeper.stop(grace_s, leave_running=not self.remove))
        self.keepers.clear()

    async def stop(self, *, remove: bool = True) -> None:
        """Ends `run`. With `remove` nothing is left; without, what runs goes on for the next gateway."""
        self.remove = remove
        self.stopping.set()
        await self.stopped.wait()

    async def wait_begun(self) -> None:
        """Waits until the first configuration is being applied. Raises what `begin` raised."""
        await self.begun.wait()
        if self.failure is not None:
            raise self.failure

    # -- configuration

    async def apply(self, config: Config) -> None:
        """Makes this the desired state. Raises PolicyRejected when the egress refuses the policies."""
        self.config = config
        self.sandbox.use(config)
        if self.begun.is_set() and not self.stopping.is_set():
            await self.reconcile()

    async def reconcile(self) -> None:
        """From the actual state to the desired one."""
        async with self.applying:
            if self.is_idle:
                return
            if self.opened is None and self.tasks is not None:
                await self.open_late(self.tasks)
            wanted = {name: self.sandbox.key(server) for name, server in self.local_servers().items()}
            with self.replacement_of(name for name, key in self.keys.items() if wanted.get(name) != key):
                await self.stop_backends(self.replacing)
                self.keys = wanted
                await self.sandbox.update_egress()
                for name, server in self.local_servers().items():
                    if server.start is Start.EAGER:
                        self.start_early(name, server)
                self.warm.reconcile()

    @contextlib.contextmanager
    def replacement_of(self, names: Iterable[str]) -> Iterator[None]:
        """Meanwhile a caller that asks for one of these backends waits for the new instance."""
        self.replacing = frozenset(names)
        try:
            yield
        finally:
            self.replacing = frozenset()

    def start_early(self, backend: str, server: Server) -> None:
        """What runs before any call: the shared instance, or a warm one for the first session."""
        if server.sessions is not Sessions.PER_CLIENT:
            self.keeper(backend)
        elif self.tasks is not None:
            self.warm.begin(backend, self.tasks)

    def local_servers(self) -> dict[str, Server]:
        """The servers that run here."""
        return {name: s for name, s in self.config.servers.items() if not s.remote and not s.disabled}

    # -- instances and their keepers

    def keeper(self, id: str, adopted: ManagedInstance | None = None) -> InstanceKeeper:
        """The keeper of an instance, started if there is none."""
        existing = self.keepers.get(id)
        if existing is not None and not existing.done.is_set():
            return existing
        backend, _, session = id.partition("/")
        keeper = InstanceKeeper(
            backend,
            id,
            self.prepare,
            self.state_changed,
            start_timeout_s=self.start_timeout_s(backend),
            adopted=adopted,
            once=bool(session),
            explain=lambda error: self.explained(backend, error),
        )
        self.keepers[id] = keeper
        assert self.tasks is not None
        self.tasks.create_task(keeper.run())
        return keeper

    def start_timeout_s(self, backend: str) -> float:
        """How long an incarnation of a backend may take to start."""
        server = self.config.servers.get(backend)
        return (server.start_timeout_s if server else None) or self.config.gateway.start_timeout_s

    async def prepare(self, id: str) -> ManagedInstance:
        """An instance with its image at hand, not started. Raises BuildError, PlanError, ConfigError, EngineError."""
        backend = id.partition("/")[0]
        return await self.sandbox.prepare(id, self.config.servers[backend], self.ring(backend))

    def explained(self, backend: str, error: Exception) -> Exception:
        """What ended a start; problems of the configuration with their file and line."""
        problems = error.problems if isinstance(error, ConfigError) else ()
        return ConfigError(self.located(backend, one) for one in problems) if problems else error

    def located(self, backend: str, problem: Problem) -> Problem:
        """A problem of one of a server's variables or secret files, with its file and line."""
        server = self.config.servers.get(backend)
        keys = {"env": server.env, "secret_files": server.secret_files} if server is not None else {}
        key = next((key for key, values in keys.items() if problem.key_path in values), None)
        if problem.file or key is None:
            return problem
        return self.config.problem(("mcpServers", backend, key, problem.key_path), problem.message, problem.hint)

    async def stop_backends(self, names: Iterable[str]) -> None:
        """Stops every instance of these backends."""
        gone = set(names)
        await self.warm.stop(gone)
        keepers = [keeper for keeper in self.keepers.values() if keeper.backend in gone]
        async with asyncio.TaskGroup() as tasks:
            for keeper in keepers:
                tasks.create_task(keeper.stop(STOP_GRACE_S))
        for keeper in keepers:
            self.forget(keeper)

    def forget(self, keeper: InstanceKeeper) -> None:
        """An instance that is stopped."""
        if self.keepers.get(keeper.id) is keeper:
            del self.keepers[keeper.id]
        self.warm.gone(keeper)

    def warm_wanted(self, backend: str) -> int:
        """How many warm instances a backend may have now: its `spares`, as far as the cap allows."""
        server = self.local_servers().get(backend)
        if server is None or server.sessions is Sessions.SHARED or self.stopping.is_set():
            return 0
        keepers = [keeper for keeper in self.keepers.values() if keeper.backend == backend]
        taken = [keeper for keeper in keepers if serves_session(keeper) and not self.warm.holds(keeper)]
        return max(0, min(server.spares, MAX_OWN - len(taken)))

    # -- what the endpoint and the CLI ask

    async def instance(self, backend: str, session: str = "") -> Instance:
        """The running backend, started if need be. Raises BackendUnavailable."""
        await self.begun_for(backend)
        instance = f"{backend}/{session}" if session else backend
        await self.wait_gone(backend, instance)
        if backend not in self.local_servers():
            raise BackendUnavailable(backend, NOT_HERE)
        if self.opened is None:
            raise BackendUnavailable(backend, NOT_OPENED)
        if self.stopping.is_set():
            raise BackendUnavailable(backend, "The gateway is stopping.")
        if not session or session in HOMES:
            return await self.keeper(instance).ready()
        return await self.session_instance(backend, instance)

    async def begun_for(self, backend: str) -> None:
        """Waits until backends can be started, not longer than for a build: before them, our own images are built.

        Raises BackendUnavailable.
        """
        try:
            async with asyncio.timeout(BUILD_PATIENCE_S):
                await self.wait_begun()
                if self.opened is None:
                    async with self.applying:  # the file's change may be opening the sandbox
                        pass
        except TimeoutError:
            raise StillBuilding(backend, building_sentence(self.born)) from None
        except Exception as error:
            raise BackendUnavailable(backend, str(error)) from error

    def building(self, backend: str) -> float:
        """The Unix time since which nothing of a backend runs because an image is being built; 0 where none is."""
        if backend not in self.local_servers() or self.failure is not None:
            return 0.0
        if not self.begun.is_set():
            return self.born
        if self.opening:
            return self.opening
        keepers = [keeper for keeper in self.keepers.values() if keeper.backend == backend]
        if any(keeper.state is BackendState.RUNNING for keeper in keepers):
            return 0.0
        return min((keeper.since for keeper in keepers if keeper.state is BackendState.BUILDING), default=0.0)

    async def built(self, backend: str) -> None:
        """Waits while images are being built for a backend."""
        with contextlib.suppress(Exception):  # a start's failure is told to each caller that wants the instance
            await self.wait_begun()
        if self.opening:
            async with self.applying:
                pass
        for keeper in [keeper for keeper in self.keepers.values() if keeper.backend == backend]:
            await keeper.built()

    async def wait_gone(self, backend: str, instance: str) -> None:
        """Waits while an instance ends for good or its backend is being replaced; the next one answers the call.

        A change of the configuration ends instances before it pushes their new policy, so both wait for the change too.
        Raises BackendUnavailable after the start timeout.
        """
        if backend not in self.replacing and self.leaving(instance) is None:
            return
        timeout_s = self.start_timeout_s(backend)
        last = None
        try:
            async with asyncio.timeout(timeout_s):
                while (leaving := self.leaving(instance)) is not None or backend in self.replacing:
                    if leaving is not None:
                        last = leaving
                        await leaving.done.wait()
                    async with self.applying:
                        pass
        except TimeoutError:
            late = f"It was not replaced within {timeout_s:g} s."
            raise BackendUnavailable(backend, late if last is None else last.late_sentence()) from None

    def leaving(self, instance: str) -> InstanceKeeper | None:
        """The keeper of that instance, if it is ending for good."""
        keeper = self.warm.lent.get(instance) or self.keepers.get(instance)
        return keeper if keeper is not None and keeper.is_leaving else None

    async def session_instance(self, backend: str, instance: str) -> Instance:
        """A session's own instance: the one it has, else a warm one, else a new one. Then one is warmed for the next."""
        mine = self.keepers.get(instance)
        begun = mine is not None and not mine.done.is_set()
        keeper = None if begun else self.warm.for_session(instance)
        found = await (keeper or self.keeper(instance)).ready()
        if self.tasks is not None and not self.stopping.is_set():
            self.warm.begin(backend, self.tasks)
        return found

    async def release(self, instance_id: str) -> None:
        """Ends an instance that belongs to one session; a shared one goes on."""
        keeper = self.keepers.get(instance_id)
        if keeper is not None and keeper.once:
            await keeper.stop(STOP_GRACE_S)
            self.forget(keeper)
            self.warm.reconcile()

    async def renew(self, instance_id: str) -> None:
        """Ends what runs there, as if it had crashed: the endpoint cannot use it any more."""
        keeper = self.keepers.get(instance_id)
        if keeper is not None and keeper.once:
            await self.release(instance_id)
        elif keeper is not None and keeper.instance is not None and keeper.state is BackendState.RUNNING:
            with contextlib.suppress(EngineError):
                await keeper.instance.end(STOP_GRACE_S)

    async def restart(self, backend: str) -> None:
        """Replaces every instance of a backend."""
        async with self.applying:
            server = self.local_servers().get(backend)
            with self.replacement_of([backend]):
                await self.stop_backends([backend])
                if server is None:
                    raise BackendUnavailable(backend, NOT_HERE)
                if self.opened is None:
                    raise BackendUnavailable(backend, NOT_OPENED)
                self.sandbox.try_again(server)
                self.start_early(backend, server)

    def status(self) -> list[BackendStatus]:
        """Every server of the configuration, in its order."""
        instances = [keeper.instance for keeper in self.keepers.values() if keeper.instance is not None]
        found, shares = [], self.sandbox.shared_users(instances)
        for name, server in self.config.servers.items():
            keepers = [keeper for keeper in self.keepers.values() if keeper.backend == name]
            sees_direct = self.sandbox.sees_direct
            found.append(status_of(name, server, keepers, sees_direct=sees_direct, shares=shares.get(name, ())))
        return found

    async def logs(self, backend: str, *, tail: int = 200, follow: bool = False) -> AsyncIterator[LogLine]:
        """The last lines of a backend, then each new one with `follow`."""
        ring = self.ring(backend)
        if not follow:
            for line in ring.tail(tail):
                yield line
            return
        async for line in ring.follow(tail):
            yield line

    def ring(self, backend: str) -> LogRing:
        """A backend's lines."""
        return self.rings.setdefault(backend, LogRing())

    def state_changed(self, keeper: InstanceKeeper) -> None:
        """An instance took a new state. While the backend's shared one runs, those of sessions are not reported."""
        self.warm.changed(keeper)
        main = self.keepers.get(keeper.backend)
        if keeper.once and main is not None and main.state is BackendState.RUNNING:
            return
        self.on_event(
            BackendEvent(time=keeper.since, backend=keeper.backend, state=keeper.state, detail=keeper.detail)
        )


def serves_session(keeper: InstanceKeeper) -> bool:
    """Whether the instance is, or can become, the own one of one session."""
    return keeper.once and keeper.id.partition("/")[2] not in HOMES

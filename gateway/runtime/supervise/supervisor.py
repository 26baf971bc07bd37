"""Makes what runs on the engine what the configuration says, and keeps it so.

Theory of operation. Desired state is the last configuration given to `apply`; actual state is what the engine
has of the things in our record. `run` brings up the egress, takes over what an earlier gateway left (if it is
exactly what is wanted; the rest goes), and then keeps one `Slot` per instance, each with a task of its own. The
engine's events reach slots as "that container ended" (`Exits`). A changed policy is one push to the egress and
touches no container; any other change of a server makes that server's containers anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from egress.door.notes import NoteKind
from egress.net.interfaces import interface_addresses
from gateway.runtime.engine.base import BackendStatus, Engine, EngineInfo, Instance, LogLine
from gateway.runtime.engine.errors import BackendUnavailable, EngineError, PlanError
from gateway.runtime.images.images import Images
from gateway.runtime.inventory.context import Exits, Link, Tools
from gateway.runtime.inventory.exit_watch import ExitWatch
from gateway.runtime.inventory.host import AddressChanges
from gateway.runtime.inventory.logring import LogRing
from gateway.runtime.inventory.ownership import Ownership
from gateway.runtime.inventory.record import Record, Role
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.inventory.users import EGRESS, Users, chosen_users
from gateway.runtime.plan.plans import Names, egress_plan
from gateway.runtime.supervise.instance import Pair
from gateway.runtime.supervise.keeper import Slot
from gateway.runtime.supervise.planner import Planner, Secrets
from gateway.runtime.supervise.spares import HOMES, MAX_OWN, Spares
from gateway.runtime.supervise.status import shared_users, status_of
from gateway.runtime.wall.connectors import Connectors
from gateway.runtime.wall.door import door_ticket
from gateway.runtime.wall.egress_keeper import EgressKeeper
from gateway.runtime.wall.probe import (
    PROBE_BACKEND,
    Attempt,
    Probe,
    cache_key,
    listening,
    note_passed,
    passed_before,
    verdict,
)
from gateway.runtime.wall.surroundings import proxy_url, surroundings
from observability.events import BackendEvent, BackendState, EgressEvent, Event, NoticeEvent, Severity
from registry.config import Config
from registry.model.errors import ConfigError, Problem
from registry.model.fields import Sessions, Start
from registry.model.server import Server

logger = logging.getLogger(__name__)

REFRESH_S: Final = 30.0
STOP_GRACE_S: Final = 2.0


class EgressLinkLike(Link, Protocol):
    """What the supervisor needs of the link to the egress (`egress_link.EgressLink`)."""

    on_event: Callable[[EgressEvent | NoticeEvent], None]
    on_door: Callable[[str, str, str], None] | None

    async def run(self) -> None: ...
    async def wait_connected(self, timeout_s: float) -> None: ...
    async def push_policies(
        self, backends: Mapping[str, Mapping[str, object]], surroundings: Mapping[str, object]
    ) -> int: ...


class Supervisor:
    """All backends of one project."""

    def __init__(
        self,
        engine: Engine,
        link: EgressLinkLike,
        *,
        project: str,
        run_directory: RunDirectory,
        images: Images,
        secrets: Secrets,
        on_event: Callable[[Event], None],
        gateway_ports: Callable[[], Iterable[int]] = tuple,
        probe: bool = True,
    ) -> None:
        """`gateway_ports` are the ports that the gateway really listens on. `probe=False` is for tests."""
        self.engine = engine
        self.link = link
        self.project = project
        self.run_directory = run_directory
        self.images = images
        self.on_event = on_event
        self.gateway_ports = gateway_ports
        self.probe = probe
        self.config = Config()
        self.names = Names(project=project)
        self.exits = Exits()
        self.exit_watch = ExitWatch(engine, project, self.exits, self.engine_away)
        self.egress_image = ""
        self.ownership = Ownership(engine, Record.load(run_directory.record_file))
        self.users = Users(engine, self.ownership.record, project, lambda: chosen_users(self.config))
        self.tools = Tools(
            engine=engine,
            link=link,
            ownership=self.ownership,
            users=self.users,
            names=self.names,
            exits=self.exits,
            doors_image=lambda: self.egress_image,
            doors_directory=run_directory.doors,
            nofile=lambda: self.egress.nofile,
        )
        self.egress = EgressKeeper(
            self.tools,
            link,
            on_event,
            lambda nofile: egress_plan(
                self.names,
                self.egress_image,
                run_directory.control,
                run_directory.doors,
                nofile,
                self.users.given(EGRESS),
                self.config.egress.resolvers,
            ),
            run_directory.clear_meeting_places,
        )
        self.planner = Planner(self.tools, images, secrets, run_directory.ca_bundle)
        self.connectors = Connectors(self.tools, on_event)
        self.spares = Spares(self.slot, self.forget, self.spares_wanted)
        self.info: EngineInfo | None = None
        self.slots: dict[str, Slot] = {}
        self.rings: dict[str, LogRing] = {}
        self.keys: dict[str, str] = {}
        """Backend -> hash of what its containers are made from."""
        self.refusal = ""
        """Why isolated backends are not started: the probe got out."""
        self.last_probe: tuple[Attempt, Attempt] | None = None
        """Control, behind a door."""
        self.no_route = False
        """The engine refuses the door its route."""
        self.extra_policies: dict[str, Mapping[str, object]] = {}
        self.pushed: tuple[Any, Any] | None = None
        if link.on_door is None:
            link.on_door = self.door_state
        link.on_event = without_probe(link.on_event)
        self.tasks: asyncio.TaskGroup | None = None
        self.begun = asyncio.Event()
        self.failure: BaseException | None = None
        self.stopping = asyncio.Event()
        self.stopped = asyncio.Event()
        self.remove = True
        self.applying = asyncio.Lock()
        self.moving: frozenset[str] = frozenset()
        """Backends that are being made anew: what still runs of them is nobody's any more."""

    # -- life

    async def run(self) -> None:
        """Until `stop`. Raises EngineError when the engine cannot be used; then nothing of ours is left running."""
        self.run_directory.create()
        await self.announce_doors()
        try:
            async with asyncio.TaskGroup() as tasks:
                self.tasks = tasks
                ears = [tasks.create_task(work) for work in (self.exit_watch.run(), self.link.run())]
                await self.begin_or_tell()
                keepers = [tasks.create_task(work) for work in (self.keep_egress(), self.refresh())]
                await self.stopping.wait()
                await cancelled(keepers)  # first: nothing may be started again while all is taken down
                await self.end()
                await cancelled(ears)
        except* EngineError as group:
            raise first_leaf(group) from None
        finally:
            try:
                await self.remove_rest()
            finally:
                self.begun.set()
                self.stopped.set()

    async def remove_rest(self) -> None:
        """After a run that was cancelled or failed: nothing of ours stays, unless it was to stay."""
        if self.remove:
            with contextlib.suppress(EngineError):
                await self.ownership.remove_all()

    async def announce_doors(self) -> None:
        """Doors that an earlier gateway left: announced before the link is up, so that a running egress keeps them."""
        for owned in self.ownership.record.all(Role.DOOR):
            if owned.id:
                await self.link.expect_door(door_ticket(owned))

    async def begin_or_tell(self) -> None:
        """`begin`, whose failure everybody who waits for it hears."""
        try:
            await self.begin()
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self.begun.set()

    async def begin(self) -> None:
        """The egress, what was left from before, the probe, the backends."""
        self.info = await self.engine.info()
        if self.ownership.record.use_engine(self.info.id):
            self.notice("engine_changed", "This is another engine than last time; what runs on that one stays there.")
        await self.users.use_engine(self.info)
        self.egress_image = await self.images.egress()
        await self.users.of(EGRESS)
        await self.egress.up()
        await self.egress.wait_connected()
        await self.push()
        if self.probe:
            self.refusal = await self.try_isolation()
        await self.adopt_all()
        await self.reconcile()

    async def try_isolation(self, *, force: bool = False) -> str:
        """Why isolated backends must not be started; empty when the wall holds. A pass counts for this boot."""
        assert self.info is not None
        key, path = cache_key(self.info, self.egress_image), self.run_directory.probe_file
        if not force and passed_before(path, key):
            return ""
        probe = Probe(self.tools, self.egress_image)
        self.extra_policies[PROBE_BACKEND] = {}
        await self.push()
        async with listening() as ears:
            behind_door = await probe.behind_door(ears)
        async with listening() as ears:
            control = await probe.on_network(ears)
        del self.extra_policies[PROBE_BACKEND]
        await self.push()
        self.last_probe = (control, behind_door)
        problem = verdict(control, behind_door)
        if problem:
            self.notice("probe_failed", problem, Severity.ERROR)
        else:
            note_passed(path, key)
        return problem

    async def end(self) -> None:
        """Takes everything down, or lets go of it."""
        await self.spares.stop_all()
        async with asyncio.TaskGroup() as tasks:
            for slot in list(self.slots.values()):
                tasks.create_task(slot.stop(STOP_GRACE_S if self.remove else 0, keep=not self.remove))
        self.slots.clear()
        await self.connectors.stop_all()
        if self.remove:
            await self.ownership.remove_all()

    async def stop(self, *, remove: bool = True) -> None:
        """Ends `run`. With `remove` nothing is left; without, containers go on for the next gateway."""
        self.remove = remove
        self.stopping.set()
        await self.stopped.wait()

    async def wait_begun(self) -> None:
        """Until the first configuration is being carried out. Raises what `begin` raised."""
        await self.begun.wait()
        if self.failure is not None:
            raise self.failure

    # -- configuration

    async def apply(self, config: Config) -> None:
        """Makes this the desired state. Raises PolicyRejected when the egress refuses the policies."""
        self.config = config
        if self.begun.is_set() and not self.stopping.is_set():
            await self.reconcile()

    async def reconcile(self) -> None:
        """From the actual state to the desired one."""
        async with self.applying:
            wanted = {
                name: self.planner.key(server, self.config.extra_ca) for name, server in self.local_servers().items()
            }
            with self.making_anew(name for name, key in self.keys.items() if wanted.get(name) != key):
                await self.egress.renew()
                await self.stop_backends(self.moving)
                self.keys = wanted
                await self.push()
                assert self.tasks is not None
                await self.connectors.reconcile(self.joined_networks(), self.tasks)
                for name, server in self.local_servers().items():
                    if server.start is Start.EAGER:
                        self.set_going(name, server)
                self.spares.reconcile()

    @contextlib.contextmanager
    def making_anew(self, names: Iterable[str]) -> Iterator[None]:
        """Meanwhile who asks for one of these waits for the new one."""
        self.moving = frozenset(names)
        try:
            yield
        finally:
            self.moving = frozenset()

    def set_going(self, backend: str, server: Server) -> None:
        """What runs before anybody calls: the shared instance, or a spare for the first session."""
        if server.sessions is not Sessions.PER_CLIENT:
            self.slot(backend)
        elif self.tasks is not None:
            self.spares.begin(backend, self.tasks)

    def local_servers(self) -> dict[str, Server]:
        """The servers that run here."""
        return {name: s for name, s in self.config.servers.items() if not s.remote and not s.disabled}

    def joined_networks(self) -> set[str]:
        """The networks that isolated backends reach through a connector."""
        servers = self.local_servers().values()
        return {network for server in servers if server.isolated for network in server.network.join}

    async def push(self) -> None:
        """The policies and surroundings to the egress, if they differ from the last ones."""
        networks = await self.engine.networks()
        network = self.egress.network
        policies: dict[str, Mapping[str, object]] = {
            name: server.network.block for name, server in self.local_servers().items() if server.isolated
        }
        found = surroundings(
            self.config,
            host_addresses=await asyncio.to_thread(interface_addresses),
            self_addresses=self.egress.addresses,
            host_gateway=network.gateway if network else "",
            engine_networks=[subnet for net in networks for subnet in net.subnets],
            gateway_ports=self.gateway_ports(),
            own_ports={name: server.port for name, server in self.local_servers().items() if server.port},
            upstream_proxy=await asyncio.to_thread(
                proxy_url, self.config.egress.upstream_proxy, self.planner.secrets.resolve
            ),
        )
        wanted = ({**policies, **self.extra_policies}, found)
        if wanted != self.pushed:
            await self.link.push_policies(*wanted)
            self.pushed = wanted

    # -- backends

    def slot(self, instance: str, adopted: Pair | None = None) -> Slot:
        """The keeper of an instance, started if there is none."""
        existing = self.slots.get(instance)
        if existing is not None and not existing.done.is_set():
            return existing
        backend, _, session = instance.partition("/")
        server = self.config.servers[backend]
        slot = Slot(
            backend,
            instance,
            self.make,
            self.state_changed,
            start_timeout_s=server.start_timeout_s or self.config.gateway.start_timeout_s,
            adopted=adopted,
            once=bool(session),
        )
        self.slots[instance] = slot
        assert self.tasks is not None
        self.tasks.create_task(slot.run())
        return slot

    async def make(self, instance: str) -> Pair:
        """A pair with its image at hand, not started. Raises BuildError, PlanError, ConfigError, EngineError."""
        backend = instance.partition("/")[0]
        server = self.config.servers[backend]
        if self.refusal and server.isolated:
            raise PlanError(self.refusal)
        try:
            wanted = await self.planner.wanted(instance, server, self.config.extra_ca)
        except ConfigError as error:
            raise ConfigError(self.placed(backend, one) for one in error.problems) from None
        return Pair(wanted, backend, self.tools, self.ring(backend))

    def placed(self, backend: str, problem: Problem) -> Problem:
        """A problem of one of a server's variables, with its file and line."""
        if problem.file or problem.key_path not in self.config.servers[backend].env:
            return problem
        where = ("mcpServers", backend, "env", problem.key_path)
        return self.config.problem(where, problem.message, problem.hint)

    async def stop_backends(self, names: Iterable[str]) -> None:
        """Stops every instance of these backends."""
        gone = set(names)
        await self.spares.stop(gone)
        slots = [slot for slot in self.slots.values() if slot.backend in gone]
        async with asyncio.TaskGroup() as tasks:
            for slot in slots:
                tasks.create_task(slot.stop(STOP_GRACE_S))
        for slot in slots:
            self.forget(slot)

    def forget(self, slot: Slot) -> None:
        """An instance that is stopped."""
        if self.slots.get(slot.instance) is slot:
            del self.slots[slot.instance]
        self.spares.gone(slot)

    def spares_wanted(self, backend: str) -> int:
        """How many spares a backend may have now: what it asks for, as far as the cap allows."""
        server = self.local_servers().get(backend)
        if server is None or server.sessions is Sessions.SHARED or self.stopping.is_set():
            return 0
        spare = self.spares.pools[backend].slots if backend in self.spares.pools else {}
        taken = [
            slot for slot in self.slots.values() if slot.backend == backend and is_own(slot) and slot not in spare
        ]
        return max(0, min(server.spares, MAX_OWN - len(taken)))

    async def adopt_all(self) -> None:
        """Takes over running backends that are exactly what is wanted; removes every other thing of ours."""
        record = self.ownership.record
        left = {owned.instance for owned in record.all(Role.BACKEND, Role.DOOR, Role.BACKEND_NETWORK, Role.CONNECTOR)}
        wanted = self.local_servers()
        self.keys = {name: self.planner.key(server, self.config.extra_ca) for name, server in wanted.items()}
        for instance in sorted(left):
            pair = await self.adopt(instance) if instance in wanted else None
            if pair is None:
                await self.link.drop_door(instance)
                await self.ownership.remove_instance(instance)
            else:
                self.slot(instance, adopted=pair)
        await self.ownership.remove_all(Role.PROBE, Role.PROBE_NETWORK, Role.OWNER)
        self.users.purge()

    async def adopt(self, instance: str) -> Pair | None:
        """One backend, taken over; None when it is not what is wanted."""
        try:
            pair = await self.make(instance)
            if await pair.adopt():
                return pair
        except (EngineError, BackendUnavailable, PlanError, ValueError, OSError) as error:
            logger.info("backend %s is not taken over: %s", instance, error)
        return None

    # -- what the endpoint and the CLI ask

    async def instance(self, backend: str, session: str = "") -> Instance:
        """The running backend, started if need be. Raises BackendUnavailable."""
        try:
            await self.wait_begun()
        except Exception as error:
            raise BackendUnavailable(backend, str(error)) from error
        if backend in self.moving:
            async with self.applying:
                pass
        instance = f"{backend}/{session}" if session else backend
        await self.left(self.spares.lent.get(instance) or self.slots.get(instance))
        if backend not in self.local_servers():
            raise BackendUnavailable(backend, f"There is no backend {backend} that runs here.")
        if self.stopping.is_set():
            raise BackendUnavailable(backend, "The gateway is stopping.")
        if not session or session in HOMES:
            return await self.slot(instance).ready()
        return await self.own(backend, instance)

    async def left(self, slot: Slot | None) -> None:
        """Waits until an instance that is ending for good is gone: another takes its place. Raises BackendUnavailable."""
        if slot is None or not slot.is_leaving:
            return
        try:
            async with asyncio.timeout(slot.start_timeout_s):
                await slot.done.wait()
                async with self.applying:  # what ended it for a change of the configuration pushes the policy first
                    return
        except TimeoutError:
            raise BackendUnavailable(slot.backend, slot.late_sentence()) from None

    async def own(self, backend: str, instance: str) -> Instance:
        """A session's own backend: the one it has, else a spare, else a new one; and a spare for the next session."""
        mine = self.slots.get(instance)
        begun = mine is not None and not mine.done.is_set()
        slot = None if begun else self.spares.for_session(instance)
        found = await (slot or self.slot(instance)).ready()
        if self.tasks is not None and not self.stopping.is_set():
            self.spares.begin(backend, self.tasks)
        return found

    async def release(self, instance_id: str) -> None:
        """Ends a session's own instance; a shared one goes on."""
        slot = self.slots.get(instance_id)
        if slot is not None and slot.once:
            await slot.stop(STOP_GRACE_S)
            self.forget(slot)
            self.spares.reconcile()

    async def renew(self, instance_id: str) -> None:
        """Ends what runs there, as if it had crashed: the endpoint can do nothing with it any more."""
        slot = self.slots.get(instance_id)
        if slot is not None and slot.once:
            await self.release(instance_id)
        elif slot is not None and slot.pair is not None and slot.state is BackendState.RUNNING:
            with contextlib.suppress(EngineError):
                await self.engine.stop(slot.pair.container, STOP_GRACE_S)

    async def restart(self, backend: str) -> None:
        """Makes a backend's containers anew."""
        async with self.applying:
            server = self.local_servers().get(backend)
            with self.making_anew([backend]):
                await self.stop_backends([backend])
                if server is None:
                    raise BackendUnavailable(backend, f"There is no backend {backend} that runs here.")
                self.set_going(backend, server)

    def status(self) -> list[BackendStatus]:
        """Every server of the configuration, in its order."""
        found, shares = [], shared_users(self.users, self.slots.values())
        for name, server in self.config.servers.items():
            slots = [slot for slot in self.slots.values() if slot.backend == name]
            found.append(status_of(name, server, slots, no_route=self.no_route, shares=shares.get(name, ())))
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

    def door_state(self, door: str, state: str, detail: str) -> None:
        """What the egress says of a door (`EgressLink.on_door`)."""
        if state == NoteKind.NO_ROUTE:
            self.no_route = True

    # -- background

    def state_changed(self, slot: Slot) -> None:
        """A slot took a new state. A session's own says nothing of its backend while that one runs."""
        self.spares.changed(slot)
        main = self.slots.get(slot.backend)
        if slot.once and main is not None and main.state is BackendState.RUNNING:
            return
        self.on_event(BackendEvent(time=slot.since, backend=slot.backend, state=slot.state, detail=slot.detail))

    def notice(self, code: str, message: str, severity: Severity = Severity.WARNING) -> None:
        """Tells of something about the runtime itself."""
        self.on_event(NoticeEvent(time=time.time(), source="runtime", code=code, severity=severity, message=message))

    def engine_away(self, why: str) -> None:
        """The engine cannot be listened to for now (`ExitWatch`)."""
        self.notice("engine_away", why, Severity.ERROR)

    async def keep_egress(self) -> None:
        """Starts the egress again when it ends."""
        try:
            while True:
                await self.egress.keep()
                with contextlib.suppress(Exception):  # the next refresh tries again
                    await self.push()
        except Exception:
            logger.exception("the egress's keeper failed")
            raise

    async def refresh(self) -> None:
        """The host's addresses change: looks again when the kernel says so, and from time to time."""
        with contextlib.closing(AddressChanges()) as changes:
            while True:
                await changes.wait(REFRESH_S)
                try:
                    await self.push()
                except (EngineError, OSError, ValueError) as error:
                    logger.warning("the surroundings could not be refreshed: %s", error)


def is_own(slot: Slot) -> bool:
    """Whether the instance is, or can become, one session's own."""
    return slot.once and slot.instance.partition("/")[2] not in HOMES


def without_probe(
    inner: Callable[[EgressEvent | NoticeEvent], None],
) -> Callable[[EgressEvent | NoticeEvent], None]:
    """Hands events on, but for those of the probe's own attempts: nobody's backend made them."""

    def hand_on(event: EgressEvent | NoticeEvent) -> None:
        if event.backend != PROBE_BACKEND:
            inner(event)

    return hand_on


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels tasks and waits until they ended."""
    for task in tasks:
        task.cancel()
        await asyncio.wait([task])


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception that is not a group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

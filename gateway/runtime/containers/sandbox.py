"""The `Sandbox` of an engine of Docker's kind: doors, one egress, connectors, images, and a record of what is ours.

Every part is put together here once and shares one `RuntimeContext`. The engine's events reach whatever waits for a
container's end as futures (`Exits`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from egress.doors.states import DoorState
from gateway.runtime.containers.backend_instance import BackendInstance
from gateway.runtime.containers.build_wall import BuildWalls
from gateway.runtime.containers.connectors import Connectors
from gateway.runtime.containers.door import door_ticket
from gateway.runtime.containers.egress_keeper import EgressKeeper
from gateway.runtime.containers.isolation import Isolation
from gateway.runtime.containers.planner import Planner, source_state
from gateway.runtime.containers.policies import Policies, joined_networks
from gateway.runtime.containers.probe import PROBE_BACKEND
from gateway.runtime.engine.base import ContainerPlan, Engine, EngineInfo
from gateway.runtime.images.images import Images
from gateway.runtime.inventory.context import Exits, Link, RuntimeContext
from gateway.runtime.inventory.exit_watch import ExitWatch
from gateway.runtime.inventory.host import AddressChanges
from gateway.runtime.inventory.ownership import Ownership
from gateway.runtime.inventory.record import Record, Role
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.inventory.users import EGRESS, Users, chosen_users
from gateway.runtime.plan.plans import Names, egress_plan
from gateway.runtime.sandbox.base import ManagedInstance
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError, PlanError
from gateway.runtime.sandbox.log_ring import LogRing
from gateway.runtime.sandbox.secrets import Secrets
from observability.events import EgressEvent, Event, NoticeEvent, Severity
from registry.config import Config
from registry.model.server import Server

logger = logging.getLogger(__name__)

REFRESH_S: Final = 30.0


class ContainerSandbox:
    """The containers, networks and images of one project on one engine."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
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
        self.images = images
        self.on_event = on_event
        self.probe = probe
        self.config = Config()
        self.info: EngineInfo | None = None
        self.refusal = ""
        self.sees_direct = True
        self.egress_image = ""
        self.tasks: asyncio.TaskGroup | None = None
        self.listening: list[asyncio.Task[None]] = []
        self.ownership = Ownership(engine, Record.load(run_directory.record_file))
        self.users = Users(engine, self.ownership.record, project, lambda: chosen_users(self.config))
        self.context = RuntimeContext(
            engine=engine,
            link=link,
            ownership=self.ownership,
            users=self.users,
            names=Names(project=project),
            exits=Exits(),
            doors_image=lambda: self.egress_image,
            run_directory=run_directory,
            nofile=lambda: self.egress.nofile,
        )
        self.exit_watch = ExitWatch(engine, project, self.context.exits, self.engine_away)
        self.egress = EgressKeeper(self.context, on_event, self.egress_plan, run_directory.clear_meeting_places)
        self.policies = Policies(self.context, self.egress, secrets, gateway_ports)
        self.isolation = Isolation(self.context, self.policies, self.push)
        self.walls = BuildWalls(
            self.context, self.policies, self.push, lambda: self.config.egress.upstream_proxy is not None
        )
        self.planner = Planner(self.context, images, self.walls, secrets, run_directory.ca_bundle)
        self.connectors = Connectors(self.context, on_event)
        if link.on_door is None:
            link.on_door = self.door_reported
        link.on_event = without_probe(noted(link.on_event, self.walls.note))

    # -- from open to close

    def use(self, config: Config) -> None:
        """What everything made from now on follows."""
        self.config = config

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """The egress with its policies, then the probe. Raises EngineError, PolicyRejected."""
        self.tasks = tasks
        self.context.run_directory.create()
        await self.announce_doors()
        self.listening = [tasks.create_task(work) for work in (self.exit_watch.run(), self.link.run())]
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
            self.refusal = await self.test_isolation()

    async def announce_doors(self) -> None:
        """Announces doors that an earlier gateway left, before the link is up, so that a running egress keeps them."""
        for owned in self.ownership.record.all(Role.DOOR):
            if owned.id:
                await self.link.expect_door(door_ticket(owned))

    async def test_isolation(self, *, force: bool = False) -> str:
        """Why isolated backends must not be started; empty when isolation holds."""
        assert self.info is not None
        problem = await self.isolation.test(self.info, force=force)
        if problem:
            self.notice("probe_failed", problem, Severity.ERROR)
        return problem

    async def run(self) -> None:
        """Restarts the egress when it ends, and pushes changes of this machine's addresses, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keep_egress())
            tasks.create_task(self.refresh())

    async def keep_egress(self) -> None:
        """Restarts the egress whenever it ends."""
        try:
            while True:
                await self.egress.keep()
                with contextlib.suppress(Exception):  # the next refresh tries again
                    await self.push()
        except Exception:
            logger.exception("the egress's keeper failed")
            raise

    async def refresh(self) -> None:
        """Looks at this machine's addresses again when the kernel reports a change, and from time to time."""
        with contextlib.closing(AddressChanges()) as changes:
            while True:
                await changes.wait(REFRESH_S)
                try:
                    await self.push()
                except (EngineError, OSError, ValueError) as error:
                    logger.warning("what the egress knows of this machine could not be refreshed: %s", error)

    async def close(self, *, remove: bool) -> None:
        """Ends the connectors; with `remove` everything else of this project too."""
        try:
            await self.connectors.stop_all()
            if remove:
                await self.ownership.remove_all()
        finally:
            listening, self.listening = self.listening, []
            for task in listening:
                task.cancel()
                await asyncio.wait([task])

    async def clear(self) -> None:
        """Removes whatever is left of this project; an engine that fails is ignored."""
        with contextlib.suppress(EngineError):
            await self.ownership.remove_all()

    async def disconnect(self) -> None:
        """Ends the engine's threads and connections."""
        await self.engine.close()

    # -- the egress

    @property
    def egress_environment(self) -> Mapping[str, object]:
        """The facts of the last push; empty before it."""
        return self.policies.pushed[1] if self.policies.pushed else {}

    @property
    def is_empty(self) -> bool:
        """Whether the record holds nothing."""
        return not self.ownership.record.owned

    def egress_plan(self, nofile: int) -> ContainerPlan:
        """The egress's container, with that limit of open files."""
        directory, names = self.context.run_directory, self.context.names
        uid, resolvers = self.users.given(EGRESS), self.config.egress.resolvers
        return egress_plan(names, self.egress_image, directory.control, directory.doors, nofile, uid, resolvers)

    async def push(self) -> None:
        """Makes the egress hold the policies of the configuration. Raises EngineError, PolicyRejected, OSError."""
        await self.policies.push(self.config)

    async def update_egress(self) -> None:
        """Recreates the egress if its plan has changed, pushes the policies, and makes the connectors follow."""
        assert self.tasks is not None
        await self.egress.renew()
        await self.push()
        await self.connectors.reconcile(joined_networks(self.config), self.tasks)

    # -- backends

    def key(self, server: Server) -> str:
        """A hash of what the server's containers are made from."""
        return self.planner.key(server, self.config.extra_ca)

    async def prepare(self, instance: str, server: Server, ring: LogRing) -> BackendInstance:
        """An instance with its image at hand, not started. Raises BuildError, PlanError, ConfigError, EngineError."""
        if self.refusal and server.isolated:
            raise PlanError(self.refusal)
        wanted = await self.planner.wanted(instance, server, self.config.extra_ca)
        return BackendInstance(wanted, instance.partition("/")[0], self.context, ring)

    def try_again(self, server: Server) -> None:
        """The next `prepare` of it builds its image even if that failed before."""
        self.planner.try_again(server)

    def source_state(self, server: Server) -> str:
        """What can be seen of a project's folder now; empty: nothing."""
        return source_state(server)

    async def adopt(self, wanted: Mapping[str, Server], ring: Callable[[str], LogRing]) -> list[BackendInstance]:
        """Takes over running backends that are exactly what is wanted; removes everything else of ours."""
        record, adopted = self.ownership.record, []
        left = {owned.instance for owned in record.all(Role.BACKEND, Role.DOOR, Role.BACKEND_NETWORK, Role.CONNECTOR)}
        for instance in sorted(left):
            server = wanted.get(instance)
            found = await self.adopt_one(instance, server, ring(instance)) if server is not None else None
            if found is not None:
                adopted.append(found)
            else:
                await self.link.drop_door(instance)
                await self.ownership.tidy_instance(instance)
        await self.ownership.tidy_all(Role.PROBE, Role.PROBE_NETWORK, Role.OWNER)
        self.users.purge()
        return adopted

    async def adopt_one(self, instance: str, server: Server, ring: LogRing) -> BackendInstance | None:
        """Adopts one backend; None when it is not what is wanted."""
        try:
            found = await self.prepare(instance, server, ring)
            if await found.adopt():
                return found
        except (EngineError, BackendUnavailable, PlanError, ValueError, OSError) as error:
            logger.info("server %s is not adopted: %s", instance, error)
        return None

    def shared_users(self, instances: Iterable[ManagedInstance]) -> dict[str, list[str]]:
        """For each running backend that shares its user with another: with which, in sentences."""
        running: dict[str, set[int]] = {}
        chosen = set()
        for instance in instances:
            if instance.uid is not None:
                running.setdefault(instance.backend, set()).add(instance.uid)
                if instance.user_is_configured:
                    chosen.add(instance.backend)
        return self.users.sharing(running, chosen)

    # -- what is heard

    def door_reported(self, door: str, state: DoorState, detail: str) -> None:
        """What the egress reports of a door (`EgressLink.on_door`)."""
        if state is DoorState.NO_ROUTE:
            self.sees_direct = False

    def notice(self, code: str, message: str, severity: Severity = Severity.WARNING) -> None:
        """Reports something about the sandbox itself."""
        self.on_event(NoticeEvent(time=time.time(), source="runtime", code=code, severity=severity, message=message))

    def engine_away(self, why: str) -> None:
        """The engine's events cannot be read for now (`ExitWatch`)."""
        self.notice("engine_away", why, Severity.ERROR)


def noted(
    inner: Callable[[EgressEvent | NoticeEvent], None], note: Callable[[EgressEvent | NoticeEvent], None]
) -> Callable[[EgressEvent | NoticeEvent], None]:
    """Notes each event, and hands it on."""

    def hand_on(event: EgressEvent | NoticeEvent) -> None:
        note(event)
        inner(event)

    return hand_on


def without_probe(
    inner: Callable[[EgressEvent | NoticeEvent], None],
) -> Callable[[EgressEvent | NoticeEvent], None]:
    """Hands events on, except those of the probe's own attempts, which no backend made."""

    def hand_on(event: EgressEvent | NoticeEvent) -> None:
        if event.backend != PROBE_BACKEND:
            inner(event)

    return hand_on

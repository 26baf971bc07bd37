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
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from observability.events import BackendEvent, BackendState, EgressEvent, Event, NoticeEvent, Severity
from registry.config import Config, Server, Sessions, Start
from registry.errors import ConfigError
from registry.spec import ImageSource, PackageSource, RemoteSource, plan_source

from .base import BackendStatus, Change, ContainerChange, ContainerPlan, Engine, EngineInfo, Instance, LogLine
from .build_settings import certificates
from .connectors import Connectors
from .egress_keeper import EgressKeeper
from .errors import BackendUnavailable, EngineError, PlanError
from .host import host_addresses
from .images import Images
from .logring import LogRing
from .ownership import Ownership
from .pair import Exits, Link, Pair, Tools, Wanted, door_ticket
from .plans import CaBundle, Names, backend_plan, check_own_port, egress_plan, transport_of
from .policy_ports import policy_ports
from .probe import PROBE_BACKEND, Attempt, Probe, cache_key, listening, note_passed, passed_before, verdict
from .record import Record, Role
from .rundir import RunDirectory
from .slot import Slot
from .surroundings import surroundings

logger = logging.getLogger(__name__)

REFRESH_S: Final = 30.0
REWATCH_S: Final = 1.0
STOP_GRACE_S: Final = 2.0
RUN_FIELDS: Final = (
    "type", "command", "args", "image", "entrypoint", "env", "port", "path", "mounts", "resources", "packages",
    "user", "sessions", "start_timeout_s", "disabled",
)  # fmt: skip
"""What of a server its containers are made from; a change of anything else needs no new container."""


class EgressLinkLike(Link, Protocol):
    """What the supervisor needs of the link to the egress (`egress_link.EgressLink`)."""

    on_event: Callable[[EgressEvent | NoticeEvent], None]
    on_door: Callable[[str, str, str], None] | None

    async def run(self) -> None: ...
    async def wait_connected(self, timeout_s: float) -> None: ...
    async def push_policies(
        self, backends: Mapping[str, Mapping[str, object]], surroundings: Mapping[str, object]
    ) -> int: ...


class Secrets(Protocol):
    """Fills in `${secret:NAME}` and `${env:NAME}` (`registry.secrets.SecretStore`)."""

    def resolve(self, values: Mapping[str, str]) -> dict[str, str]: ...


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
        self.secrets = secrets
        self.on_event = on_event
        self.gateway_ports = gateway_ports
        self.probe = probe
        self.config = Config()
        self.names = Names(project=project)
        self.exits = Exits()
        self.egress_image = ""
        self.ownership = Ownership(engine, Record.load(run_directory.record_file))
        self.tools = Tools(
            engine=engine,
            link=link,
            ownership=self.ownership,
            names=self.names,
            exits=self.exits,
            doors_image=lambda: self.egress_image,
            doors_directory=run_directory.doors,
            nofile=lambda: self.egress.nofile,
        )
        self.egress = EgressKeeper(self.tools, link, on_event, self.plan_egress)
        self.connectors = Connectors(self.tools, on_event)
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

    # -- life

    async def run(self) -> None:
        """Until `stop`. Raises EngineError when the engine cannot be used; then nothing of ours is left running."""
        self.run_directory.create()
        await self.announce_doors()
        try:
            async with asyncio.TaskGroup() as tasks:
                self.tasks = tasks
                ears = [tasks.create_task(work) for work in (self.watch(), self.link.run())]
                await self.begin_or_tell()
                keepers = [tasks.create_task(work) for work in (self.keep_egress(), self.refresh())]
                await self.stopping.wait()
                await cancelled(keepers)  # first: nothing may be started again while all is taken down
                await self.end()
                await cancelled(ears)
        except* EngineError as group:
            raise first_leaf(group) from None
        finally:
            await self.remove_rest()
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
        self.egress_image = await self.images.egress()
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
            wanted = {name: self.key(name, server) for name, server in self.local_servers().items()}
            changed = [name for name, key in self.keys.items() if wanted.get(name) != key]
            await self.stop_backends(changed)
            self.keys = wanted
            await self.push()
            assert self.tasks is not None
            await self.connectors.reconcile(self.joined_networks(), self.tasks)
            for name, server in self.local_servers().items():
                if server.start is Start.EAGER and server.sessions is not Sessions.PER_CLIENT:
                    self.slot(name)

    def local_servers(self) -> dict[str, Server]:
        """The servers that run here."""
        return {name: s for name, s in self.config.servers.items() if not s.remote and not s.disabled}

    def joined_networks(self) -> set[str]:
        """The networks that isolated backends reach through a connector."""
        servers = self.local_servers().values()
        return {network for server in servers if server.isolated for network in server.network.join}

    def key(self, name: str, server: Server) -> str:
        """A hash of what the server's containers are made from (secrets as they are now)."""
        parts: dict[str, Any] = server.model_dump(mode="json", include=set(RUN_FIELDS))
        parts["isolated"] = server.isolated
        with contextlib.suppress(ConfigError, ValueError):
            parts["env"] = self.secrets.resolve(server.env)
        parts["ca"] = ca.digest if (ca := self.ca_bundle()) else ""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    async def push(self) -> None:
        """The policies and surroundings to the egress, if they differ from the last ones."""
        networks = await self.engine.networks()
        network = self.egress.network
        policies: dict[str, Mapping[str, object]] = {
            name: server.network.block for name, server in self.local_servers().items() if server.isolated
        }
        found = surroundings(
            self.config,
            host_addresses=await asyncio.to_thread(host_addresses),
            self_addresses=self.egress.addresses,
            host_gateway=network.gateway if network else "",
            engine_networks=[subnet for net in networks for subnet in net.subnets],
            gateway_ports=self.gateway_ports(),
        )
        wanted = ({**policies, **self.extra_policies}, found)
        if wanted != self.pushed:
            await self.link.push_policies(*wanted)
            self.pushed = wanted

    def ca_bundle(self) -> CaBundle | None:
        """The combined bundle of `extra_ca`, written where containers mount it from."""
        if self.config.extra_ca is None:
            return None
        import os

        content = certificates(os.environ, Path("/"), Path(self.config.extra_ca)) or b""
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self.run_directory.ca_bundle
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            path.chmod(0o644)
        return CaBundle(path=path, digest=digest)

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
        """A pair that is planned, its image at hand. Raises BuildError, PlanError, ConfigError, EngineError."""
        backend = instance.partition("/")[0]
        server = self.config.servers[backend]
        if self.refusal and server.isolated:
            raise PlanError(self.refusal)
        source = plan_source(server)
        assert not isinstance(source, RemoteSource)
        ports = policy_ports(server.network.block)
        if server.isolated:
            check_own_port(backend, server.port, ports)
        image = await self.image_of(source)
        wanted = Wanted(
            instance=instance,
            server=server,
            source=source,
            ports=ports,
            plan=lambda door: self.plan_backend(instance, server, source, image, door),
        )
        return Pair(wanted, backend, self.tools, self.ring(backend))

    async def image_of(self, source: PackageSource | ImageSource) -> str:
        """The image that runs it, built or pulled if need be."""
        if isinstance(source, PackageSource):
            return await self.images.package(source)
        await self.images.ready(source.image)
        return source.image

    async def plan_backend(
        self, instance: str, server: Server, source: PackageSource | ImageSource, image: str, door: str
    ) -> ContainerPlan:
        """The backend's plan, with its secrets filled in."""
        info = await self.engine.image(image)
        if info is None:
            raise EngineError(f"Image {image} is gone from the engine.")
        env = await asyncio.to_thread(self.secrets.resolve, source.env)
        return backend_plan(
            self.names,
            instance,
            server,
            source,
            image=image,
            info=info,
            env=env,
            ca=self.ca_bundle(),
            door=door,
            nofile=self.egress.nofile,
        )

    def plan_egress(self, nofile: int) -> ContainerPlan:
        """The egress container's plan."""
        return egress_plan(
            self.names, self.egress_image, self.run_directory.control, self.run_directory.doors, nofile
        )

    async def stop_backends(self, names: Iterable[str]) -> None:
        """Stops every instance of these backends."""
        gone = set(names)
        slots = [slot for slot in self.slots.values() if slot.backend in gone]
        async with asyncio.TaskGroup() as tasks:
            for slot in slots:
                tasks.create_task(slot.stop(STOP_GRACE_S))
        for slot in slots:
            self.slots.pop(slot.instance, None)

    async def adopt_all(self) -> None:
        """Takes over running backends that are exactly what is wanted; removes every other thing of ours."""
        record = self.ownership.record
        left = {owned.instance for owned in record.all(Role.BACKEND, Role.DOOR, Role.BACKEND_NETWORK, Role.CONNECTOR)}
        wanted = self.local_servers()
        self.keys = {name: self.key(name, server) for name, server in wanted.items()}
        for instance in sorted(left):
            pair = await self.adopt(instance) if instance in wanted else None
            if pair is None:
                await self.link.drop_door(instance)
                await self.ownership.remove_instance(instance)
            else:
                self.slot(instance, adopted=pair)
        await self.ownership.remove_all(Role.PROBE, Role.PROBE_NETWORK)

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
        if backend not in self.local_servers():
            raise BackendUnavailable(backend, f"There is no backend {backend} that runs here.")
        if self.stopping.is_set():
            raise BackendUnavailable(backend, "The gateway is stopping.")
        return await self.slot(f"{backend}/{session}" if session else backend).ready()

    async def release(self, instance_id: str) -> None:
        """Ends a session's own instance; a shared one goes on."""
        slot = self.slots.get(instance_id)
        if slot is not None and slot.once:
            await slot.stop(STOP_GRACE_S)
            self.slots.pop(instance_id, None)

    async def restart(self, backend: str) -> None:
        """Makes a backend's containers anew."""
        async with self.applying:
            await self.stop_backends([backend])
            server = self.local_servers().get(backend)
            if server is None:
                raise BackendUnavailable(backend, f"There is no backend {backend} that runs here.")
            if server.sessions is not Sessions.PER_CLIENT:
                self.slot(backend)

    def status(self) -> list[BackendStatus]:
        """Every server of the configuration, in its order."""
        return [self.status_of(name, server) for name, server in self.config.servers.items()]

    def status_of(self, name: str, server: Server) -> BackendStatus:
        """One server as `ps` shows it."""
        slots = [slot for slot in self.slots.values() if slot.backend == name]
        main = next((slot for slot in slots if slot.instance == name), slots[0] if slots else None)
        pairs = [slot.pair for slot in slots if slot.pair is not None]
        state = BackendState.REMOTE if server.remote else main.state if main else BackendState.STOPPED
        detail = main.detail if main else "disabled" if server.disabled else ""
        return BackendStatus(
            name=name,
            state=state,
            detail=detail,
            transport=transport_of(server),
            isolated=server.isolated,
            image=server.image or " ".join([server.command or server.url or "", *server.args[:1]]),
            containers=tuple(c[:12] for pair in pairs for c in pair.containers),
            restarts=sum(slot.restarts for slot in slots),
            since=main.since if main else 0.0,
            warnings=self.warnings(server),
            direct_supported=not self.no_route,
        )

    def warnings(self, server: Server) -> tuple[str, ...]:
        """What a person should know of a backend's wall."""
        if server.remote:
            return ("runs elsewhere: not isolated, its connections are not observed",)
        if not server.network.isolated:
            return ("not isolated: it reaches everything, and its connections are not observed",)
        return ()

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
        if state == "note" and "AnyIP" in detail:
            self.no_route = True

    # -- background

    def state_changed(self, slot: Slot) -> None:
        """A slot took a new state."""
        self.on_event(BackendEvent(time=slot.since, backend=slot.backend, state=slot.state, detail=slot.detail))

    def notice(self, code: str, message: str, severity: Severity = Severity.WARNING) -> None:
        """Tells of something about the runtime itself."""
        self.on_event(NoticeEvent(time=time.time(), source="runtime", code=code, severity=severity, message=message))

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
        """The host's addresses change: looks again from time to time."""
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                await self.push()
            except (EngineError, OSError, ValueError) as error:
                logger.warning("the surroundings could not be refreshed: %s", error)

    async def watch(self) -> None:
        """Hears of containers that end, for as long as there is an engine; comes back when it does."""
        told = ""
        while True:
            try:
                async for change in self.engine.watch({"stockade.project": self.project}):
                    told = ""
                    await self.heard(change)
            except EngineError as error:
                if str(error) != told:
                    told = str(error)
                    self.notice("engine_away", told, Severity.ERROR)
            await asyncio.sleep(REWATCH_S)

    async def heard(self, change: ContainerChange) -> None:
        """One change on the engine."""
        match change.change:
            case Change.RESYNC:
                for container in [c for c, future in self.exits.waiting.items() if not future.done()]:
                    await self.look(container)
            case Change.DIED | Change.REMOVED:
                await self.look(change.container)
            case Change.STARTED:
                pass

    async def look(self, container: str) -> None:
        """Tells who waits for that container, if it has ended (an event may be about an earlier life)."""
        if container not in self.exits.waiting:
            return
        info = await self.engine.inspect(container)
        if info is None or info.finished:
            self.exits.tell(container, info.exit_code if info else 137)


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

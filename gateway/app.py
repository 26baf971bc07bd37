"""The gateway put together: every concrete part is made here, and given to the others by what they need of it.

Theory of operation. `run` loads the file and starts one event loop. `Gateway.serve` goes up in order: run directory →
listeners (a taken port ends it before anything runs) → history, hub, telemetry → the egress's link, the supervisor,
the MCP endpoint → HTTP servers → the configuration's watcher; and comes down in reverse. Egress events pass through
`_on_egress`, which adds the calls in flight before anyone sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from socket import socket

import uvloop

from egress.policy.decide import Policy, Surroundings, parse_policy
from egress.service.surroundings import parse_around
from gateway.connections import (
    ADMIN_CONNECTIONS,
    CONTROL_CONNECTIONS,
    Limits,
    client_connections,
    raise_descriptor_limit,
)
from gateway.control.apps import admin_app, control_app
from gateway.control.auth import ADMIN_FILE, AdminToken
from gateway.control.base import Edited, Readiness, Urls
from gateway.control.listen import HttpServer, ListenError, bind_tcp, bind_unix
from gateway.control.running import GatewayFile, process_started
from gateway.cuts import Cuts
from gateway.in_force import InForce
from gateway.mcp.endpoint import Endpoint
from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.engine.errors import EngineError
from gateway.runtime.images.build_settings import BuildSettings, gather
from gateway.runtime.images.images import Images
from gateway.runtime.inventory.egress_link import EgressLink, PolicyRejected
from gateway.runtime.inventory.host import host_listeners
from gateway.runtime.inventory.ownership import Ownership
from gateway.runtime.inventory.record import Record
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.supervise.keeper import Slot
from gateway.runtime.supervise.supervisor import Supervisor
from gateway.watch import ConfigWatcher
from observability.events import BackendState, EgressEvent, Event, NoticeEvent, Phase, Severity
from observability.hub import Hub
from observability.instruments import Instruments
from observability.logs import configure, log_event
from observability.losses import Losses
from observability.store import History
from observability.telemetry import Telemetry, resource_attributes, setup
from registry.check.cut_off import cut_off
from registry.config import Config, project_name
from registry.edit import EMPTY, Change, edit_config
from registry.edit import apply as apply_edit
from registry.file.document import Document, parse
from registry.importers import adopt
from registry.load import load_config
from registry.model.errors import ConfigError, Problem
from registry.secrets import SecretStore

logger = logging.getLogger(__name__)

VERSION = version("stockade")
HELD_S = 1.0
"""A backend that runs for so long has started; one that ends sooner ended at once."""
LOOK_AGAIN_S = 60.0
IN_FORCE_FILE = "in-force.json"
AT_THE_START = (("project",), ("gateway", "listen"), ("gateway", "admin"), ("gateway", "history"))


class Gateway:
    """One running gateway: what `gateway.control.base.Control` describes."""

    def __init__(
        self, path: Path, config: Config, project: str, directory: RunDirectory, *, first: bool = False
    ) -> None:
        self.config_path = path
        self.config = self._begun_with = config
        self.project = project
        self.version = VERSION
        self.started = time.time()
        self.directory = directory
        self._first = first
        self._in_force = InForce(directory.persistent / IN_FORCE_FILE)
        self.urls = Urls(endpoint="", admin="")
        self.admin_token = AdminToken(directory.persistent / ADMIN_FILE)
        self.secrets = SecretStore()
        self.losses = Losses()
        self.instruments = Instruments(resource=resource_attributes(VERSION))
        self.history = History(
            directory.persistent / "history.db",
            max_rows=config.gateway.history.max_rows,
            max_days=config.gateway.history.max_days,
            on_drop=lambda count: self.instruments.events_dropped("history", count),
            losses=self.losses,
        )
        self.hub = Hub(
            kept=self.history.newest(),
            on_drop=lambda count: self.instruments.events_dropped("hub", count),
        )
        self.telemetry: Telemetry = setup(version=VERSION, instruments=self.instruments)
        sinks = (self.instruments.on_sequenced, self.losses.on_sequenced, self.history.record, log_event)
        for sink in (*sinks, *self.telemetry.sinks):
            self.hub.attach(sink)
        self.link = EgressLink(
            directory.control,
            on_event=self._on_egress,
            host_listeners=host_listeners,
            known=self.history.last_egress(),
            on_known=self.instruments.on_event,
        )
        engine = DockerEngine()
        self.engine = engine
        self.supervisor = Supervisor(
            engine,
            self.link,
            project=project,
            run_directory=directory,
            images=Images(engine, self._build_settings, self._say, self._build_timeout_s, directory.path),
            secrets=self.secrets,
            on_event=self._publish,
            gateway_ports=lambda: self._ports,
        )
        self.endpoint = Endpoint(
            supervisor=self.supervisor,
            fence=self.link,
            emit=self._publish,
            meters=self.instruments,
            tracer=self.telemetry.tracer,
            cache_dir=directory.persistent,
        )
        self.endpoint.on_tools = self.instruments.known_tools
        self._ports: tuple[int, ...] = ()
        self._watcher = ConfigWatcher(path, self._file_changed)
        self._applying = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._ready = Readiness(ready=False, detail="The gateway is starting.")
        self._rejected = ""
        """Why what the file says now is not in force."""

    def _build_settings(self) -> BuildSettings:
        return gather(extra_ca=self.config.extra_ca)

    def _build_timeout_s(self) -> float:
        return self.config.gateway.build_timeout_s

    def _say(self, line: str) -> None:
        """What takes long while the gateway starts; `up -d` shows it."""
        logger.info("%s", line)
        if not self._ready.ready:
            self._ready = Readiness(ready=False, detail=line)

    # events

    def _publish(self, event: Event) -> None:
        self.hub.publish(event)

    def _on_egress(self, event: EgressEvent | NoticeEvent) -> None:
        if isinstance(event, EgressEvent) and event.phase is not Phase.PROGRESS:  # what runs now did not make it
            event = self.endpoint.inflight.attribute(event)
        self._publish(event)

    def _notice(self, code: str, message: str, severity: Severity = Severity.INFO) -> None:
        self._publish(NoticeEvent(time=time.time(), source="config", code=code, severity=severity, message=message))

    # what the API reads

    @property
    def warnings(self) -> Sequence[str]:
        """What a person should know; the trust overrides of `egress.resolve` are told apart from these."""
        loud = [one for one in (self._rejected, self.supervisor.refusal) if one]
        loud += [str(one) for one in not_before_a_start(self._begun_with, self.config)]
        return loud + [str(one) for one in self.config.warnings if not one.key_path.startswith("egress.resolve")]

    def readiness(self) -> Readiness:
        return self._ready

    def surroundings(self) -> Surroundings:
        """As last pushed; empty before the egress was up."""
        block = self.supervisor.pushed[1] if self.supervisor.pushed else {}
        return parse_around(block, frozenset()).surroundings

    # the configuration

    async def edit(self, change: Change, *, dry_run: bool = False) -> Edited:
        edit = await asyncio.to_thread(edit_config, self.config_path, change)
        if edit.before != self.config.text:  # the watcher has not taken it up, and an edit does not make it whole
            self._refuse_cut_off(adopt(parse(edit.before or EMPTY, str(self.config_path)))[0])
        if dry_run or not edit.changed:
            return Edited(diff=edit.diff, applied=False, warnings=edit.worth_knowing)
        await asyncio.to_thread(apply_edit, edit)
        self._watcher.acknowledge()
        await self._read_again(ours=True)
        return Edited(diff=edit.diff, applied=True, warnings=edit.worth_knowing)

    async def reload(self) -> None:
        await self._read_again()

    async def _read_again(self, *, ours: bool = False) -> None:
        """`ours`: the file is whole, since an edit of ours wrote it."""
        config = await asyncio.to_thread(load_config, self.config_path)
        if not ours:
            self._refuse_cut_off(config.document)
        await self._apply(config)
        self._notice("config_reloaded", f"{self.config_path} was read again and applied.")

    def _refuse_cut_off(self, document: Document | None) -> None:
        """Raises ConfigError when the file may have lost a part of what is in force, and access would be wider."""
        if document is not None and self.config.document is not None:
            if problems := cut_off(self.config.document, document):
                raise ConfigError(problems)

    async def _file_changed(self) -> None:
        try:
            await self.reload()
        except ConfigError as error:
            logger.error("The configuration was not applied; the one before stays in force.\n%s", error)
            self._refused(f"The file is not what is in force: {error}", str(error))
        except (EngineError, PolicyRejected, OSError) as error:
            said = f"The file is not all in force: {error} `stockade reload` tries again."
            logger.error("%s", said)
            self._refused(said, said)

    def _refused(self, warning: str, notice: str) -> None:
        self._rejected = warning
        self._notice("config_rejected", notice, Severity.ERROR)

    async def _apply(self, config: Config) -> None:
        async with self._applying:
            self._name_labels(config)
            self.endpoint.apply(config, self.secrets)
            await self.supervisor.apply(config)
            self.config = config
            self._rejected = ""
            await asyncio.to_thread(self._in_force.remember, config)

    def _name_labels(self, config: Config) -> None:
        policies = {name: parse_policy(server.network.block) for name, server in config.servers.items()}
        self.instruments.known(
            backends=tuple(config.servers),
            clients=tuple(config.clients),
            rules={name: [rule.text for rule in policy.rules] for name, policy in policies.items()},
            ports={name: named_ports(policy) for name, policy in policies.items()},
        )

    # life

    def shutdown(self) -> None:
        self._stopping.set()

    async def serve(self, on_ready: Callable[[Gateway], None] | None = None) -> None:
        """Runs until `shutdown`. Raises ListenError, EngineError or ConfigError when it cannot start."""
        try:
            with contextlib.ExitStack() as cleanup:
                servers = self._listen(cleanup)
                self._write_gateway_file(cleanup)
                await self._serve([server for server, _ in servers], dict(servers), on_ready)
        finally:
            await self.engine.close()
            await asyncio.to_thread(self._close_records)
            if self._first and not self.supervisor.ownership.record.owned:
                self.directory.forget()

    async def _serve(
        self,
        servers: Sequence[HttpServer],
        listeners: Mapping[HttpServer, socket],
        on_ready: Callable[[Gateway], None] | None,
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            serving = [tasks.create_task(server.run_on(listeners[server])) for server in servers]
            supervising = tasks.create_task(self.supervisor.run())
            watching = tasks.create_task(self._watcher.run())
            try:
                await self._start(on_ready)
                tasks.create_task(self.endpoint.run())
                await self._stopping.wait()
            finally:
                watching.cancel()
                await self._stop(servers)
                await asyncio.wait([*serving, supervising])

    def _listen(self, cleanup: contextlib.ExitStack) -> list[tuple[HttpServer, socket]]:
        settings = self.config.gateway
        control = bind_unix(self.directory.control_socket)
        cleanup.callback(self._tidy)
        cleanup.callback(self.directory.control_socket.unlink, missing_ok=True)
        cleanup.callback(control.close)
        mcp = cleanup.enter_context(self._bind("listen", settings.listen))
        admin = cleanup.enter_context(self._bind("admin", settings.admin))
        self._ports = tuple(listener.getsockname()[1] for listener in (mcp, admin))
        self.urls = Urls(endpoint=f"http://{_authority(mcp)}/mcp", admin=f"http://{_authority(admin)}/")
        page = admin_app(self, self.admin_token, port=admin.getsockname()[1])
        clients = client_connections(raise_descriptor_limit())
        return [
            (HttpServer(control_app(self), limits=self._limits("control socket", CONTROL_CONNECTIONS)), control),
            (HttpServer(page, limits=self._limits("admin listener", ADMIN_CONNECTIONS)), admin),
            (
                HttpServer(
                    self.endpoint.app, grace_s=settings.shutdown_grace_s, limits=self._limits("MCP endpoint", clients)
                ),
                mcp,
            ),
        ]

    def _limits(self, listener: str, connections: int) -> Limits:
        return Limits(connections, Cuts(listener, self._publish))

    def _bind(self, key: str, listen: str) -> socket:
        """Raises ListenError with the place in the file."""
        try:
            return bind_tcp(listen, f"gateway.{key}")
        except ListenError as error:
            raise ListenError(str(self.config.problem(("gateway", key), str(error)))) from None

    def _tidy(self) -> None:
        """Where nothing of ours is left on the engine, nothing is left on the disk that only it used."""
        if not self.supervisor.ownership.record.owned:
            self.directory.remove_meeting_places()

    def _write_gateway_file(self, cleanup: contextlib.ExitStack) -> None:
        pid = os.getpid()
        GatewayFile(
            pid=pid,
            pid_started=process_started(pid) or "",
            project=self.project,
            config=str(self.config_path.resolve()),
            version=VERSION,
            started=self.started,
            endpoint=self.urls.endpoint,
            admin=self.urls.admin,
        ).write(self.directory.gateway_file)
        cleanup.callback(self.directory.gateway_file.unlink, missing_ok=True)

    async def _start(self, on_ready: Callable[[Gateway], None] | None) -> None:
        """The configuration in force, and every backend that starts at once running (or known not to)."""
        await self._apply(self.config)
        await self.supervisor.wait_begun()
        await self._settled()
        self._ready = Readiness(ready=True)
        self._first = False
        if on_ready is not None:
            on_ready(self)

    async def _settled(self) -> None:
        """Until every backend that starts at once has run for a moment (some end at once), or is known not to."""
        with self.hub.subscribe() as changes:
            while (left_s := max(map(unsettled_s, self.supervisor.slots.values()), default=0.0)) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await anext(changes)

    async def _stop(self, servers: Sequence[HttpServer]) -> None:
        """Calls in flight finish within the grace; then backends, egress and networks go."""
        self._ready = Readiness(ready=False, detail="The gateway is stopping.")
        await self.endpoint.close(self.config.gateway.shutdown_grace_s)
        await self.supervisor.stop()
        self.hub.close()
        for server in servers:
            server.stop()

    def _close_records(self) -> None:
        self.telemetry.shutdown()
        self.history.close()


def not_before_a_start(begun_with: Config, now: Config) -> list[Problem]:
    """What the file says by now of that which a gateway only takes up when it starts."""
    found: list[Problem] = []
    for path in AT_THE_START:
        was, wanted = (functools.reduce(getattr, path, one) for one in (begun_with, now))
        if was != wanted:
            message = "is not in force before the gateway is started again"
            found.append(now.problem(path, message, "Run: stockade down, then: stockade up -d"))
    return found


def unsettled_s(slot: Slot) -> float:
    """How long to wait, at most, before looking again whether a backend's start held; 0 when that is known."""
    if slot.once or slot.done.is_set():
        return 0.0
    match slot.state:
        case BackendState.STOPPED | BackendState.BUILDING | BackendState.STARTING:
            return LOOK_AGAIN_S
        case BackendState.RUNNING:
            return max(0.0, slot.since + HELD_S - time.time())
        case _:
            return 0.0


def named_ports(policy: Policy) -> list[int]:
    """The single ports that a policy names; ranges are left out (they would be too many labels)."""
    ranges = [*policy.ports, *(one for rule in policy.rules for one in rule.ports)]
    return sorted({one.first for one in ranges if one.first == one.last} or {80, 443})


def _authority(listener: socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def prepare(path: Path, project: str | None = None) -> Gateway:
    """Loads the file and makes the gateway, with its run directory. Raises ConfigError, OSError or ValueError."""
    path = path.absolute()
    config = load_config(path)
    name = project or project_name(config, path)
    directory = RunDirectory.of(name)
    first = directory.create()
    InForce(directory.persistent / IN_FORCE_FILE).check(config)
    return Gateway(path, config, name, directory, first=first)


def run(
    path: Path,
    *,
    project: str | None = None,
    on_ready: Callable[[Gateway], None] | None = None,
    log: logging.Handler | None = None,
) -> None:
    """Runs a gateway in this process until SIGTERM or SIGINT; everything that it started is gone when it returns.

    It logs to `log`, else to standard error. Raises ConfigError, ListenError or EngineError when it cannot start.
    """
    configure(as_json=False, handler=log)
    uvloop.run(_run(path, project, on_ready))


async def _run(path: Path, project: str | None, on_ready: Callable[[Gateway], None] | None) -> None:
    gateway = prepare(path, project)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.shutdown)
    await gateway.serve(on_ready)


def clean(project: str) -> Sequence[str]:
    """Removes what a gateway that died left behind; returns what was removed, in words. Raises EngineError."""
    return asyncio.run(_clean(project))


async def _clean(project: str) -> Sequence[str]:
    engine = DockerEngine()
    try:
        directory = RunDirectory.of(project)
        ownership = Ownership(engine, Record.load(directory.record_file))
        names = [owned.name for owned in ownership.record.all()]
        await ownership.remove_all()
        directory.remove_meeting_places()
        return names
    finally:
        await engine.close()

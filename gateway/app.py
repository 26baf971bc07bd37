"""The gateway put together: every concrete part is made here, and given to the others by what they need of it.

Theory of operation. `run` loads the file and starts one event loop. `Gateway.serve` goes up in order: run directory →
listeners (a taken port ends it before anything runs) → the sandbox's egress, the supervisor, the MCP endpoint → HTTP
servers → the configuration's watcher; and comes down in reverse. Egress events pass through `_on_egress`, which adds the
calls in flight before anyone sees them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import uvloop

from egress.policy.decide import Surroundings
from egress.service.surroundings import parse_around
from gateway import listeners
from gateway.control.apps import admin_app, control_app
from gateway.control.auth import ADMIN_FILE, AdminToken
from gateway.control.base import Edited, GatewayState, Readiness, Urls
from gateway.control.keep_blocked import KEPT_FILE, KeptBlocked
from gateway.control.listen import HttpServer
from gateway.control.running import GatewayFile, process_started
from gateway.in_force import InForce
from gateway.listeners import Listeners
from gateway.live_config import LiveConfig
from gateway.mcp.endpoint import Endpoint
from gateway.recorders import Recorders
from gateway.runtime.factory import SandboxNeeds, clean_up, make_sandbox
from gateway.runtime.images.build_settings import BuildSettings, gather
from gateway.runtime.inventory.egress_link import EgressLink
from gateway.runtime.inventory.host import host_listeners
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.sandbox.base import Sandbox
from gateway.runtime.supervise.supervisor import Supervisor
from gateway.settled import settled
from observability.events import BackendEvent, BackendState, EgressEvent, Event, NoticeEvent, Phase
from observability.logs import configure
from registry.config import Config, project_name
from registry.edit import Change
from registry.load import load_config
from registry.secrets import SecretStore

logger = logging.getLogger(__name__)

VERSION: Final = version("stockade")
IN_FORCE_FILE: Final = "in-force.json"


class Gateway:
    """One running gateway: what `gateway.control.base.Control` describes."""

    def __init__(
        self, path: Path, config: Config, project: str, directory: RunDirectory, *, first: bool = False
    ) -> None:
        """`first`: this is the project's first start; if it fails, nothing of it is kept."""
        self.project = project
        self.version = VERSION
        self.started = time.time()
        self.directory = directory
        self.urls = Urls(endpoint="", admin="")
        self.admin_token = AdminToken(directory.persistent / ADMIN_FILE)
        self.kept_blocked = KeptBlocked(directory.persistent / KEPT_FILE)
        self.secrets = SecretStore()
        self._first = first
        self._ports: tuple[int, ...] = ()
        self._stopping = asyncio.Event()
        self._ready = Readiness(state=GatewayState.STARTING, detail="The gateway is starting.")
        in_force = InForce(directory.persistent / IN_FORCE_FILE)
        self.live = LiveConfig(path, config, in_force, self._carry_out, self._publish)
        self.recorders = Recorders(directory.persistent, VERSION, config.gateway.history)
        self.losses, self.instruments = self.recorders.losses, self.recorders.instruments
        self.history, self.hub = self.recorders.history, self.recorders.hub
        self.link = EgressLink(
            directory.control,
            on_event=self._on_egress,
            host_listeners=host_listeners,
            known=self.history.last_egress(),
            on_known=self.instruments.on_event,
        )
        self.sandbox = self._make_sandbox()
        self.supervisor = Supervisor(self.sandbox, self._publish)
        self.endpoint = Endpoint(
            supervisor=self.supervisor,
            barrier=self.link,
            emit=self._publish,
            meters=self.instruments,
            tracer=self.recorders.telemetry.tracer,
            cache_dir=directory.persistent,
        )
        self.endpoint.on_tools = self.instruments.known_tools

    def _make_sandbox(self) -> Sandbox:
        return make_sandbox(
            SandboxNeeds(
                project=self.project,
                run_directory=self.directory,
                link=self.link,
                secrets=self.secrets,
                build_settings=self._build_settings,
                build_timeout_s=lambda: self.config.gateway.build_timeout_s,
                on_event=self._publish,
                on_progress=self._report_progress,
                gateway_ports=lambda: self._ports,
            )
        )

    def _build_settings(self) -> BuildSettings:
        return gather(extra_ca=self.config.extra_ca)

    def _report_progress(self, line: str) -> None:
        """What takes long while the gateway starts; `up -d` shows it."""
        logger.info("%s", line)
        if not self._ready.ready:
            self._ready = Readiness(state=GatewayState.PREPARING, detail=line)

    # events

    def _publish(self, event: Event) -> None:
        if isinstance(event, BackendEvent) and event.state is BackendState.STARTING:
            self.endpoint.inflight.background.started(event.backend, event.time)
        self.hub.publish(event)

    def _on_egress(self, event: EgressEvent | NoticeEvent) -> None:
        if isinstance(event, EgressEvent) and event.phase is not Phase.PROGRESS:  # what runs now did not make it
            event = self.endpoint.inflight.attribute(event)
        self._publish(event)

    # what the API reads

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.live.now

    @property
    def config_path(self) -> Path:
        """Its file."""
        return self.live.path

    @property
    def warnings(self) -> Sequence[str]:
        """What a person should know: that isolation does not hold comes first."""
        return [*([self.sandbox.refusal] if self.sandbox.refusal else []), *self.live.warnings]

    def readiness(self) -> Readiness:
        return self._ready

    def surroundings(self) -> Surroundings:
        """As last pushed; empty before the egress was up."""
        return parse_around(self.sandbox.egress_environment, frozenset()).surroundings

    # the configuration

    async def edit(self, change: Change, *, dry_run: bool = False) -> Edited:
        return await self.live.edit(change, dry_run=dry_run)

    async def reload(self) -> None:
        await self.live.reload()

    async def _carry_out(self, config: Config) -> None:
        self.recorders.name_labels(config)
        self.endpoint.apply(config, self.secrets)
        await self.supervisor.apply(config)

    # from start to stop

    def shutdown(self) -> None:
        self._stopping.set()

    async def serve(self, on_ready: Callable[[Gateway], None] | None = None) -> None:
        """Runs until `shutdown`. Raises ListenError, EngineError or ConfigError when it cannot start."""
        try:
            with contextlib.ExitStack() as cleanup:
                bound = listeners.bind(self.config, self.directory, cleanup, on_closed=self._tidy)
                self._ports, self.urls = bound.ports, bound.urls
                self._write_gateway_file(cleanup)
                await self._serve(bound, on_ready)
        finally:
            await self.sandbox.disconnect()
            await asyncio.to_thread(self.recorders.close)
            if self._first and self.sandbox.is_empty:
                self.directory.forget()

    async def _serve(self, bound: Listeners, on_ready: Callable[[Gateway], None] | None) -> None:
        servers = self._servers(bound)
        async with asyncio.TaskGroup() as tasks:
            sockets = (bound.control, bound.admin, bound.mcp)
            serving = [tasks.create_task(one.run_on(sock)) for one, sock in zip(servers, sockets, strict=True)]
            supervising = tasks.create_task(self.supervisor.run())
            watching = tasks.create_task(self.live.watch())
            try:
                await self._start(on_ready)
                tasks.create_task(self.endpoint.run())
                await self._stopping.wait()
            finally:
                watching.cancel()
                await self._stop(servers)
                await asyncio.wait([*serving, supervising])

    def _servers(self, bound: Listeners) -> list[HttpServer]:
        """For the control socket, the admin listener and the endpoint."""
        limits = listeners.limits(self._publish)
        page = admin_app(self, self.admin_token, port=listeners.port_of(bound.admin))
        grace_s = self.config.gateway.shutdown_grace_s
        return [
            HttpServer(control_app(self), limits=limits.control),
            HttpServer(page, limits=limits.admin),
            HttpServer(self.endpoint.app, grace_s=grace_s, limits=limits.mcp),
        ]

    def _tidy(self) -> None:
        """Removes directories that only containers used, once no container of ours is left."""
        if self.sandbox.is_empty:
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
        await self.live.apply(self.config)
        await self.supervisor.wait_begun()
        await settled(self.hub, self.supervisor.keepers.values)
        self._ready = Readiness(state=GatewayState.READY)
        self._first = False
        if on_ready is not None:
            on_ready(self)

    async def _stop(self, servers: Sequence[HttpServer]) -> None:
        """Calls in flight finish within the grace; then backends, egress and networks go."""
        self._ready = Readiness(state=GatewayState.STOPPING, detail="The gateway is stopping.")
        await self.endpoint.close(self.config.gateway.shutdown_grace_s)
        await self.supervisor.stop()
        self.hub.close()
        for server in servers:
            server.stop()


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
    """Removes what a gateway that died left behind; the names of what was removed. Raises EngineError."""
    return asyncio.run(clean_up(project))

"""A gateway in memory: real configuration, hub and history; backends that only pretend."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egress.policy.decide import Surroundings
from gateway.connections import Limits
from gateway.control.apps import control_app
from gateway.control.base import Edited, GatewayState, Readiness, Urls
from gateway.control.keep_blocked import KEPT_FILE, KeptBlocked
from gateway.control.listen import HttpServer, bind_unix
from gateway.control.running import GatewayFile
from gateway.mcp.view.pinned_text import Difference
from gateway.runtime.sandbox.errors import BackendUnavailable
from gateway.runtime.sandbox.log_ring import LogLine
from gateway.runtime.supervise.status import BackendStatus
from observability.events import BackendState, CallRef, Decision, EgressEvent, Phase, Reason
from observability.hub import Hub
from observability.losses import Losses
from observability.store import History
from registry.edit import Change, apply, edit_config
from registry.load import load_config

CONFIG = """\
# the wall
version: 1
mcpServers:
  fetch:
    command: uvx
    args: [mcp-server-fetch]
    network:
      allowed_hosts: [api.github.com]  # keep this comment
      allowed_ports: [443]
  open:
    command: uvx
    args: [mcp-server-time]
    network: {isolated: false}
egress:
  resolve: ["api.github.com:443:10.0.0.9"]
clients:
  cursor: {token_sha256: "%s", servers: [fetch]}
""" % ("a" * 64)


def egress_event(**changes: Any) -> EgressEvent:
    """A denied connection of `fetch`."""
    values: dict[str, Any] = {
        "seq": 1, "epoch": "e", "phase": Phase.DECIDED, "time": 1_700_000_000.0, "connection": 1, "backend": "fetch",
        "host": "evil.example", "port": 443, "decision": Decision.DENY, "reason": Reason.HOST_NOT_ALLOWED,
        "calls": (CallRef(request_id="1", method="tools/call", tool="fetch", client="cursor"),),
    }  # fmt: skip
    return EgressEvent(**{**values, **changes})


class FakeSupervisor:
    """Two backends; `fetch` runs, `open` is not isolated."""

    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.lines = [LogLine(time=1_700_000_000.0 + n, stream="stderr", text=f"line {n}") for n in range(5)]
        self.more: asyncio.Queue[LogLine | None] = asyncio.Queue()

    def status(self) -> Sequence[BackendStatus]:
        common: dict[str, Any] = {
            "detail": "",
            "transport": "stdio",
            "image": "i",
            "containers": ("c",),
            "restarts": 0,
        }
        return [
            BackendStatus(name="fetch", state=BackendState.RUNNING, isolated=True, since=1.0, **common),
            BackendStatus(
                name="open",
                state=BackendState.FAILED,
                isolated=False,
                since=1.0,
                warnings=("Not isolated.",),
                **common,
            ),
        ]

    async def restart(self, backend: str) -> None:
        if backend == "open":
            raise BackendUnavailable("open", "it ended with code 1 at once.")
        self.restarted.append(backend)

    async def logs(self, backend: str, *, tail: int = 200, follow: bool = False) -> AsyncIterator[LogLine]:
        for line in self.lines[-tail:] if tail else []:
            yield line
        while follow and (line := await self.more.get()) is not None:
            yield line


class FakeEndpoint:
    """Tools as a hostile server would describe them."""

    def __init__(self) -> None:
        self.approved: list[tuple[str, str]] = []
        self.reconnected: list[str] = []
        self.troubles: dict[str, str] = {}
        self.left_out: dict[str, list[str]] = {}
        self.refusals: list[EgressEvent] = []
        self.changed: dict[str, list[Difference]] = {}
        self.definitions: dict[str, list[dict[str, Any]]] = {
            "fetch": [{"name": "fetch", "description": "reads \x1b[31mpages [red]x"}]
        }

    def tools(self, backend: str) -> Sequence[Mapping[str, Any]]:
        return self.definitions.get(backend, [])

    def refused(self, backend: str) -> list[EgressEvent]:
        return [event for event in self.refusals if event.backend == backend]

    def flaws(self, backend: str) -> dict[str, list[str]]:
        return {"left_out": self.left_out.get(backend, []), "reshaped": []}

    def trouble(self, backend: str) -> str:
        return self.troubles.get(backend, "")

    def reconnect(self, backend: str) -> None:
        self.reconnected.append(backend)

    def differences(self, backend: str) -> Sequence[Difference]:
        return self.changed.get(backend, [])

    def approve(self, backend: str, tool: str) -> None:
        if tool != "fetch":
            raise KeyError(tool)
        self.approved.append((backend, tool))
        self.changed.pop(backend, None)


class FakeInstruments:
    def expose(self) -> bytes:
        return b"stockade_backend_up 1\n"


class FakeLink:
    async def status(self) -> Mapping[str, object]:
        return {}


@dataclass
class FakeControl:
    """Implements `gateway.control.base.Control` on a directory of a test."""

    directory: Path
    text: str = CONFIG
    version: str = "1.2.3"
    project: str = "test"
    started: float = 1_700_000_000.0
    urls: Urls = field(
        default_factory=lambda: Urls(endpoint="http://127.0.0.1:8420/mcp", admin="http://127.0.0.1:8421/")
    )
    warnings: Sequence[str] = ("The probe was not run.",)
    ready: Readiness = field(default_factory=lambda: Readiness(state=GatewayState.READY))
    stopped: bool = False
    max_rows: int = 200_000
    on_shutdown: Any = None
    supervisor: Any = field(default_factory=FakeSupervisor)
    endpoint: FakeEndpoint = field(default_factory=FakeEndpoint)
    instruments: FakeInstruments = field(default_factory=FakeInstruments)
    link: FakeLink = field(default_factory=FakeLink)

    def __post_init__(self) -> None:
        self.config_path = self.directory / "stockade.yaml"
        self.config_path.write_text(self.text)
        self.config = load_config(self.config_path)
        self.kept_blocked = KeptBlocked(self.directory / KEPT_FILE)
        self.hub = Hub()
        self.losses = Losses()
        self.history = History(self.directory / "history.db", max_rows=self.max_rows, losses=self.losses)
        self.hub.attach(self.history.record)
        self.hub.attach(self.losses.on_sequenced)

    def close(self) -> None:
        self.hub.close()
        self.history.close()

    def readiness(self) -> Readiness:
        return self.ready

    def surroundings(self) -> Surroundings:
        return Surroundings()

    async def edit(self, change: Change, *, dry_run: bool = False) -> Edited:
        edit = edit_config(self.config_path, change)
        if dry_run or not edit.changed:
            return Edited(diff=edit.diff, applied=False, warnings=edit.worth_knowing)
        apply(edit)
        await self.reload()
        return Edited(diff=edit.diff, applied=True, warnings=edit.worth_knowing)

    async def reload(self) -> None:
        self.config = load_config(self.config_path)

    def shutdown(self) -> None:
        self.stopped = True
        if self.on_shutdown:
            self.on_shutdown()


@asynccontextmanager
async def serving(app: Any, *listeners: Any, limits: Limits | None = None) -> AsyncIterator[HttpServer]:
    """The app on real sockets, in this event loop."""
    server = HttpServer(app, grace_s=1, limits=limits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run_on(*listeners))
        await server.up.wait()
        try:
            yield server
        finally:
            server.stop()


class Running:
    """A control socket with a fake gateway behind it, in a thread of its own, where the CLI looks for it."""

    def __init__(self, control: FakeControl, root: Path, pid: int, pid_started: str) -> None:
        self.control = control
        self.directory = root / control.project
        self._pid = (pid, pid_started)
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def publish(self, event: Any) -> None:
        """An event, from the test's thread."""
        assert self._loop is not None
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (self.control.hub.publish(event), done.set()))
        assert done.wait(60)
        assert self.control.history.flush()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        listener = bind_unix(self.directory / "control.sock")
        async with serving(control_app(self.control), listener):
            self._up.set()
            await self._done.wait()
            self.control.hub.close()
            self.control.supervisor.more.put_nowait(None)

    def __enter__(self) -> Running:
        self.directory.mkdir(parents=True)
        pid, started = self._pid
        urls, config = self.control.urls, str(self.control.config_path.resolve())
        GatewayFile(
            pid=pid, pid_started=started, project=self.control.project, config=config, version="1.2.3",
            started=time.time(), endpoint=urls.endpoint, admin=urls.admin,
        ).write(self.directory / "gateway.json")  # fmt: skip
        self._thread.start()
        assert self._up.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(10)
        self.control.close()


@contextmanager
def gateway_for_cli(root: Path, directory: Path, pid: int, pid_started: str) -> Iterator[Running]:
    """See `Running`."""
    with Running(FakeControl(directory), root, pid, pid_started) as running:
        yield running

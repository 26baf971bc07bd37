"""A supervisor without containers: each instance is a real subprocess with real pipes, or a real port."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gateway.connections import Limits, client_connections, raise_descriptor_limit
from gateway.control.listen import bind_tcp
from gateway.mcp.endpoint import Endpoint
from gateway.runtime.sandbox.errors import BackendUnavailable, StillBuilding
from observability.events import CallEvent, Event
from registry.config import Config
from tests.gateway.control import fakes as control
from tests.gateway.mcp import processes

ROOT = Path(__file__).parents[3]
FIXTURE = (sys.executable, "-m", "tests.fixture_server.server")


def tcp_socket() -> socket.socket:
    """asyncio turns Nagle's algorithm off only where the protocol is named; with it each answer takes 40 ms."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)


class ProcessInstance:
    """One subprocess."""

    def __init__(self, backend: str, session: str, transport: Literal["stdio", "http"]) -> None:
        self.backend = backend
        self.id = f"{backend}/{session}" if session else backend
        self.transport = transport
        self.port: int | None = None
        self.path = "/mcp"
        self.process: asyncio.subprocess.Process | processes.Fork | None = None
        self.errors: list[str] = []
        self.stray: list[str] = []
        self.connections = 0
        self._reading: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def start(self, command: Sequence[str]) -> None:
        self.process = await processes.start(command, piped=self.transport == "stdio")
        self._reading = asyncio.get_running_loop().create_task(self._read_errors())
        if self.transport == "http":
            async with asyncio.timeout(30):
                await self._listening.wait()

    async def _read_errors(self) -> None:
        assert self.process is not None
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            said = line.decode(errors="replace").rstrip()
            self.errors.append(said)
            if said.startswith("listening "):
                self.port = int(said.split()[1])
                self._listening.set()
        self._listening.set()

    @property
    def alive(self) -> bool:
        """Neither ended nor, as a pair's `is_over` says of a container, at the end of its output."""
        if self.process is None or self.process.returncode is not None:
            return False
        return self.process.stdout is None or not self.process.stdout.at_eof()

    async def attach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self.process is not None
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        return self.process.stdout, self.process.stdin

    def take_stray(self, text: str) -> None:
        self.stray.append(text)

    async def connect(self) -> socket.socket:
        if self.port is None or not self.alive:
            raise BackendUnavailable(self.backend, "nothing listens on its port")
        self.connections += 1
        sock = tcp_socket()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except OSError as error:
            sock.close()
            raise BackendUnavailable(self.backend, f"its port refuses: {error}") from error
        except asyncio.CancelledError:
            sock.close()
            raise
        return sock

    async def wait_exit(self) -> Any:
        assert self.process is not None
        await self.process.wait()

    async def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
            if isinstance(self.process, processes.Fork):
                self.process.close()
            elif self.process.stdin is not None:
                self.process.stdin.close()
        if self._reading is not None:
            await self._reading


class FakeSupervisor:
    """Starts a process for each (backend, session), and again when it died."""

    def __init__(self, commands: Mapping[str, Sequence[str]], http: frozenset[str] = frozenset()) -> None:
        self.commands = dict(commands)
        self.http = http
        self.instances: dict[tuple[str, str], ProcessInstance] = {}
        self.started: list[tuple[str, str]] = []
        self.released: list[str] = []
        self.renewed: list[str] = []
        self.refuse: dict[str, str] = {}
        self.builds: dict[str, tuple[float, asyncio.Event]] = {}
        """Backends whose image is being built: since when (Unix time), and until what."""
        self.build_patience_s = 3600.0
        self.unaware = False
        """Has not noticed any process's end."""
        self.asked = 0
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}
        self._ending: list[asyncio.Future[None]] = []

    def building(self, backend: str) -> float:
        since, until = self.builds.get(backend, (0.0, None))
        return 0.0 if until is None or until.is_set() else since

    async def built(self, backend: str) -> None:
        if backend in self.builds:
            await self.builds[backend][1].wait()

    async def instance(self, backend: str, session: str = "") -> ProcessInstance:
        self.asked += 1
        if self.building(backend):
            try:
                async with asyncio.timeout(self.build_patience_s):
                    await self.builds[backend][1].wait()
            except TimeoutError:
                raise StillBuilding(backend, "its image is still being built.") from None
        if backend in self.refuse:
            raise BackendUnavailable(backend, self.refuse[backend])
        key = (backend, session)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self.instances.get(key)
            if known is None or not (known.alive or self.unaware):
                if known is not None:
                    await known.stop()
                known = ProcessInstance(backend, session, "http" if backend in self.http else "stdio")
                starting = asyncio.ensure_future(known.start(self.commands[backend]))
                try:
                    await asyncio.shield(starting)
                except BaseException:  # a caller that gave up leaves no process behind, not even a half started one
                    self._ending.append(asyncio.ensure_future(self._given_up(known, starting)))
                    raise
                self.instances[key] = known
                self.started.append(key)
            return known

    async def release(self, instance_id: str) -> None:
        self.released.append(instance_id)
        for key, known in list(self.instances.items()):
            if known.id == instance_id:
                del self.instances[key]
                await self._end(known)

    async def renew(self, instance_id: str) -> None:
        self.renewed.append(instance_id)
        for known in list(self.instances.values()):
            if known.id == instance_id:
                await self._end(known)

    async def _given_up(self, known: ProcessInstance, starting: asyncio.Future[None]) -> None:
        await asyncio.wait([starting])
        await known.stop()

    async def _end(self, known: ProcessInstance) -> None:
        """Stop it, also if the caller gives up waiting for that."""
        ending = asyncio.ensure_future(known.stop())
        self._ending.append(ending)
        await asyncio.shield(ending)

    async def stop(self) -> None:
        for lock in list(self._locks.values()):  # what is starting has started, or was given up
            async with lock:
                pass
        for known in self.instances.values():
            await known.stop()
        await asyncio.gather(*self._ending)


class FakeBarrier:
    """An egress link that has nothing to tell, until a test says so."""

    def __init__(self) -> None:
        self.waiting = False
        self.settled = 0
        self.on_settle: Any = None

    def pending(self) -> bool:
        return self.waiting

    async def settle(self, timeout_s: float = 0.25) -> None:
        self.settled += 1
        self.waiting = False
        if self.on_settle is not None:
            self.on_settle()


@dataclass
class FakeMeters:
    """Keeps what was observed."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    client_calls: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def observe_call(self, **values: Any) -> None:
        self.calls.append(values)

    def observe_client_call(self, **values: Any) -> None:
        self.client_calls.append(values)

    def session_closed(self, **values: Any) -> None:
        self.sessions.append(values)


@dataclass
class Gateway:
    """A running endpoint and its surroundings."""

    endpoint: Endpoint
    supervisor: FakeSupervisor
    barrier: FakeBarrier
    meters: FakeMeters
    events: list[Event]
    port: int

    def url(self, route: str = "") -> str:
        return f"http://127.0.0.1:{self.port}" + (f"/servers/{route}/mcp" if route else "/mcp")

    def calls(self) -> list[CallEvent]:
        return [event for event in self.events if isinstance(event, CallEvent)]


async def eventually(condition: Callable[[], object], timeout_s: float = 30) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # nothing here could set an event
            await asyncio.sleep(0.01)


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def server(http: bool = False, **more: Any) -> dict[str, Any]:
    """A server's entry in the configuration; the fake supervisor knows the command."""
    return {"image": "fixture", **({"port": 8000} if http else {}), **more}


def config(servers: Mapping[str, Mapping[str, Any]], **more: Any) -> Config:
    return Config.model_validate({"mcpServers": servers, **more})


@contextlib.asynccontextmanager
async def gateway(
    configuration: Config, commands: Mapping[str, Sequence[str]] | None = None, secrets: Any = None, **more: Any
) -> AsyncIterator[Gateway]:
    """An endpoint on a real port, over real processes."""
    http = frozenset(name for name, entry in configuration.servers.items() if entry.transport == "http")
    chosen = {
        name: (commands or {}).get(name) or (*FIXTURE, "--http", "0")
        if name in http
        else (commands or {}).get(name) or FIXTURE
        for name in configuration.servers
    }
    supervisor, barrier, meters, events = FakeSupervisor(chosen, http), FakeBarrier(), FakeMeters(), list[Event]()
    endpoint = Endpoint(supervisor=supervisor, barrier=barrier, emit=events.append, meters=meters, **more)
    endpoint.apply(configuration, secrets)
    async with serving(endpoint.app) as port, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(endpoint.run())
        try:
            yield Gateway(endpoint, supervisor, barrier, meters, events, port)
        finally:
            await endpoint.close(0.5)
            running.cancel()
            await supervisor.stop()


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """An ASGI application on a free port of 127.0.0.1, as the gateway serves its endpoint."""
    listener = bind_tcp("127.0.0.1:0", "gateway.listen")
    async with control.serving(app, listener, limits=Limits(client_connections(raise_descriptor_limit()))):
        yield listener.getsockname()[1]

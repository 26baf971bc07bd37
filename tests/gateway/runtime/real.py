"""A project on the real engine for tests: egress, doors, and backends that do whatever a test tells them.

Everything runs on an event loop in a thread (`anyio`'s blocking portal), so that one project serves all tests of a
module. The rogue backend is a Python program that executes what it is sent over its standard input.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from gateway.runtime.containers.backend_instance import BackendInstance
from gateway.runtime.containers.sandbox import ContainerSandbox
from gateway.runtime.docker.engine import DockerEngine
from gateway.runtime.images.build_settings import gather
from gateway.runtime.images.images import Images
from gateway.runtime.inventory.egress_link import EgressLink
from gateway.runtime.inventory.host import host_listeners
from gateway.runtime.inventory.rundir import RunDirectory
from gateway.runtime.supervise.supervisor import Supervisor
from observability.events import EgressEvent, Event
from registry.config import Config

ROGUE = """
import io, json, sys, traceback, contextlib
env = {}
for line in sys.stdin:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            env["answer"] = None
            exec(json.loads(line), env)
        reply = {"answer": env["answer"], "printed": printed.getvalue()}
    except BaseException as error:
        reply = {"error": f"{type(error).__name__}: {error}", "printed": printed.getvalue()}
    print(json.dumps(reply, default=str), flush=True)
"""


class NoSecrets:
    def resolve(self, values: Mapping[str, str], *, commands: bool = True) -> dict[str, str]:
        return dict(values)


class Yard:
    """One project. `ask` runs code inside a backend."""

    def __init__(self, portal: BlockingPortal, project: str = "", directory: Path | None = None) -> None:
        self.portal = portal
        self.project = project or f"t{secrets.token_hex(4)}"
        self.directory = directory or Path("/tmp") / f"sk-{self.project}"
        self.run_directory = RunDirectory(path=self.directory / "r", persistent=self.directory / "p")
        self.events: list[Event] = []
        self.engine = DockerEngine()
        self.image = ""
        self.streams: dict[str, tuple[BackendInstance, asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self.done: Any = None
        self.sandbox: ContainerSandbox
        self.supervisor: Supervisor
        self.link: EgressLink

    # -- life

    def prepare(self) -> str:
        """The egress's image, which the rogue uses too (it has a Python)."""
        self.image = self.portal.call(Images(self.engine, gather).egress)
        return self.image

    def up(self, servers: Mapping[str, Any], *, probe: bool = False, **more: Any) -> None:
        """Starts the project with these servers."""
        self.portal.call(self.build, probe)
        self.portal.call(self.supervisor.apply, self.config(servers, **more))
        self.done = self.portal.start_task_soon(self.supervisor.run)
        self.portal.call(self.supervisor.wait_begun)

    async def build(self, probe: bool) -> None:
        """The objects of a gateway's runtime, on the portal's loop."""
        self.link = EgressLink(self.run_directory.control, on_event=self.events.append, host_listeners=host_listeners)
        self.sandbox = ContainerSandbox(
            self.engine,
            self.link,
            project=self.project,
            run_directory=self.run_directory,
            images=Images(self.engine, gather),
            secrets=NoSecrets(),
            on_event=self.events.append,
            probe=probe,
        )
        self.supervisor = Supervisor(self.sandbox, self.events.append)

    def config(self, servers: Mapping[str, Any], **more: Any) -> Config:
        """A configuration with these servers."""
        return Config.model_validate({"mcpServers": dict(servers), **more})

    def rogue(self, **more: Any) -> dict[str, Any]:
        """The entry of a backend that does what it is told."""
        return {"image": self.image, "entrypoint": ["python3"], "args": ["-u", "-c", ROGUE], **more}

    def down(self, *, remove: bool = True) -> None:
        """Stops the project; nothing is left unless `remove` is false."""
        if self.done is not None:
            self.portal.call(lambda: self.supervisor.stop(remove=remove))
            self.done.result(timeout=60)
            self.done = None
        self.streams.clear()

    def clear(self) -> None:
        """Takes everything down, whatever a test left."""
        with suppress(Exception):
            self.down()
        self.portal.call(self.engine.close)
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- inside a backend

    def ask(self, code: str, backend: str = "rogue", timeout_s: float = 30, session: str = "") -> Any:
        """Runs code inside a backend; what it left in `answer`. Raises RuntimeError with its error."""
        return self.portal.call(self.ask_inside, textwrap.dedent(code), backend, timeout_s, session)

    async def ask_inside(self, code: str, backend: str, timeout_s: float, session: str = "") -> Any:
        """As `ask`, on the loop."""
        async with asyncio.timeout(timeout_s):
            pair = await self.supervisor.instance(backend, session)
            assert isinstance(pair, BackendInstance)
            reader, writer = await pair.attach()
            writer.write(json.dumps(code).encode() + b"\n")
            line = await reader.readline()
        if not line:
            raise RuntimeError(f"backend {backend} ended")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["answer"]

    # -- looking

    def pair(self, backend: str = "rogue", session: str = "") -> BackendInstance:
        """The running pair of a backend."""
        pair = self.portal.call(self.supervisor.instance, backend, session)
        assert isinstance(pair, BackendInstance)
        return pair

    def egress_events(self, backend: str = "rogue") -> list[EgressEvent]:
        """What the egress said of a backend."""
        return [event for event in self.events if isinstance(event, EgressEvent) and event.backend == backend]

    def until(self, condition: Callable[[], bool], timeout_s: float = 60) -> None:
        """Waits, on this thread, until the condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.02)

    def containers(self) -> list[str]:
        """Every container of this project on the engine."""
        listed = self.portal.call(
            self.engine.call,
            "list containers",
            lambda api: api.containers(all=True, filters={"label": f"stockade.project={self.project}"}),
        )
        return sorted(str(item["Names"][0]).lstrip("/") for item in listed)

    def networks(self) -> list[str]:
        """Every network of this project on the engine."""
        return sorted(n.name for n in self.portal.call(self.engine.networks) if f"-{self.project}-" in n.name)

    def kill(self, container: str) -> None:
        """SIGKILL to a container's processes."""
        self.portal.call(self.engine.kill, container)


@contextmanager
def yard() -> Iterator[Yard]:
    """A project that is not up yet."""
    with start_blocking_portal("asyncio") as portal:
        found = Yard(portal)
        try:
            found.prepare()
            yield found
        finally:
            found.clear()

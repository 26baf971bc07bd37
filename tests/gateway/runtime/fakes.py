"""An engine and an egress link in memory, for tests of what decides when to start, stop and start again."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from egress.doors.states import DoorState
from egress.doors.ticket import Ticket
from gateway.pace import Pace
from gateway.runtime.engine.base import (
    BuildContext,
    Change,
    ContainerChange,
    ContainerInfo,
    ContainerPlan,
    EngineInfo,
    ImageInfo,
    LineSink,
    NetworkInfo,
    NetworkPlan,
)
from gateway.runtime.engine.errors import NameTaken
from gateway.runtime.sandbox.errors import BuildError, EngineError
from gateway.runtime.sandbox.log_ring import LogLine
from observability.events import EgressEvent, NoticeEvent


@dataclass
class FakeContainer:
    """One container."""

    id: str
    plan: ContainerPlan
    running: bool = False
    finished: bool = False
    exit_code: int = 0
    starts: int = 0
    stderr: LineSink | None = None
    attachment: FakeAttachment | None = None


class FakeWriter:
    """Standard input that remembers."""

    def __init__(self) -> None:
        self.written = b""
        self.ended = False

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        return

    def write_eof(self) -> None:
        self.ended = True


class FakeAttachment:
    """Standard streams in memory."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.writer = FakeWriter()
        self.over = asyncio.Event()

    def end(self) -> None:
        """The streams are gone."""
        self.reader.feed_eof()
        self.over.set()

    async def ended(self) -> None:
        await self.over.wait()

    async def close(self) -> None:
        return


@dataclass
class FakeEngine:
    """An engine whose containers run until `die` is called. `log` is every call that changes something, in order."""

    log: list[str] = field(default_factory=list)
    containers: dict[str, FakeContainer] = field(default_factory=dict)
    nets: dict[str, NetworkPlan] = field(default_factory=dict)
    images: dict[str, ImageInfo] = field(default_factory=dict)
    watchers: list[asyncio.Queue[ContainerChange]] = field(default_factory=list)
    inside: dict[str, bytes] = field(default_factory=dict)
    """What every container has at a path, as an archive."""
    exits_at_once: set[str] = field(default_factory=set)
    """Names of containers that end as soon as they start."""
    create_fails: set[str] = field(default_factory=set)
    answers: dict[str, bytes] = field(default_factory=dict)
    """What containers of a name print when they start."""
    given: dict[str, list[bytes]] = field(default_factory=dict)
    """What removed containers of such a name had read, in order."""
    builds_fail: str = ""
    builds_wait: asyncio.Event | None = None
    """What builds of packages wait for."""
    installs: list[ContainerPlan] = field(default_factory=list)
    """The containers in which packages were installed; each ends as soon as it starts."""
    install_exits: int = 0
    identity: str = "ENGINE"
    foreign_users: frozenset[int] = frozenset()
    """Uids of other projects' containers."""
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def info(self) -> EngineInfo:
        return EngineInfo(
            id=self.identity, version="1", api_version="1.41", kernel="k", architecture="x", seccomp=True,
            root_directory="/",
        )  # fmt: skip

    async def image(self, reference: str) -> ImageInfo | None:
        return self.images.get(reference)

    async def pull(self, reference: str, timeout_s: float) -> ImageInfo:
        self.log.append(f"pull {reference}")
        if reference.startswith("missing"):
            raise EngineError(f"Could not pull {reference}: not found")
        return self.add_image(reference)

    def add_image(
        self, reference: str, user: str = "", labels: Mapping[str, str] = MappingProxyType({})
    ) -> ImageInfo:
        info = ImageInfo(id=f"sha256:{reference}", user=user, entrypoint=(), command=(), labels=labels)
        self.images[reference] = info
        return info

    async def tag(self, image: str, reference: str) -> None:
        self.add_image(reference)

    async def import_tree(self, tarball: str, reference: str) -> None:
        self.add_image(reference)

    async def build(self, context: BuildContext, reference: str, on_line: Callable[[str], None]) -> None:
        self.log.append(f"build {reference.partition(':')[0]}")
        if self.builds_fail and self.builds_fail in reference:
            raise BuildError("it went wrong")
        if self.builds_wait is not None and "package-" in reference:
            await self.builds_wait.wait()
        labels = [
            line.removeprefix("LABEL ") for line in context.dockerfile.splitlines() if line.startswith("LABEL ")
        ]
        self.add_image(reference, labels=dict(label.split("=", 1) for label in labels))

    async def remove_image(self, reference: str) -> None:
        self.images.pop(reference, None)

    async def remove_stages(self, label: str, older_than: str = "") -> None:
        return

    async def create(self, plan: ContainerPlan) -> str:
        if any(c.plan.name == plan.name for c in self.containers.values()):
            raise NameTaken(plan.name)
        if plan.name in self.create_fails:
            raise EngineError(f"Could not create {plan.name}")
        self.note("create", plan)
        identity = f"id{next(self.numbers)}"
        self.containers[identity] = FakeContainer(id=identity, plan=plan)
        return identity

    async def start(self, container: str) -> None:
        found = self.containers[container]
        self.note("start", found.plan)
        found.running, found.finished = True, False
        found.starts += 1
        if found.attachment is not None and found.plan.name in self.answers:
            found.attachment.reader.feed_data(self.answers[found.plan.name])
        if found.plan.name in self.exits_at_once:
            self.die(found.plan.name, 3)
        if found.plan.name.startswith("stockade-build-"):
            self.installs.append(found.plan)
            self.die(found.plan.name, self.install_exits, silently=True)

    def note(self, what: str, plan: ContainerPlan) -> None:
        """Logs it, except what is a part of a build."""
        if not plan.name.startswith("stockade-build-"):
            self.log.append(f"{what} {plan.name}")

    def die(self, name: str, code: int = 1, *, silently: bool = False) -> None:
        """Ends a container, as if it crashed; `silently` = the engine's event is lost."""
        found = self.named(name)
        found.running, found.finished, found.exit_code = False, True, code
        if found.attachment is not None:
            found.attachment.end()
        if not silently:
            self.tell(ContainerChange(change=Change.DIED, container=found.id, exit_code=code))

    def tell(self, change: ContainerChange) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(change)

    def named(self, name: str) -> FakeContainer:
        return next(c for c in self.containers.values() if c.plan.name == name)

    def running(self) -> list[str]:
        return sorted(c.plan.name for c in self.containers.values() if c.running)

    async def stop(self, container: str, grace_s: float) -> None:
        if container in self.containers and self.containers[container].running:
            self.log.append(f"stop {self.containers[container].plan.name}")
            self.die(self.containers[container].plan.name, 0)

    async def kill(self, container: str) -> None:
        await self.stop(container, 0)

    async def users(self, project: str) -> frozenset[int]:
        return self.foreign_users

    async def remove(self, container: str) -> None:
        found = self.containers.pop(container, None)
        if found is not None:
            if found.attachment is not None and found.plan.name in self.answers:
                self.given.setdefault(found.plan.name, []).append(found.attachment.writer.written)
            self.note("remove", found.plan)
            self.tell(ContainerChange(change=Change.REMOVED, container=container))

    async def commit(self, container: str, labels: Mapping[str, str]) -> str:
        return self.add_image(f"committed-{container}").id

    async def inspect(self, container: str) -> ContainerInfo | None:
        found = self.containers.get(container) or next(
            (c for c in self.containers.values() if c.plan.name == container), None
        )
        if found is None:
            return None
        return ContainerInfo(
            id=found.id, name=found.plan.name, image_id="", running=found.running, finished=found.finished,
            exit_code=found.exit_code, error="", labels=dict(found.plan.labels), addresses=("127.0.0.1",),
            volumes=tuple((mount.target, mount.source or "anonymous") for mount in found.plan.mounts if mount.volume),
        )  # fmt: skip

    async def bounds_sockets(self, container: str) -> bool:
        return True

    async def archive(self, container: str, path: str, most: int) -> bytes | None:
        return self.inside.get(path, b"")[:most] if path in self.inside else None

    async def logs(self, container: str, tail: int) -> Sequence[LogLine]:
        return []

    async def attach(
        self, container: str, *, stdin: bool, on_line: LineSink, stdout_lines: bool, pace: Pace | None = None
    ) -> FakeAttachment:
        found = self.containers[container]
        self.log.append(f"attach {found.plan.name}")
        attachment = FakeAttachment()
        found.stderr, found.attachment = on_line, attachment
        return attachment

    async def watch(self, labels: Mapping[str, str]) -> AsyncIterator[ContainerChange]:
        queue: asyncio.Queue[ContainerChange] = asyncio.Queue()
        self.watchers.append(queue)
        try:
            yield ContainerChange(change=Change.RESYNC)
            while True:
                yield await queue.get()
        finally:
            self.watchers.remove(queue)

    async def create_network(self, plan: NetworkPlan) -> str:
        self.log.append(f"network {plan.name}")
        self.nets[plan.name] = plan
        return f"net-{plan.name}"

    async def network(self, reference: str) -> NetworkInfo | None:
        name = reference.removeprefix("net-")
        plan = self.nets.get(name)
        if plan is None:
            return None
        return NetworkInfo(id=f"net-{name}", name=name, gateway="172.30.0.1", labels=dict(plan.labels))

    async def networks(self) -> Sequence[NetworkInfo]:
        return []

    async def remove_network(self, reference: str) -> None:
        name = reference.removeprefix("net-")
        self.log.append(f"remove network {name}")
        self.nets.pop(name, None)

    async def close(self) -> None:
        return


@dataclass
class FakeLink:
    """An egress that acknowledges everything."""

    log: list[str] = field(default_factory=list)
    pushes: list[tuple[dict[str, object], dict[str, object]]] = field(default_factory=list)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    on_event: Callable[[EgressEvent | NoticeEvent], None] = lambda event: None
    on_door: Callable[[str, DoorState, str], None] | None = None
    deaf: bool = False
    """Doors never become ready."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait_connected(self, timeout_s: float) -> None:
        return

    async def push_policies(
        self, backends: Mapping[str, Mapping[str, object]], surroundings: Mapping[str, object]
    ) -> int:
        self.log.append(f"push {' '.join(sorted(backends))}".strip())
        self.pushes.append((dict(backends), dict(surroundings)))
        return len(self.pushes)

    async def expect_door(self, ticket: Ticket) -> None:
        self.log.append(f"expect {ticket.door}")
        self.tickets[ticket.door] = ticket

    async def wait_door(self, door: str, timeout_s: float) -> None:
        if self.deaf:
            raise TimeoutError
        self.log.append(f"ready {door}")

    async def drop_door(self, door: str) -> None:
        self.log.append(f"drop {door}")
        self.tickets.pop(door, None)

    async def connect_inside(self, door: str, port: int, timeout_s: float = 5) -> socket.socket:
        here, there = socket.socketpair()
        there.close()
        here.setblocking(False)
        return here

"""What a sandbox of containers needs of an engine: values and small protocols, in no engine's own words.

`docker/engine.py` implements them for Docker; another engine of that kind is another implementation. Everything that
decides (plans, adoption, back-off) works on the values here and can be tested without an engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Protocol

from gateway.pace import Pace
from gateway.runtime.sandbox.log_ring import LogLine

NO_NETWORK = "none"
PROJECT_LABEL = "stockade.project"
USER_LABEL = "stockade.uid"
"""The label with the uid that a container runs as; gateways of other projects read it."""


def inside(container: str) -> str:
    """The `ContainerPlan.network` that means: share this container's network namespace."""
    return f"container:{container}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A file or directory of the engine's machine, seen inside a container."""

    source: str
    """A path there, or a volume's name."""
    target: str
    read_only: bool = True
    volume: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    """Of a volume, for the engine to write on it when it makes it."""
    owner: str = ""
    """`UID:GID` to which a volume belongs with everything in it; empty: it keeps the owners that it has."""
    memory: bool = False
    """A volume without a name (`source` is empty) that is a small tmpfs: it holds something while a container with it runs,
    and goes with the container that it was made with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerPlan:
    """Everything about one container before it exists. No capability and no new privileges unless said here."""

    name: str
    image: str
    command: tuple[str, ...] | None = None
    """None keeps the image's own."""
    entrypoint: tuple[str, ...] | None = None
    """None keeps the image's own; an empty tuple clears it."""
    env: tuple[tuple[str, str], ...] = ()
    user: str = ""
    """Empty keeps the image's own."""
    labels: tuple[tuple[str, str], ...] = ()
    network: str = NO_NETWORK
    """`none`, `container:ID` (see `inside`), or the name of a network of ours."""
    capabilities: tuple[str, ...] = ()
    read_only: bool = True
    tmpfs: tuple[tuple[str, str], ...] = ()
    """(path, mount options)."""
    mounts: tuple[Mount, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    """(name, address) lines of the container's hosts file."""
    memory_bytes: int = 512 * 1024 * 1024
    socket_bytes: int = 0
    """The limit for its socket buffers where the kernel does not count them as memory; 0 = no limit."""
    cpus: float = 0
    """0 = no limit."""
    pids: int = 256
    nofile: int = 4096
    init: bool = True
    stdin: bool = False
    keep_output: bool = True
    """Whether the engine keeps (a bounded amount of) what the container prints."""
    seccomp: str = ""
    """A profile as JSON; empty keeps the engine's default."""
    working_dir: str = ""
    revision: str = ""
    """A hash of mounted content whose change must recreate the container."""

    def fingerprint(self) -> str:
        """A hash of everything about the container except its name, its labels and the namespace it shares."""
        parts = asdict(self)
        for key in ("name", "labels"):
            del parts[key]
        if self.network.startswith("container:"):
            del parts["network"]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """A bridge network of ours."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()
    internal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkInfo:
    """A network as the engine has it."""

    id: str
    name: str
    gateway: str
    """The host's address on it; empty where it has none."""
    subnets: tuple[str, ...] = ()
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """Which engine this is."""

    id: str
    version: str
    api_version: str
    kernel: str
    architecture: str
    seccomp: bool
    root_directory: str
    rootless: bool = False
    maps_users: bool = False
    """Whether the engine maps a container's users to a range of its own outside (userns-remap, rootless)."""
    cgroup: int = 2
    """The cgroup version: 2 counts socket buffers as a container's memory, 1 does not."""
    cgroupfs: bool = False
    """Whether the engine creates cgroups itself, below `/docker`, rather than through systemd."""
    limits_sockets: bool = False
    """Whether it accepts a separate limit for socket buffers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image as the engine has it."""

    id: str
    user: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    labels: Mapping[str, str]
    size_bytes: int = 0
    volumes: tuple[str, ...] = ()
    """Paths that the image declares as volumes."""
    working_dir: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInfo:
    """A container as the engine has it."""

    id: str
    name: str
    image_id: str
    running: bool
    finished: bool
    """It ran and ended (one that never started is neither running nor finished)."""
    exit_code: int
    error: str
    labels: Mapping[str, str]
    addresses: tuple[str, ...] = ()
    pid: int = 0
    out_of_memory: bool = False
    started_at: str = ""
    volumes: tuple[tuple[str, str], ...] = ()
    """(path inside, name) of each volume that it has."""


class Change(StrEnum):
    """What a watcher is told about a container."""

    STARTED = "started"
    DIED = "died"
    REMOVED = "removed"
    RESYNC = "resync"
    """The stream was (re)opened: changes may have been missed, look at everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerChange:
    """One change of a container's state."""

    change: Change
    container: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """What an image is built from."""

    dockerfile: str
    files: Mapping[str, bytes]
    """Path in the context -> content. May hold credentials for a build stage: never stored, never logged."""
    build_args: Mapping[str, str]
    """Proxy settings (the predefined arguments, which the engine keeps out of the image's history)."""


class Attachment(Protocol):
    """A container's standard streams. Standard error goes to the sink that `attach` was given."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ended(self) -> None:
        """Waits until the last byte of output was processed."""
        ...

    async def close(self) -> None: ...


LineSink = Callable[[LogLine], None]


class ContainerEngine(Protocol):
    """Containers. Every method of an engine raises `EngineError` (or a kind of it) and no exception of a library."""

    async def info(self) -> EngineInfo: ...
    async def create(self, plan: ContainerPlan) -> str:
        """Makes a container; its ID. Raises NameTaken."""
        ...

    async def start(self, container: str) -> None:
        """Raises CapabilityRefused or LimitRefused where the engine grants the container less than its plan asks for."""
        ...

    async def stop(self, container: str, grace_s: float) -> None: ...
    async def kill(self, container: str) -> None: ...
    async def remove(self, container: str) -> None: ...
    async def inspect(self, container: str) -> ContainerInfo | None: ...
    async def archive(self, container: str, path: str, most: int) -> bytes | None:
        """The first `most` bytes of a tar archive of a path in a container (running or not); None where there is none."""
        ...

    async def logs(self, container: str, tail: int) -> Sequence[LogLine]: ...
    async def attach(
        self, container: str, *, stdin: bool, on_line: LineSink, stdout_lines: bool, pace: Pace | None = None
    ) -> Attachment: ...
    def watch(self, labels: Mapping[str, str]) -> AsyncIterator[ContainerChange]: ...
    async def users(self, project: str) -> frozenset[int]:
        """The uids that containers of every other project are labelled with."""
        ...

    async def bounds_sockets(self, container: str) -> bool:
        """Whether a limit holds for the buffers of a running container's sockets."""
        ...


class ImageStore(Protocol):
    """Images, and the builder that makes them."""

    async def image(self, reference: str) -> ImageInfo | None: ...
    async def pull(self, reference: str, timeout_s: float) -> ImageInfo: ...
    async def tag(self, image: str, reference: str) -> None: ...
    async def import_tree(self, tarball: str, reference: str) -> None: ...
    async def build(self, context: BuildContext, reference: str, on_line: Callable[[str], None]) -> None: ...
    async def commit(self, container: str, labels: Mapping[str, str]) -> str: ...
    async def remove_image(self, reference: str) -> None: ...
    async def remove_stages(self, label: str, older_than: str = "") -> None: ...


class Networks(Protocol):
    """Networks."""

    async def create_network(self, plan: NetworkPlan) -> str: ...
    async def network(self, reference: str) -> NetworkInfo | None: ...
    async def networks(self) -> Sequence[NetworkInfo]: ...
    async def remove_network(self, reference: str) -> None: ...


class Builder(ContainerEngine, ImageStore, Protocol):
    """What an image build takes: packages are installed in containers of ours."""


class Machinery(ContainerEngine, Networks, Protocol):
    """What `Ownership` records: containers and networks."""


class Engine(ContainerEngine, ImageStore, Networks, Protocol):
    """All three in one connection, as an engine of Docker's kind offers them."""

    host: str
    """Its address, for messages."""

    async def close(self) -> None: ...

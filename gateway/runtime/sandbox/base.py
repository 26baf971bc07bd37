"""The seam between what keeps backends running (`supervise/`) and what runs them (`containers/`): values and protocols.

A `Sandbox` starts a wanted backend behind its egress and returns it as an instance. That there are doors, images,
networks or a container engine at all is known only below this seam. An engine of Docker's kind is a second `Engine`
(`engine/base.py`); an orchestrator is a second `Sandbox` (`docs/adr/0006-the-sandbox-seam.md`).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gateway.runtime.sandbox.log_ring import LogRing
from registry.config import Config
from registry.model.server import Server


def transport_of(server: Server) -> Literal["stdio", "http"]:
    """How the gateway speaks with a server that runs here."""
    return "stdio" if server.transport.value == "stdio" else "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitInfo:
    """How a backend ended."""

    code: int
    detail: str
    """One sentence, with the last lines it printed."""


class Instance(Protocol):
    """One running backend, as the endpoint talks to it."""

    backend: str
    id: str
    """`NAME`, or `NAME/SESSION` for an instance that belongs to one session."""
    transport: Literal["stdio", "http"]
    port: int | None
    path: str

    async def attach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Standard output and standard input of a stdio backend; the same pair each time. EOF when it exits."""
        ...

    def take_stray(self, text: str) -> None:
        """A line on a stdio backend's standard output that is no message: it goes to the log."""
        ...

    async def connect(self) -> socket.socket:
        """A connected, non-blocking socket to the backend's own port. Raises BackendUnavailable."""
        ...

    async def wait_exit(self) -> ExitInfo: ...


class ManagedInstance(Instance, Protocol):
    """An instance as its keeper sees it: incarnation after incarnation, until `stop` or `release`."""

    started_at: float
    """Monotonic time at which the current incarnation began; 0 before the first."""
    uid: int | None
    """The user that it runs as, once known."""
    version: str
    """Of the package that it is made from, as installed; empty where it is made from none, or it is not known."""

    @property
    def user_is_configured(self) -> bool:
        """Whether the configuration names that user."""
        ...

    async def why_late(self) -> str:
        """What is known of why it does not start, in sentences; empty: nothing. `start` has begun and may still run."""
        ...

    @property
    def containers(self) -> Sequence[str]:
        """IDs of what it consists of, the backend's own first."""
        ...

    @property
    def is_running(self) -> bool:
        """Whether an incarnation began and nothing has reported its end."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether this incarnation has ended, or can serve no request, even if its keeper has not acted on it yet."""
        ...

    @property
    def can_restart(self) -> bool:
        """Whether `start` may begin the next incarnation; otherwise `stop` it and prepare another instance."""
        ...

    async def start(self) -> None:
        """Begins the next incarnation. Raises EngineError, PlanError, BackendUnavailable; then call `stop`."""
        ...

    async def wait_end(self) -> str:
        """Waits until this incarnation ends; how it ended, in one sentence."""
        ...

    async def end(self, grace_s: float) -> None:
        """Ends this incarnation, as if it had crashed. Raises EngineError."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Ends and removes everything of this instance; what is gone already is fine. Raises EngineError."""
        ...

    async def release(self) -> None:
        """Lets go of it and leaves it running, for the next gateway to adopt."""
        ...


class Sandbox(Protocol):
    """Runs the backends of one project, isolated. Raises `EngineError`, or a kind of it, where nothing else is said."""

    refusal: str
    """Why isolated backends are not started: a probe escaped. Empty when isolation holds."""
    sees_direct: bool
    """False where connections that ignore the proxy are refused without being recorded."""

    @property
    def egress_environment(self) -> Mapping[str, object]:
        """What was last pushed about this machine and configuration; empty before the first push."""
        ...

    @property
    def is_empty(self) -> bool:
        """Whether nothing of this project is left."""
        ...

    def use(self, config: Config) -> None:
        """Makes this the configuration that everything started from now on follows."""
        ...

    async def open(self, tasks: asyncio.TaskGroup) -> None:
        """Brings up the egress, pushes the policies, and tests the isolation. `tasks` run until `close`."""
        ...

    async def run(self) -> None:
        """Keeps the egress running and its view of this machine current, until cancelled."""
        ...

    async def update_egress(self) -> None:
        """Makes the egress follow the configuration: its policies, settings and joined networks."""
        ...

    def key(self, server: Server) -> str:
        """A hash of what a server's instances are made from: when it changes, they must be replaced."""
        ...

    async def prepare(self, instance: str, server: Server, ring: LogRing) -> ManagedInstance:
        """An instance with its image at hand, not started. Raises BuildError, PlanError, ConfigError too."""
        ...

    def try_again(self, server: Server) -> None:
        """A person wants another try: the next `prepare` builds an image even if that failed before."""
        ...

    def source_state(self, server: Server) -> str:
        """What can be seen of its source now, to be compared; empty: nothing. Reads the disk, bounded; runs in a thread."""
        ...

    async def adopt(self, wanted: Mapping[str, Server], ring: Callable[[str], LogRing]) -> Sequence[ManagedInstance]:
        """Takes over what an earlier gateway left running where it is exactly what is wanted, and removes the rest."""
        ...

    def shared_users(self, instances: Iterable[ManagedInstance]) -> Mapping[str, Sequence[str]]:
        """For each backend that shares its user with another: with which, in sentences."""
        ...

    async def close(self, *, remove: bool) -> None:
        """Ends what `open` began and, with `remove`, removes everything of this project. Stop the instances first."""
        ...

    async def clear(self) -> None:
        """Removes everything of this project, after a run that failed. Errors are ignored."""
        ...

    async def disconnect(self) -> None:
        """Closes the connections to whatever runs the backends. Nothing else may be called afterwards."""
        ...

"""What the REST API needs of a running gateway, as small Protocols.

`gateway/app.py` implements `Control`; tests implement it in memory. Nothing here opens a socket or a file. Where a
collaborator belongs to another part (supervisor, hub, history, …) only the calls that the API makes are named.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from observability.events import EgressEvent, Event, Sequenced

if TYPE_CHECKING:
    from egress.policy.decide import Surroundings
    from gateway.control.keep_blocked import KeptBlocked
    from gateway.runtime.sandbox.log_ring import LogLine
    from gateway.runtime.supervise.status import BackendStatus
    from observability.losses import Losses
    from observability.store import History
    from registry.config import Config
    from registry.edit import Change


@dataclass(frozen=True, slots=True, kw_only=True)
class Urls:
    """Where the gateway listens; empty where that listener is off."""

    endpoint: str
    """`http://127.0.0.1:8420/mcp`."""
    admin: str
    """`http://127.0.0.1:8421/`."""


class GatewayState(StrEnum):
    """How far a gateway has come."""

    STARTING = "starting"
    PREPARING = "preparing"
    """It is making what takes long, such as images; the readiness's detail says what."""
    READY = "ready"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether clients can use the gateway now; if not, `detail` is one sentence that says why."""

    state: GatewayState
    detail: str = ""

    @property
    def ready(self) -> bool:
        return self.state is GatewayState.READY


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """What a change did, or would do, to the configuration file."""

    diff: str
    """Unified diff of the file; empty when nothing changes."""
    applied: bool
    warnings: tuple[str, ...] = ()
    """What the change opens, or does not do, although it may seem to."""


class Backends(Protocol):
    """The supervisor, as far as the API looks."""

    def status(self) -> Sequence[BackendStatus]: ...
    async def restart(self, backend: str) -> None: ...
    def logs(self, backend: str, *, tail: int = 200, follow: bool = False) -> AsyncIterator[LogLine]: ...


class Subscription(Protocol):
    """A reader's place in the stream of events."""

    @property
    def dropped(self) -> int: ...
    def __aiter__(self) -> AsyncIterator[Sequenced]: ...
    def __enter__(self) -> Subscription: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Hub(Protocol):
    """Live events, numbered."""

    @property
    def last_id(self) -> int: ...
    def publish(self, event: Event) -> Sequenced: ...
    def subscribe(
        self, *, since_id: int | None = None, buffer: int = 1000, accept: Callable[[Event], bool] | None = None
    ) -> Subscription: ...
    def recent(self, n: int, accept: Callable[[Event], bool] | None = None) -> Sequence[Sequenced]: ...


class Exposes(Protocol):
    """The instruments, as far as a scrape looks."""

    def expose(self) -> bytes: ...


class Difference(Protocol):
    """A tool whose definition is not the pinned one."""

    @property
    def tool(self) -> str: ...
    @property
    def before(self) -> str: ...
    @property
    def after(self) -> str: ...


class Endpoint(Protocol):
    """The MCP endpoint, as far as the API looks."""

    def tools(self, backend: str) -> Sequence[Mapping[str, Any]]: ...
    def trouble(self, backend: str) -> str: ...
    def refused(self, backend: str) -> Sequence[EgressEvent]: ...
    def flaws(self, backend: str) -> Mapping[str, Sequence[str]]: ...
    def reconnect(self, backend: str) -> None: ...
    def differences(self, backend: str) -> Sequence[Difference]: ...
    def approve(self, backend: str, tool: str) -> None: ...


class Link(Protocol):
    """The egress process, as far as the API looks."""

    async def status(self) -> Mapping[str, object]: ...


class Control(Protocol):
    """A running gateway. Attributes are read at each request, so they may be replaced by a reload."""

    @property
    def config(self) -> Config: ...
    @property
    def config_path(self) -> Path: ...
    @property
    def project(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def started(self) -> float:
        """Unix time in seconds."""
        ...

    @property
    def urls(self) -> Urls: ...
    @property
    def warnings(self) -> Sequence[str]:
        """Warnings about the gateway as a whole, e.g. what the probe found."""
        ...

    @property
    def supervisor(self) -> Backends: ...
    @property
    def hub(self) -> Hub: ...
    @property
    def history(self) -> History: ...
    @property
    def losses(self) -> Losses: ...
    @property
    def kept_blocked(self) -> KeptBlocked: ...
    @property
    def instruments(self) -> Exposes: ...
    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def link(self) -> Link: ...

    def readiness(self) -> Readiness: ...

    def surroundings(self) -> Surroundings:
        """The same surroundings that the egress was pushed; `explain` decides with them."""
        ...

    async def edit(self, change: Change, *, dry_run: bool = False) -> Edited:
        """Change the configuration file (comments kept, validated first) and apply it at once.

        Raises registry.config.ConfigError when the result would not load, KeyError for an unknown backend or
        client, and OSError when the file cannot be written.
        """
        ...

    async def reload(self) -> None:
        """Read the file again and apply it. Raises ConfigError; the old configuration then stays."""
        ...

    def shutdown(self) -> None:
        """Begin to stop and remove everything that runs. Returns at once; the process ends when all is gone."""
        ...

"""How an installation reaches the network: through the egress, by a policy of its own. How is not known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.runtime.images.build_settings import BuildSettings

HostEntry = str | Mapping[str, Any]
"""As in `allowed_hosts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A connection that an installation was refused."""

    sentence: str
    """What was refused, and what would allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """An open way out, for the containers of one installation."""

    network: str
    """As in `ContainerPlan.network`."""
    proxies: Mapping[str, str]
    """The proxy variables of what runs there."""
    refused: Callable[[], Sequence[Refused]]
    """What was refused so far, each host once."""


class Wall(Protocol):
    """Opens ways out for the installations of one server."""

    @property
    def hosts(self) -> Sequence[HostEntry]:
        """What the server's `build` allows besides the registries."""
        ...

    def open(self, hosts: Sequence[HostEntry], settings: BuildSettings) -> AbstractAsyncContextManager[Way]:
        """A way to these hosts and no others, until the context ends. Raises EngineError."""
        ...


@dataclass(frozen=True, slots=True)
class NoWall:
    """The engine's ordinary network, with this machine's proxies: for what installs nothing of strangers (tests)."""

    hosts: Sequence[HostEntry] = ()

    def open(self, hosts: Sequence[HostEntry], settings: BuildSettings) -> AbstractAsyncContextManager[Way]:
        return nullcontext(Way(network="bridge", proxies=settings.proxies, refused=lambda: ()))


NO_WALL: Final = NoWall()

"""Installations stand behind a door, like servers: their backend at the egress is `build:NAME`, and its policy allows the
registries and what the server's `build` names. What they connect to is seen and recorded like everything else.

Where this machine reaches the registries through a proxy (HTTPS_PROXY) and the configuration names no `upstream_proxy`, the
egress uses that one for installations; they never see it, nor a password in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from egress.policy.addresses import AddressClass, classify
from egress.policy.parent_proxy import ParentProxy
from egress.policy.remedy import refused
from gateway.runtime.containers.door import Door
from gateway.runtime.containers.policies import Policies
from gateway.runtime.engine.base import inside
from gateway.runtime.images.build_settings import BuildSettings
from gateway.runtime.images.stages import housekeeping
from gateway.runtime.images.wall import HostEntry, Refused, Way
from gateway.runtime.inventory.context import RuntimeContext
from gateway.runtime.plan.environment import proxy_variables
from gateway.runtime.sandbox.errors import BuildError
from observability.events import Decision, EgressEvent, NoticeEvent
from registry.model.build import BUILD

PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
MOST_REFUSED: Final = 20
OPENED: Final = frozenset((AddressClass.RESERVED,))
"""What a rule for an address opens and `private: true` does not. Loopback, link-local and metadata stay closed."""


class BuildWalls:
    """The ways out of one project's installations."""

    def __init__(
        self,
        context: RuntimeContext,
        policies: Policies,
        push: Callable[[], Awaitable[None]],
        has_upstream: Callable[[], bool],
    ) -> None:
        """`push` makes the egress hold the policies; `has_upstream`: the configuration names an upstream proxy."""
        self.context = context
        self.policies = policies
        self.push = push
        self.has_upstream = has_upstream
        self.turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.refused: dict[str, dict[str, Refused]] = {}
        """Backend at the egress -> what it was refused, by host and port; of the installations under way."""

    def of(self, server: str, hosts: Sequence[HostEntry]) -> BuildWall:
        """The wall around one server's installations; `hosts`: what its `build` allows."""
        return BuildWall(self, f"{BUILD}{server}", hosts)

    def note(self, event: EgressEvent | NoticeEvent) -> None:
        """An event of the egress: what an installation was refused is told with its failure."""
        if not isinstance(event, EgressEvent) or event.decision is not Decision.DENY:
            return
        found = self.refused.get(event.backend)
        place, advice = refused(event)
        named = event.host or event.destination
        if found is not None and named and place not in found and len(found) < MOST_REFUSED:
            found[place] = Refused(sentence=f"It was refused {place} ({event.reason}).{advice}")

    @contextlib.asynccontextmanager
    async def open(
        self, name: str, registries: Sequence[HostEntry], more: Sequence[HostEntry], settings: BuildSettings
    ) -> AsyncIterator[Way]:
        """A door with that policy, until the end. Raises EngineError, BuildError."""
        special = await asyncio.to_thread(special_addresses, registries)
        own = None if self.has_upstream() else upstream(settings.for_download.proxies)
        async with self.turns[name]:
            door = Door(name, name, frozenset({80, 443}), self.context)
            self.policies.extra[name] = {"allowed_hosts": [*registries, *special, *more]}
            if own is not None:
                self.policies.own_proxies[name] = own
            seen = self.refused[name] = {}
            try:
                await self.push()
                await door.start()
                yield Way(
                    network=inside(door.container),
                    proxies=proxy_variables(),
                    refused=lambda: tuple(seen.values()),
                )
            finally:
                del self.refused[name]
                self.policies.own_proxies.pop(name, None)
                del self.policies.extra[name]
                with housekeeping(f"the door of {name}"):
                    await door.stop()
                with contextlib.suppress(Exception):  # the refresh pushes the same, half a minute later at most
                    await self.push()


@dataclass(frozen=True, slots=True)
class BuildWall:
    """One server's (the `Wall` protocol)."""

    walls: BuildWalls
    name: str
    hosts: Sequence[HostEntry]

    def open(self, hosts: Sequence[HostEntry], settings: BuildSettings) -> AbstractAsyncContextManager[Way]:
        return self.walls.open(self.name, hosts, self.hosts, settings)


def special_addresses(registries: Sequence[HostEntry]) -> list[HostEntry]:
    """Rules for the addresses of registries that no host's rule opens: companies resolve their names to proxies of their
    own, also in ranges that are reserved. This machine's resolver is asked, since it is this machine that uses them."""
    found: dict[str, HostEntry] = {}
    for entry in registries:
        if not isinstance(entry, Mapping) or not entry.get("private"):
            continue
        host, port = str(entry["host"]), int(entry["port"])
        with contextlib.suppress(OSError, UnicodeError):
            for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                kind = classify(ipaddress.ip_address(str(address[0])))
                if kind in OPENED:
                    found[f"{address[0]} {port}"] = {"host": str(address[0]), "port": port}
    return list(found.values())


def upstream(proxies: Mapping[str, str]) -> dict[str, object] | None:
    """The proxy of this machine's environment as the egress takes it; None where there is none. Raises BuildError."""
    variable, url = next(((name, proxies[name]) for name in PROXIES if proxies.get(name)), ("", ""))
    if not url:
        return None
    no_proxy = [entry.strip() for entry in proxies.get("NO_PROXY", "").split(",") if entry.strip()]
    try:
        ParentProxy.parse(url, no_proxy)
    except ValueError as error:
        raise BuildError(
            f"Images are built through the egress, which cannot use this machine's proxy ({variable}): {error}. Name "
            "one that it can use: upstream_proxy, under egress."
        ) from None
    return {"upstream_proxy": url, "no_proxy": no_proxy}

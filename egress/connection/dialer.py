"""From a target to a connection: decide by name, look up, decide by address, dial exactly that address.

The order is the point. A name that the policy denies is never looked up (a lookup is a message to the outside).
Every answer is checked. What is dialled is the address that was checked, never the name again, so an answer that
changes between check and use (DNS rebinding) has no effect.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from egress.connection.backend import Backend, Route, Source
from egress.connection.parent import connect_through, dial_parent
from egress.connection.steps import Refusal
from egress.journal.attempt import Attempt
from egress.net.dial_error import DialError
from egress.net.poller import Poller, Pollers
from egress.net.resolver import ResolveError, Resolver
from egress.net.stream import Stream
from egress.net.upstream import CONNECT_TIMEOUT_S, dial
from egress.policy.addresses import AddressClass, classify
from egress.policy.decide import Allow, Deny, Surroundings, Target
from egress.policy.names import IP, text_of
from egress.policy.parent_proxy import ParentProxy
from observability.events import Reason

HOST_NAME = "host.docker.internal"
MAX_TRIES = 3
PARENT_LOOKUP_S = 2.0
NOT_DIALLED = DialError(Reason.CONNECT_FAILED, "no address was dialled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """An open connection to the target."""

    stream: Stream
    verdict: Allow
    address: IP | None
    """None when a parent proxy looked the name up."""
    parent: ParentProxy | None = None
    """The parent proxy that the stream leads to, when it still wants an absolute-form request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A connection that an earlier request of the same client left open for another one."""

    target: Target
    address: IP | None
    stream: Stream
    parent: ParentProxy | None = None
    """The parent proxy that it leads to."""

    def fits(self, target: Target, address: IP | None, parent: ParentProxy | None = None, network: str = "") -> bool:
        """Whether a request for `target`, decided to go to `address` (through `parent`, or on a joined `network`), may
        use it: same name, port, address and way, and nothing came that was not asked for."""
        if self.stream.buffer or self.stream.eof or self.parent != parent or self.stream.network != network:
            return False
        return (self.target.host, self.target.port, self.address) == (target.host, target.port, address)


class Networks(Protocol):
    """The networks that backends join, each with a connector on it."""

    async def resolve(self, network: str, host: str) -> tuple[IP, ...]:
        """Addresses by that network's DNS; none when it does not know the name or no connector stands there."""

    async def dial(self, poller: Poller, network: str, address: IP, port: int) -> Stream:
        """A connection made on that network, watched by `poller`. Raises DialError."""


class NoNetworks:
    """No network is joined."""

    async def resolve(self, network: str, host: str) -> tuple[IP, ...]:
        return ()

    async def dial(self, poller: Poller, network: str, address: IP, port: int) -> Stream:
        raise DialError(Reason.CONNECT_FAILED, f"no connector stands on {network}")


async def unknown_listeners(port: int) -> str:
    """The answer where the host's ports are not known."""
    return "unknown"


class Dialer:
    """Opens connections to targets: directly, through a parent proxy, or on a joined network."""

    def __init__(
        self,
        resolver: Resolver,
        surroundings: Surroundings,
        *,
        parent: ParentProxy | None = None,
        networks: Networks | None = None,
        pollers: Pollers,
        ask_host_port: Callable[[int], Awaitable[str]] = unknown_listeners,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.resolver = resolver
        self.surroundings = surroundings
        self.pollers = pollers
        self.parent = parent
        self.parents: Mapping[str, ParentProxy] = {}
        """By backend, instead of `parent`."""
        self.networks: Networks = networks or NoNetworks()
        self.ask_host_port = ask_host_port
        self.connect_timeout_s = connect_timeout_s

    @classmethod
    def unconfigured(cls, resolver: Resolver, pollers: Pollers) -> Dialer:
        """One that knows nothing of its surroundings yet; the gateway's first message sets them."""
        return cls(resolver, Surroundings(), pollers=pollers)

    async def open(
        self,
        source: Source,
        target: Target,
        attempt: Attempt,
        *,
        plain: bool = False,
        only: IP | None = None,
        network: str = "",
        kept: Kept | None = None,
        failed: tuple[IP, DialError] | None = None,
    ) -> Reached | Refusal:
        """Connect `source` to `target`, filling in the attempt.

        `plain`: the caller will speak plain HTTP, so a parent proxy is left to be spoken to in absolute form.
        `kept`: used instead of a new connection when it leads to the address that this request was decided for.
        `only`: connect to this address, which was answered to the caller before (by the DNS of a joined `network`, or
        by the usual one); it is checked like any other.
        `failed`: this address was dialled already, and how it went.
        """
        backend = source.backend
        policy = backend.policy
        by_name = backend.decisions.name(target, self.surroundings)
        if isinstance(by_name, Deny):
            return refuse(backend, attempt, by_name)
        source.note_allow(attempt, by_name)
        parent = self.parent_for(backend, target)
        if parent is not None and not network and not await self.is_joined(backend, target):
            reached = await self.through_parent(backend, target, attempt, parent, plain=plain, kept=kept)
        else:
            reached = await self.direct(source, target, attempt, only, network, kept, failed)
        if isinstance(reached, Reached) and backend.policy is not policy:
            return self.still_allowed(backend, target, reached)
        return reached

    def parent_for(self, backend: Backend, target: Target) -> ParentProxy | None:
        """The parent proxy for that target; never for the host itself or an address that the operator wrote down."""
        parent = self.parents.get(backend.name, self.parent)
        if parent is None or target.host == HOST_NAME:
            return None
        if (target.host, target.port) in self.surroundings.overrides:
            return None
        return parent if parent.carries(target.host, target.port, target.ip) else None

    def still_allowed(self, backend: Backend, target: Target, reached: Reached) -> Reached | Refusal:
        """The policy changed while we dialled: what is not allowed any more does not begin."""
        verdict = self.recheck(backend, target, reached.address, reached.stream.network)
        if isinstance(verdict, Allow):
            return reached
        reached.stream.abort()
        return Refusal(reason=Reason.POLICY_REVOKED, detail="the policy changed meanwhile", denied=True)

    def recheck(self, backend: Backend, target: Target, address: IP | None, network: str = "") -> Allow | Deny:
        """Whether the policy that holds now allows a connection that exists (on a joined `network`)."""
        if network and network not in backend.policy.join:
            return Deny(reason=Reason.POLICY_REVOKED, detail=f"{network} is not joined any more")
        if address is None:
            return backend.decisions.name(target, self.surroundings)
        verdict = backend.decisions.name(target, self.surroundings)
        if isinstance(verdict, Deny):
            return verdict
        return backend.decisions.address(target, (address,), self.surroundings)

    def at_hand(self, backend: Backend, target: Target) -> Route | None:
        """The address that `open` would dial first, and why; None where it would refuse, or has to wait."""
        if (self.parent is not None or self.parents) and self.parent_for(backend, target) is not None:
            return None
        around = self.surroundings
        addresses = (target.ip,) if target.ip is not None else around.overrides.get((target.host, target.port))
        if not addresses:
            if target.host == HOST_NAME or backend.policy.join:
                return None
            addresses = self.resolver.known(target.host)
            if not addresses:
                return None
        return backend.decisions.route(target, addresses, around)

    async def direct(
        self,
        source: Source,
        target: Target,
        attempt: Attempt,
        only: IP | None,
        network: str,
        kept: Kept | None,
        failed: tuple[IP, DialError] | None,
    ) -> Reached | Refusal:
        """Look up, check every answer, dial."""
        addresses: Sequence[IP]
        if only is not None:
            addresses = (only,)
        elif target.ip is not None:
            addresses = (target.ip,)
        else:
            found = await self.look_up(source.backend, target, attempt)
            if isinstance(found, Refusal):
                return found
            addresses, network = found
        return await self.dial_checked(source, target, attempt, addresses, network, kept, failed)

    async def look_up(self, backend: Backend, target: Target, attempt: Attempt) -> tuple[Sequence[IP], str] | Refusal:
        """All addresses of the target's name, and the joined network that knows it (or empty)."""
        override = self.surroundings.overrides.get((target.host, target.port))
        if override:
            return override, ""
        if target.host == HOST_NAME:
            gateway = self.surroundings.host_gateway
            if gateway is None:
                detail = f"{HOST_NAME} is not known here: the gateway named no address for it"
                return Refusal(reason=Reason.DNS_FAILED, detail=detail, denied=False)
            return (gateway,), ""
        if not backend.may_look_up(target.host):
            return Refusal(reason=Reason.LIMIT_DNS, detail=too_many_lookups(backend), denied=True)
        started = time.monotonic()
        try:
            with backend.looking_up(target.host):
                joined = await self.look_up_joined(backend, target)
                return joined or (await self.resolver.resolve(target.host), "")
        except ResolveError as error:
            return Refusal(reason=Reason.DNS_FAILED, detail=str(error), denied=False)
        finally:
            attempt.dns_s = time.monotonic() - started

    async def look_up_joined(self, backend: Backend, target: Target) -> tuple[Sequence[IP], str] | None:
        """The target's addresses on the joined network that knows it."""
        for network in backend.policy.join:
            known = await self.networks.resolve(network, target.host)
            # An engine's DNS asks the outside for what it does not know: a public name is none of that network's.
            if any(classify(address) is not AddressClass.PUBLIC for address in known):
                return known, network
        return None

    async def is_joined(self, backend: Backend, target: Target) -> bool:
        """Whether a joined network knows the target, where no parent proxy gets."""
        if target.ip is not None or not backend.policy.join or not backend.may_look_up(target.host):
            return False
        with backend.looking_up(target.host):
            return await self.look_up_joined(backend, target) is not None

    async def dial_checked(
        self,
        source: Source,
        target: Target,
        attempt: Attempt,
        addresses: Sequence[IP],
        network: str,
        kept: Kept | None,
        tried: tuple[IP, DialError] | None,
    ) -> Reached | Refusal:
        """Dial the address that the policy picks of `addresses`; the next one when it does not answer."""
        left = list(addresses)
        failed: DialError | None = None
        for _ in range(MAX_TRIES):
            verdict = source.backend.decisions.address(target, tuple(left), self.surroundings)
            if isinstance(verdict, Deny):
                if failed is not None:
                    break
                attempt.address = str(addresses[0]) if addresses else ""
                return refuse(source.backend, attempt, verdict)
            address = verdict.address
            if address is None:  # an allow decision for addresses names one; without it nothing is dialled
                break
            source.note_allow(attempt, verdict)
            attempt.address = text_of(address)
            if kept is not None and kept.fits(target, address, network=network):
                return Reached(stream=kept.stream, verdict=verdict, address=address)
            started = time.monotonic()
            try:
                if tried is not None and tried[0] == address:
                    raise tried[1]
                stream = await self.dial(source.backend.poller, network, address, target.port)
            except DialError as error:
                failed = error
                left.remove(address)
                if not left:
                    break
                continue
            attempt.connect_s = time.monotonic() - started
            return Reached(stream=stream, verdict=verdict, address=address)
        return await self.explain_failure(target, failed or NOT_DIALLED)

    async def dial(self, poller: Poller, network: str, address: IP, port: int) -> Stream:
        if network:
            stream = await self.networks.dial(poller, network, address, port)
            stream.network = network
            return stream
        return await dial(poller, address, port, self.connect_timeout_s)

    async def explain_failure(self, target: Target, failed: DialError) -> Refusal:
        """The refusal for a connection that could not be made."""
        if target.host == HOST_NAME and failed.code == errno.ECONNREFUSED:
            if await self.ask_host_port(target.port) == "loopback":
                detail = (
                    f"the host's service on port {target.port} listens on 127.0.0.1 only, where no container gets; "
                    f"make it listen on 0.0.0.0 or on {self.surroundings.host_gateway}, port {target.port}"
                )
                return Refusal(reason=Reason.HOST_LOOPBACK_ONLY, detail=detail, denied=False)
        return Refusal(reason=failed.reason, detail=failed.detail, denied=False)

    async def through_parent(
        self,
        backend: Backend,
        target: Target,
        attempt: Attempt,
        parent: ParentProxy,
        *,
        plain: bool,
        kept: Kept | None,
    ) -> Reached | Refusal:
        """Connect through the parent proxy, which gets the name: behind it we often cannot look names up at all.

        When we can, the answers are checked all the same, so a name that leads inside is denied here.
        """
        verdict = await self.check_for_parent(backend, target)
        if isinstance(verdict, Deny):
            return refuse(backend, attempt, verdict)
        if plain and kept is not None and kept.fits(target, target.ip, parent):
            return Reached(stream=kept.stream, verdict=verdict, address=target.ip, parent=parent)
        started = time.monotonic()
        try:
            stream = await dial_parent(backend.poller, parent, self.resolver.resolve)
            if not plain:
                host = f"[{target.host}]" if ":" in target.host else target.host
                await connect_through(stream, f"{host}:{target.port}", parent)
        except DialError as error:
            return Refusal(reason=error.reason, detail=error.detail, denied=False)
        except ResolveError as error:
            return Refusal(reason=Reason.UPSTREAM_PROXY_FAILED, detail=f"upstream proxy: {error}", denied=False)
        attempt.connect_s = time.monotonic() - started
        return Reached(stream=stream, verdict=verdict, address=target.ip, parent=parent if plain else None)

    async def check_for_parent(self, backend: Backend, target: Target) -> Allow | Deny:
        by_name = backend.decisions.name(target, self.surroundings)
        if isinstance(by_name, Deny):
            return by_name
        if target.ip is not None:
            return backend.decisions.address(target, (target.ip,), self.surroundings)
        if not backend.may_look_up(target.host):
            return Deny(reason=Reason.LIMIT_DNS, detail=too_many_lookups(backend))
        try:
            with backend.looking_up(target.host):
                async with asyncio.timeout(PARENT_LOOKUP_S):
                    addresses = await self.resolver.resolve(target.host)
        except (ResolveError, TimeoutError):
            return by_name
        return backend.decisions.address(target, tuple(addresses), self.surroundings)


def too_many_lookups(backend: Backend) -> str:
    return f"{backend.lookups} lookups of this server are under way already"


def refuse(backend: Backend, attempt: Attempt, verdict: Deny) -> Refusal:
    """A refusal for a decision of the policy; the attempt gets its rule."""
    attempt.rule_port = backend.decisions.rule_port(verdict.rule, attempt.port)
    if verdict.rule is not None:
        attempt.rule = verdict.rule.text
    return Refusal(reason=verdict.reason, detail=verdict.detail, denied=True)

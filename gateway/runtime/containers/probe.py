"""Does isolation hold on this engine? Tested, not assumed.

A throw-away container behind a door sends a nonce to listeners of ours on every address of this machine, by
every way that a program without privileges has (`probe_script.py`). What counts is what arrives. The same container
on an ordinary network is the positive control: when nothing arrives from there either, the probe saw nothing,
and that is a failure too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

from egress.net.interfaces import interface_addresses
from gateway.runtime.containers.door import Door
from gateway.runtime.engine.base import ContainerPlan, NetworkPlan, inside
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Role
from gateway.runtime.inventory.users import PROBE
from gateway.runtime.plan.plans import MIB
from gateway.runtime.sandbox.errors import BackendUnavailable, EngineError
from gateway.runtime.sandbox.log_ring import LogRing

logger = logging.getLogger(__name__)

PROBE_BACKEND: Final = "_probe"
"""The backend's name in the policies and events of a probe; no configuration can have it."""
CONNECT_LIMIT_S: Final = 1.5
RUN_TIMEOUT_S: Final = 30.0
ARRIVAL_S: Final = 0.3
"""How long packets may still be in flight on this machine after the container ended."""


class ProbeListeners(asyncio.DatagramProtocol):
    """Listeners on every address of this machine; collects what carries the nonce."""

    def __init__(self) -> None:
        self.nonce = secrets.token_hex(16)
        self.heard: set[str] = set()
        self.tcp_port = 0
        self.udp_port = 0

    def take(self, data: bytes) -> None:
        """One message; `NONCE udp WAY TARGET`."""
        text = data[:500].decode(errors="replace").strip()
        if text.startswith(self.nonce):
            self.heard.add(text.removeprefix(self.nonce).strip())

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """One datagram."""
        self.take(data)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection."""
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(2):
                self.take(await reader.readline())
        writer.close()


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[ProbeListeners]:
    """Listeners on TCP and UDP, IPv4 and (where there is one) IPv6."""
    listeners = ProbeListeners()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                tcp = bound(family, socket.SOCK_STREAM, listeners.tcp_port)
                udp = bound(family, socket.SOCK_DGRAM, listeners.udp_port)
            except OSError:
                continue
            listeners.tcp_port, listeners.udp_port = tcp.getsockname()[1], udp.getsockname()[1]
            server = await asyncio.start_server(listeners.connected, sock=tcp)
            stack.push_async_callback(close_server, server)
            transport, _ = await loop.create_datagram_endpoint(lambda: listeners, sock=udp)
            stack.callback(transport.close)
        yield listeners


def bound(family: int, kind: int, port: int) -> socket.socket:
    """A socket on every address of a family; port 0 is any."""
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104  # every address is the point
    return sock


async def close_server(server: asyncio.Server) -> None:
    """Closes a server and waits for that."""
    server.close()
    await server.wait_closed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one throw-away container achieved."""

    heard: frozenset[str]
    """`udp plain 192.0.2.2`: what arrived."""
    report: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    """Why it did not run to its end."""


REFUSED: Final = "Isolated servers are not started."


def verdict(control: Attempt, door: Attempt) -> str:
    """Why isolation cannot be relied on, with the next step; empty when it holds."""
    if door.problem:
        return f"The isolation probe did not run behind its door: {door.problem} {REFUSED}"
    if door.heard:
        ways = ", ".join(sorted(door.heard)[:5])
        return (
            f"Isolation does not hold on this engine: a container behind a door reached this machine ({ways}). "
            f"{REFUSED} Run `stockade doctor`; use a Linux engine whose `--network none` is empty."
        )
    if control.problem:
        return f"The isolation probe's positive control did not run: {control.problem} {REFUSED}"
    kinds = {way.split()[0] for way in control.heard}
    if missing := {"tcp", "udp"} - kinds:
        return (
            "The isolation probe cannot tell anything: even a container on an ordinary network did not reach "
            f"this machine by {' or '.join(sorted(missing))}, so silence proves nothing. {REFUSED} A firewall here "
            "probably drops what containers send to the host: allow it from the bridges (`ufw allow in on docker0`, "
            "and on br-*). The engine must run on this machine."
        )
    return ""


class Probe:
    """Runs throw-away containers of one project, one at a time."""

    def __init__(self, context: RuntimeContext, image: str) -> None:
        self.context = context
        self.image = image

    async def behind_door(self, listeners: ProbeListeners) -> Attempt:
        """One attempt behind a door (its policy, which allows nothing, is at the egress)."""
        door = Door(PROBE_BACKEND, PROBE_BACKEND, frozenset({80, 443}), self.context)
        try:
            await door.start()
            return await self.run(listeners, inside(door.container), targets_now())
        except (EngineError, BackendUnavailable, OSError) as error:
            return Attempt(heard=frozenset(listeners.heard), problem=str(error))
        finally:
            await door.stop()

    async def on_network(self, listeners: ProbeListeners, *, internal: bool = False) -> Attempt:
        """One attempt on a network that is made for it."""
        name = self.context.names.network(PROBE_BACKEND)
        plan = NetworkPlan(name=name, labels=self.context.names.labels("probe-network"), internal=internal)
        try:
            network = await self.context.ownership.create_network(plan, owned(name, Role.PROBE_NETWORK))
            targets = [*targets_now(), *([network.gateway] if network.gateway else [])]
            return await self.run(listeners, name, sorted(set(targets)))
        except (EngineError, OSError) as error:
            return Attempt(heard=frozenset(listeners.heard), problem=str(error))
        finally:
            await self.context.ownership.tidy(name)

    async def run(self, listeners: ProbeListeners, network: str, targets: list[str]) -> Attempt:
        """Runs the container to its end, then waits a moment for packets in flight."""
        plan = probe_plan(self.context, self.image, network, listeners, targets, await self.context.users.of(PROBE))
        printed = LogRing()
        container = await self.context.ownership.create(plan, owned(plan.name, Role.PROBE))
        try:
            attachment = await self.context.engine.attach(
                container, stdin=False, on_line=printed.add, stdout_lines=True
            )
            try:
                ended = await start_watched(self.context.engine, self.context.exits, container)
                async with asyncio.timeout(RUN_TIMEOUT_S):
                    code = await asyncio.shield(ended)
                    await attachment.reader.read()
            finally:
                await attachment.close()
            await asyncio.sleep(ARRIVAL_S)
            return finished(listeners, code, [line.text for line in printed.tail(20)])
        except TimeoutError:
            return Attempt(heard=frozenset(listeners.heard), problem=f"It did not end within {RUN_TIMEOUT_S:g} s.")
        finally:
            await self.context.ownership.tidy(plan.name)
            self.context.exits.forget(container)


def finished(listeners: ProbeListeners, code: int, printed: list[str]) -> Attempt:
    """The outcome of an attempt that ran to its end."""
    heard = frozenset(listeners.heard)
    if code != 0:
        return Attempt(heard=heard, problem=f"It ended with code {code}: {' / '.join(printed[-3:])}.")
    try:
        return Attempt(heard=heard, report=json.loads(printed[-1]))
    except (ValueError, IndexError):
        return Attempt(heard=heard, problem="It printed no report.")


def probe_plan(
    context: RuntimeContext, image: str, network: str, listeners: ProbeListeners, targets: list[str], uid: int
) -> ContainerPlan:
    """The throw-away container: like a backend's, except for its program."""
    addresses = [ipaddress.ip_address(target) for target in targets]
    order = {
        "nonce": listeners.nonce,
        "tcp": listeners.tcp_port,
        "udp": listeners.udp_port,
        "targets": [str(a) for a in addresses if not (a.version == 6 and a.is_link_local)],
        "link_local": [str(a) for a in addresses if a.version == 6 and a.is_link_local],
        "limit_s": CONNECT_LIMIT_S,
    }
    return ContainerPlan(
        name=context.names.backend(PROBE_BACKEND),
        image=image,
        command=("python3", "-c", files("gateway.runtime.containers").joinpath("probe_script.py").read_text()),
        env=(("STOCKADE_PROBE", json.dumps(order)),),
        user=f"{uid}:{uid}",
        labels=context.names.labels("probe", uid=uid),
        network=network,
        memory_bytes=128 * MIB,
        socket_bytes=128 * MIB,
        seccomp=backend_profile(),
    )


def idle_plan(context: RuntimeContext, image: str, uid: int) -> ContainerPlan:
    """A container with a backend's limits that idles while its limits are examined."""
    return ContainerPlan(
        name=context.names.backend(PROBE_BACKEND),
        image=image,
        command=("sleep", str(RUN_TIMEOUT_S)),
        user=f"{uid}:{uid}",
        labels=context.names.labels("probe", uid=uid),
        memory_bytes=64 * MIB,
        socket_bytes=64 * MIB,
        seccomp=backend_profile(),
    )


def targets_now() -> list[str]:
    """Every address of this machine."""
    return sorted(str(address) for address in interface_addresses())

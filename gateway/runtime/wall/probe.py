"""Does the wall hold on this engine? Tried, not assumed.

A throw-away container behind a door sends a nonce to listeners of ours on every address of this machine, by
every way that a program without privileges has (`probe_script.py`). What counts is what arrives. The same container
on an ordinary network is the positive control: when nothing arrives from there either, the probe saw nothing,
and that is a failure too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from egress.net.interfaces import interface_addresses
from gateway.runtime.engine.base import ContainerPlan, EngineInfo, NetworkPlan, inside
from gateway.runtime.engine.errors import BackendUnavailable, EngineError
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.inventory.context import Tools, owned, start_watched
from gateway.runtime.inventory.logring import LogRing
from gateway.runtime.inventory.record import Role
from gateway.runtime.inventory.users import PROBE
from gateway.runtime.plan.plans import MIB
from gateway.runtime.wall.door import Door

logger = logging.getLogger(__name__)

PROBE_BACKEND: Final = "_probe"
"""The backend's name in the policies and events of a probe; no configuration can have it."""
CONNECT_LIMIT_S: Final = 1.5
RUN_TIMEOUT_S: Final = 30.0
ARRIVAL_S: Final = 0.3
"""How long after the container ended something may still be under way on this machine."""


class Ears(asyncio.DatagramProtocol):
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
async def listening() -> AsyncIterator[Ears]:
    """Ears on TCP and UDP, IPv4 and (where there is one) IPv6."""
    ears = Ears()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                tcp = bound(family, socket.SOCK_STREAM, ears.tcp_port)
                udp = bound(family, socket.SOCK_DGRAM, ears.udp_port)
            except OSError:
                continue
            ears.tcp_port, ears.udp_port = tcp.getsockname()[1], udp.getsockname()[1]
            server = await asyncio.start_server(ears.connected, sock=tcp)
            stack.push_async_callback(close_server, server)
            transport, _ = await loop.create_datagram_endpoint(lambda: ears, sock=udp)
            stack.callback(transport.close)
        yield ears


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


REFUSED: Final = "Isolated backends are not started."


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

    def __init__(self, tools: Tools, image: str) -> None:
        self.tools = tools
        self.image = image

    async def behind_door(self, ears: Ears) -> Attempt:
        """One attempt behind a door (its policy, which allows nothing, is at the egress)."""
        door = Door(PROBE_BACKEND, PROBE_BACKEND, frozenset({80, 443}), self.tools)
        try:
            await door.start()
            return await self.run(ears, inside(door.container), targets_now())
        except (EngineError, BackendUnavailable, OSError) as error:
            return Attempt(heard=frozenset(ears.heard), problem=str(error))
        finally:
            await door.stop()

    async def on_network(self, ears: Ears, *, internal: bool = False) -> Attempt:
        """One attempt on a network that is made for it."""
        name = f"{self.tools.names.backend(PROBE_BACKEND)}-net"
        plan = NetworkPlan(name=name, labels=self.tools.names.labels("probe-network"), internal=internal)
        try:
            network = await self.tools.ownership.create_network(plan, owned(name, Role.PROBE_NETWORK))
            targets = [*targets_now(), *([network.gateway] if network.gateway else [])]
            return await self.run(ears, name, sorted(set(targets)))
        except (EngineError, OSError) as error:
            return Attempt(heard=frozenset(ears.heard), problem=str(error))
        finally:
            await self.tools.ownership.remove(name)

    async def run(self, ears: Ears, network: str, targets: list[str]) -> Attempt:
        """The container itself, to its end; then a moment for what is under way."""
        plan = probe_plan(self.tools, self.image, network, ears, targets, await self.tools.users.of(PROBE))
        printed = LogRing()
        container = await self.tools.ownership.create(plan, owned(plan.name, Role.PROBE))
        try:
            attachment = await self.tools.engine.attach(
                container, stdin=False, on_line=printed.add, stdout_lines=True
            )
            try:
                ended = await start_watched(self.tools.engine, self.tools.exits, container)
                async with asyncio.timeout(RUN_TIMEOUT_S):
                    code = await asyncio.shield(ended)
                    await attachment.reader.read()
            finally:
                await attachment.close()
            await asyncio.sleep(ARRIVAL_S)
            return finished(ears, code, [line.text for line in printed.tail(20)])
        except TimeoutError:
            return Attempt(heard=frozenset(ears.heard), problem=f"It did not end within {RUN_TIMEOUT_S:g} s.")
        finally:
            await self.tools.ownership.remove(plan.name)
            self.tools.exits.forget(container)


def finished(ears: Ears, code: int, printed: list[str]) -> Attempt:
    """What an attempt that ran to its end amounts to."""
    heard = frozenset(ears.heard)
    if code != 0:
        return Attempt(heard=heard, problem=f"It ended with code {code}: {' / '.join(printed[-3:])}.")
    try:
        return Attempt(heard=heard, report=json.loads(printed[-1]))
    except (ValueError, IndexError):
        return Attempt(heard=heard, problem="It printed no report.")


def probe_plan(tools: Tools, image: str, network: str, ears: Ears, targets: list[str], uid: int) -> ContainerPlan:
    """The throw-away container: a backend in all but its program."""
    addresses = [ipaddress.ip_address(target) for target in targets]
    order = {
        "nonce": ears.nonce,
        "tcp": ears.tcp_port,
        "udp": ears.udp_port,
        "targets": [str(a) for a in addresses if not (a.version == 6 and a.is_link_local)],
        "link_local": [str(a) for a in addresses if a.version == 6 and a.is_link_local],
        "limit_s": CONNECT_LIMIT_S,
    }
    return ContainerPlan(
        name=tools.names.backend(PROBE_BACKEND),
        image=image,
        command=("python3", "-c", files("gateway.runtime.wall").joinpath("probe_script.py").read_text()),
        env=(("STOCKADE_PROBE", json.dumps(order)),),
        user=f"{uid}:{uid}",
        labels=tools.names.labels("probe", uid=uid),
        network=network,
        memory_bytes=128 * MIB,
        socket_bytes=128 * MIB,
        seccomp=backend_profile(),
    )


def idle_plan(tools: Tools, image: str, uid: int) -> ContainerPlan:
    """A container with a backend's limits that does nothing for a while, to be looked at."""
    return ContainerPlan(
        name=tools.names.backend(PROBE_BACKEND),
        image=image,
        command=("sleep", str(RUN_TIMEOUT_S)),
        user=f"{uid}:{uid}",
        labels=tools.names.labels("probe", uid=uid),
        memory_bytes=64 * MIB,
        socket_bytes=64 * MIB,
        seccomp=backend_profile(),
    )


def targets_now() -> list[str]:
    """Every address of this machine."""
    return sorted(str(address) for address in interface_addresses())


def cache_key(info: EngineInfo, image: str) -> str:
    """What a verdict depends on: engine, kernel, image, and this boot of the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    parts: Iterable[str] = (info.id, info.version, info.kernel, image, boot)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def passed_before(path: Path, key: str) -> bool:
    """Whether a probe with this key passed."""
    try:
        return bool(json.loads(path.read_text())["passed"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def note_passed(path: Path, key: str) -> None:
    """Remembers a probe that passed; where that cannot be, the next start tries again."""
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"passed": key}))

"""One egress in this process with two backends, and what each of them gets done in a turn of the loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest

from egress.connection.dialer import Dialer
from egress.door.door import IP_PKTINFO
from egress.doors.ticket import Ticket
from egress.journal.record import Recorder
from egress.net.poller import Poller, Pollers
from egress.net.resolver import StaticResolver
from egress.serve import listening_socket
from egress.service.server import Egress

NAME = "web.example"
LOUD, CALM = "loud", "calm"
WAIT_S = 60.0


@dataclass
class World:
    """The egress, and where each backend reaches it."""

    egress: Egress
    ports: dict[str, int] = field(default_factory=dict)
    dns_ports: dict[str, int] = field(default_factory=dict)

    def poller(self, backend: str) -> Poller:
        return self.egress.backends[backend].poller

    async def connect(self, backend: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.ports[backend])

    async def tunnel(self, backend: str, port: int) -> socket.socket:
        """A connected, non-blocking socket to `NAME`:`port`, through a CONNECT that was answered."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", self.ports[backend]))
        head = f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n"
        await loop.sock_sendall(sock, head.encode())
        assert (await loop.sock_recv(sock, 1000)).startswith(b"HTTP/1.1 200")
        return sock

    async def get(self, backend: str, port: int) -> bytes:
        """A plain request, from the connection to the end of the answer."""
        reader, writer = await self.connect(backend)
        url = f"http://{NAME}:{port}/"
        writer.write(f"GET {url} HTTP/1.1\r\nHost: {NAME}:{port}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(WAIT_S):
            answer = await reader.read()
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def world(*ports: int, capacity: int = 8192, limits: Mapping[str, float] | None = None) -> AsyncIterator[World]:
    """Two backends with the same policy: opaque bytes and requests to `NAME` on these ports of this machine."""
    loop = asyncio.get_running_loop()
    pollers = Pollers(loop)
    block = {
        "allowed_hosts": [{"host": NAME, "port": port} for port in ports],
        "limits": {"rate": 100_000, "connections": 4000, **(limits or {})},
    }
    recorder = Recorder(epoch="life", capacity=capacity)
    async with asyncio.TaskGroup() as tasks:
        egress = Egress(loop, tasks, recorder, Dialer.unconfigured(StaticResolver({}), pollers))
        resolve = [f"{NAME}:{port}:127.0.0.1" for port in ports]
        egress.apply(
            {"backends": {LOUD: block, CALM: block}, "surroundings": {"resolve": resolve, "standalone": True}}
        )
        found = World(egress)
        for backend in (LOUD, CALM):
            life = egress.open_door(Ticket(door=backend, backend=backend, nonce="n" * 16))
            proxy, names = listening_socket("127.0.0.1:0"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            names.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
            names.bind(("127.0.0.1", 0))
            found.ports[backend], found.dns_ports[backend] = proxy.getsockname()[1], names.getsockname()[1]
            life.add(("tcp", "127.0.0.1", 3128), proxy)
            life.add(("udp", "127.0.0.1", 53), names)
        try:
            yield found
        finally:
            await egress.drain(0)
            for source in list(egress.sources):
                source.close()  # type: ignore[attr-defined]  # both are doors
            egress.close()
    pollers.close()
    recorder.close()


class Turns:
    """How much is done in one turn of the loop: `most` of each kind that was noted."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.count = 0
        self.handle = self.loop.call_soon(self.turn)

    def note(self, kind: str, count: int = 1) -> None:
        self.now[kind] += count

    def turn(self) -> None:
        self.most |= self.now
        self.total += self.now
        self.now.clear()
        self.count += 1
        self.handle = self.loop.call_soon(self.turn)

    def count_events(self, monkeypatch: pytest.MonkeyPatch, running: World) -> None:
        """Note each event that is handled for a backend, by its name; what is done with it stays as it is."""
        names = {id(running.poller(name)): name for name in (LOUD, CALM)}
        real = Poller.handle

        def handle(poller: Poller, batch: list[tuple[int, int]]) -> None:
            self.note(names[id(poller)], len(batch))
            real(poller, batch)

        monkeypatch.setattr(Poller, "handle", handle)

    def count_calls(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        """Note each call of a method, by its name; what it does stays as it is."""
        real = getattr(owner, name)

        def counted(*arguments: object, **named: object) -> object:
            self.note(name)
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)

"""A real egress in this process, with upstreams on 127.0.0.1, for tests that speak to it over sockets."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from egress.net.resolver import StaticResolver
from egress.serve import listening_socket, push, serve
from egress.service.server import Egress
from observability.event_json import event_from_json
from observability.events import EgressEvent, Event
from tests.serving import Handler, serving

WAIT_S = 60.0


@dataclass
class Client:
    """One connection to the proxy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> str:
        async with asyncio.timeout(WAIT_S):
            return (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")

    async def exactly(self, count: int) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Everything until the end; a reset counts as the end."""
        data = b""
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65536):
                    data += piece
        return data

    async def connect(self, authority: str) -> str:
        """CONNECT; the status line."""
        await self.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        return (await self.head()).splitlines()[0]

    async def get(self, url: str, *fields: str, method: str = "GET") -> tuple[str, bytes]:
        """A request without a body; head and (by Content-Length) body of the answer."""
        host = url.split("/")[2]
        lines = [f"{method} {url} HTTP/1.1", f"Host: {host}", *fields, "", ""]
        await self.send("\r\n".join(lines).encode())
        return await self.response()

    async def response(self) -> tuple[str, bytes]:
        head = await self.head()
        return head, await self.exactly(length_of(head))


def length_of(head: str) -> int:
    for line in head.splitlines():
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            return int(value)
    return 0


@dataclass
class Running:
    """A proxy that serves."""

    egress: Egress
    port: int
    clients: list[Client] = field(default_factory=list)

    async def client(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def ask(self, data: bytes) -> bytes:
        """Send bytes on a new connection, half-close it, read to the end."""
        client = await self.client()
        await client.send(data)
        client.writer.write_eof()
        return await client.rest()

    def events(self) -> list[EgressEvent]:
        lines, _, _ = self.egress.recorder.read(0, 100_000)
        events: list[Event] = [event_from_json(json.loads(line)["event"]) for line in lines]
        return [event for event in events if isinstance(event, EgressEvent)]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def event(self, matches: Callable[[EgressEvent], bool]) -> EgressEvent:
        """The first event that matches, waiting for it."""
        await self.until(lambda: any(matches(event) for event in self.events()))
        return next(event for event in self.events() if matches(event))

    def replace(self, block: Mapping[str, object], **surroundings: Any) -> None:
        """Push another policy."""
        message = push(block, self.port, frozenset(), (), None, ())
        message["surroundings"].update(surroundings)
        self.egress.apply(message)


@contextlib.asynccontextmanager
async def running(
    block: Mapping[str, object],
    *,
    resolve: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] | None = None,
    upstream_proxy: str | None = None,
    no_proxy: Sequence[str] = (),
    **surroundings: Any,
) -> AsyncIterator[Running]:
    """The standalone proxy on a free port. `names` is the whole DNS; `surroundings` replace what it would push."""
    sock = listening_socket("127.0.0.1:0")
    table = {name: tuple(map(ipaddress.ip_address, found)) for name, found in (names or {}).items()}
    stop = asyncio.Event()
    ready: asyncio.Future[Egress] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(
            serve(
                block,
                sock,
                resolve=resolve,
                upstream_proxy=upstream_proxy,
                no_proxy=no_proxy,
                resolver=StaticResolver(table),
                stop=stop,
                on_ready=ready.set_result,
                drain_s=0,
            )
        )
        proxy = Running(await ready, sock.getsockname()[1])
        if surroundings:
            message = push(block, proxy.port, frozenset(), resolve, upstream_proxy, no_proxy)
            message["surroundings"].update(surroundings)
            proxy.egress.apply(message)
        try:
            yield proxy
        finally:
            for client in proxy.clients:
                client.writer.close()
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await client.writer.wait_closed()
            stop.set()


upstream = serving
"""What the proxy leads to."""


def http_server(response: bytes, seen: list[bytes] | None = None, *, times: int = 1000) -> Handler:
    """Answers every request head with fixed bytes; after `times` answers it hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            head = await reader.readuntil(b"\r\n\r\n")
            if seen is not None:
                seen.append(head)
            writer.write(response)
            await writer.drain()

    return handle


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, and ends when it ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def client_hello(name: str | None) -> bytes:
    """What OpenSSL sends first to a server of that name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def set_budget(egress: Egress, **values: float) -> None:
    """Shorten the deadlines of every backend."""
    for backend in egress.backends.values():
        backend.budget = dataclasses.replace(backend.budget, **values)  # type: ignore[arg-type]  # all are numbers

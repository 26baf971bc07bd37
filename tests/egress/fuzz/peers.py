"""Clients and servers at random around real proxies: `unshare --net --mount python -m tests.egress.fuzz.peers N SEED`.

The clients send the corpus's cases, some damaged, in pieces, and end as they like (half-close, reset, silence); the servers
answer the corpus's replies, some damaged, and end as they like. Prints what is wrong with a proxy in the end: gone, an
exception in its log, a descriptor too many. That found what no case alone did: one peer's end in another one's moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.egress.corpus_cases import Case, load_cases, load_world, pieces, whole
from tests.egress.corpus_run import wait_listening
from tests.egress.corpus_world import NAMESERVER, OK, Nameserver, make_every_address_local, use_our_nameserver

PROXIES = ("github", "star", "wild", "tcp", "ips", "report", "learn", "private")
PORTS = (80, 443, 3000, 5432, 8000, 8010, 8080)
AT_ONCE = 60
LIMITS = {"head_timeout_s": 2, "idle_timeout_s": 2}
SPLICES = (
    b"\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"Content-Length: 5\r\n",
    b"Connection: close\r\n",
    b"\r\n\r\n",
    b"5\r\n",
)
REPLIES = (
    OK + b"ok",
    b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
)
ENDS = (OSError, TimeoutError, RuntimeError)
"""What a peer meets when the other one has ended."""


@dataclass
class Chance:
    """All that is left to chance, from one seed."""

    dice: random.Random
    cases: list[Case] = field(default_factory=load_cases)

    def __post_init__(self) -> None:
        self.good = [case for case in self.cases if "allow" in case.decisions]
        self.replies = [*REPLIES, *(whole(case.reply) for case in self.cases if case.reply)]

    def is_so(self, chance: float) -> bool:
        return self.dice.random() < chance

    def damaged(self, data: bytes, chance: float) -> bytes:
        if not self.is_so(chance):
            return data
        found = bytearray(data)
        for _ in range(self.dice.randint(1, 3)):
            at = self.dice.randint(0, len(found))
            put = self.dice.choice(
                (self.dice.choice(SPLICES), self.dice.randbytes(3), b"", bytes(found[at : at + 50]))
            )
            found[at : at + self.dice.choice((0, 0, 1, 20))] = put
        return bytes(found)

    async def send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            size = self.dice.choice((1, 3, 17, 100, 1000, 100_000))
            writer.write(data[:size])
            data = data[size:]
            if self.is_so(0.2):
                await asyncio.sleep(self.dice.random() * 0.02)
            await writer.drain()

    async def end(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match self.dice.randrange(5):
            case 0:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            case 1:
                writer.write_eof()
                await reader.read()
            case 2:
                await reader.read()
            case _:
                pass

    async def be_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(4):
                for _ in range(self.dice.randint(0, 4)):
                    if self.is_so(0.8):
                        await reader.read(65536)
                    reply = self.damaged(self.dice.choice(self.replies), 0.4)
                    await self.send(writer, reply if self.is_so(0.8) else bytes(self.dice.randrange(1, 300_000)))
                await self.end(reader, writer)
        except ENDS:
            pass
        finally:
            writer.transport.abort()

    async def be_client(self, port: int) -> None:
        with contextlib.suppress(*ENDS):
            async with asyncio.timeout(5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    for _ in range(self.dice.randint(1, 3)):
                        await self.speak(
                            self.dice.choice(self.good if self.is_so(0.7) else self.cases), reader, writer
                        )
                    await self.end(reader, writer)
                finally:
                    writer.transport.abort()

    async def speak(self, case: Case, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for step in case.send:
            if isinstance(step, dict) and "await" in step:
                if self.is_so(0.8):
                    await asyncio.wait_for(reader.read(65536), 1)
            else:
                await self.send(writer, self.damaged(b"".join(pieces(step))[:200_000], 0.3))


class Proxy:
    """One proxy process of the corpus's world."""

    def __init__(self, name: str, folder: Path) -> None:
        world = load_world()
        self.name = name
        self.port = world.listen[name]
        self.log = folder / f"{name}.err"
        policy = folder / f"{name}.json"
        policy.write_text(json.dumps({**world.policies[name], "limits": LIMITS}))
        command: list[Any] = [sys.executable, "-m", "egress.serve", "--policy", policy, "--quiet"]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        for entry in world.resolve.get(name, []):
            command += ["--resolve", entry]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd")) if self.process.poll() is None else 0

    def faults(self, base: int) -> list[str]:
        said = self.log.read_text()
        found = [f"ended with {self.process.poll()}"] if self.process.poll() is not None else []
        found += [f"says: {said[-3000:]}"] if "Traceback" in said else []
        found += [f"{self.descriptors} descriptors, not {base}"] if self.descriptors > base else []
        self.process.kill()
        return [f"the proxy {self.name} {fault}" for fault in found]


async def run(count: int, seed: int, folder: Path) -> list[str]:
    """`count` clients; what is wrong afterwards."""
    chance = Chance(random.Random(seed))
    await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Nameserver(load_world().zone), local_addr=(NAMESERVER, 53)
    )
    for port in PORTS:
        for host in ("0.0.0.0", "::"):
            await asyncio.start_server(chance.be_server, host, port, backlog=512)
    proxies = [Proxy(name, folder) for name in PROXIES]
    for proxy in proxies:
        await wait_listening(proxy.port)
        await chance.be_client(proxy.port)  # what is opened once is open now
    await asyncio.sleep(5)
    bases = [proxy.descriptors for proxy in proxies]
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            await chance.be_client(chance.dice.choice(proxies).port)

    await asyncio.gather(*(one() for _ in range(count)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            while any(proxy.descriptors > base for proxy, base in zip(proxies, bases, strict=True)):
                await asyncio.sleep(0.2)
    return [fault for proxy, base in zip(proxies, bases, strict=True) for fault in proxy.faults(base)]


def main() -> None:
    make_every_address_local(load_world().host_addresses)
    use_our_nameserver()
    with tempfile.TemporaryDirectory() as folder:
        faults = asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), Path(folder)))
    print(json.dumps(faults))


if __name__ == "__main__":
    main()

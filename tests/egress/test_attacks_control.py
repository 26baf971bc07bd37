"""The egress process when whoever should hear its events is slow, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from egress.door.passing import send_packet
from egress.doors.packets import PacketConnection
from egress.doors.sessions import Session
from egress.doors.ticket import Ticket
from tests.egress.harness import Client

pytestmark = pytest.mark.anyio

NONCE = "0123456789abcdef0123456789abcdef"
WAIT_S = 30
MANY = 30_000
"""More than the ring of events and the buffers have room for."""
DENIED = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
POLICY = {"allowed_hosts": ["web.example"], "limits": {"rate": 1_000_000}}


@contextmanager
def egress_process() -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`python -m egress`, and the folder that it is reached in."""
    with tempfile.TemporaryDirectory(prefix="sk") as name:
        folder = Path(name)
        environment = {**os.environ, "STOCKADE_CONTROL_DIR": name, "STOCKADE_DOORS_DIR": name}
        command = [sys.executable, "-m", "egress"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            try:
                yield process, folder
                assert process.poll() is None, "the egress is gone"
            finally:
                process.kill()


class Gateway:
    """One that reads when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.data = b""

    async def say(self, **message: Any) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, json.dumps(message).encode() + b"\n")

    async def line(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            while b"\n" not in self.data:
                piece = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
                assert piece, "the egress hung up"
                self.data += piece
        line, _, self.data = self.data.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    async def answer(self, number: int) -> dict[str, Any]:
        while (found := await self.line()).get("id") != number:
            pass
        return found

    async def denials(self, last: int) -> tuple[int, int]:
        """(denials read, events lost) up to the event of that number."""
        denied = lost = 0
        while True:
            line = await self.line()
            lost += line.get("gap", 0)
            denied += line.get("event", {}).get("reason") == "host_not_allowed"
            if "event" in line and line["seq"] == last:
                return denied, lost


@asynccontextmanager
async def gateway(folder: Path, **resume: Any) -> AsyncIterator[Gateway]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    await asyncio.get_running_loop().sock_connect(sock, str(folder / "egress.sock"))
                    break
                await asyncio.sleep(0.05)
        found = Gateway(sock)
        await found.say(op="hello", id=1, resume=resume)
        yield found


@contextmanager
def door(folder: Path) -> Iterator[int]:
    """A listener of this machine, passed as if it were a door's; its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(folder / "doors.sock"))
            message = {"role": "door", "door": "fetch", "nonce": NONCE, "generation": 1, "last": True}
            send_packet(sock, {**message, "listeners": [["tcp", "127.0.0.1", 3128]]}, [listener.fileno()])
            yield listener.getsockname()[1]


async def be_denied(port: int, times: int) -> None:
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    for _ in range(times // 100):
        await client.send(DENIED * 100)
        for _ in range(100):
            assert "403" in (await client.response())[0]
    client.writer.close()
    await client.writer.wait_closed()


def memory_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


async def test_a_socket_that_comes_for_one_who_has_left_is_closed() -> None:
    """A connector's answer and the end of the client that waited for it, in the same turn of the loop."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        ticket = Ticket(door="join/app", backend="", nonce=NONCE, role="connector", network="app")
        session = Session(ticket, PacketConnection(loop, here.dup()), None)
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(session.ask({"op": "dial"}))
            await asyncio.sleep(0)
            reading, writing = os.pipe2(os.O_NONBLOCK)
            session.answered({"id": 0}, [writing])
            asking.cancel()
        assert os.read(reading, 1) == b"", "its other end is still open"
        os.close(reading)
        session.connection.sock.close()


async def test_events_that_nobody_takes_are_dropped_and_counted_and_hold_nobody_up() -> None:
    with egress_process() as (process, folder):
        async with gateway(folder) as slow:
            hello = await slow.answer(1)
            await slow.say(op="policies", id=2, generation=1, backends={"fetch": POLICY}, surroundings={})
            ticket = {
                "door": "fetch",
                "backend": "fetch",
                "nonce": NONCE,
                "generation": 1,
                "role": "door",
                "network": "",
            }
            await slow.say(op="door", id=3, **ticket)
            await slow.answer(3)
            with door(folder) as port:
                await be_denied(port, 100)
                before = memory_mib(process.pid)
                await be_denied(port, MANY)  # it reads nothing meanwhile
                assert memory_mib(process.pid) < before + 40
                await slow.say(op="status", id=4)
                denied, lost = await slow.denials(MANY + 100 + hello["seq"])
                assert lost > 0
                assert denied + lost == MANY + 100
                await be_denied(port, 100)
                slow.sock.close()
                await be_denied(port, MANY)
                async with gateway(folder, epoch=hello["epoch"], seq=MANY + 100 + hello["seq"]) as again:
                    denied, lost = await again.denials(2 * MANY + 200 + hello["seq"])
                    assert lost > 0
                    assert denied + lost == MANY + 100
                assert memory_mib(process.pid) < before + 40

"""The standalone proxy as a process of its own, on either event loop: thousands of short tunnels leave nothing in it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.egress.harness import client_hello, echo, upstream
from tests.egress.sockets import WAIT_S, everything, reset
from tests.egress.test_attacks_process import TCP, WEB, Proxy, proxy, until

pytestmark = pytest.mark.anyio

THREADS = 8


def runs_uvloop(attacked: Proxy) -> bool:
    return "uvloop" in Path(f"/proc/{attacked.process.pid}/maps").read_text()


async def echo_what_may_be_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await echo(reader, writer)


def one_tunnel(number: int, port: int, target: int, hello: bytes) -> None:
    """A tunnel that is half-closed by its client, reset by it, or reset after its end, in turns."""
    name = TCP if number % 2 else WEB
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as sock:
        sock.sendall(f"CONNECT {name}:{target} HTTP/1.1\r\nHost: {name}:{target}\r\n\r\n".encode() + hello)
        if number % 7 == 0:
            reset(sock)
            return
        sock.shutdown(socket.SHUT_WR)
        if number % 5 == 0:
            reset(sock)
            return
        answer = everything(sock)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(hello)


async def short_tunnels(attacked: Proxy, target: int, count: int) -> None:
    hello, loop = client_hello(WEB), asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as pool:
        await asyncio.gather(
            *(loop.run_in_executor(pool, one_tunnel, number, attacked.port, target, hello) for number in range(count))
        )


@pytest.mark.slow
@pytest.mark.parametrize(("loop", "count"), [("uvloop", 4_000), ("asyncio", 500)])
async def test_three_times_thousands_of_half_closed_tunnels_leave_no_descriptor(
    loop: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOCKADE_LOOP", loop)
    async with upstream(echo_what_may_be_reset) as port, proxy(tmp_path, (TCP, port), (WEB, port)) as attacked:
        assert runs_uvloop(attacked) is (loop == "uvloop")
        await short_tunnels(attacked, port, 20)
        base = attacked.descriptors
        for _ in range(3):
            await short_tunnels(attacked, port, count)
            await until(lambda: attacked.descriptors <= base)
        carried = attacked.events(phase="decided", decision="allow")
        assert len(carried) > 2 * count
        assert await attacked.get("http://evil.example/")

"""Attacks on the standalone proxy as a process of its own: it stays up, others are served, what is held is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from egress.net.limits import RESERVED_FDS, raise_fd_limit
from tests.egress.harness import Client, client_hello, echo, http_server, upstream

pytestmark = pytest.mark.anyio

TCP, WEB = "db.example", "web.example"
WAIT_S = 60
ECHO = """
import asyncio, resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
async def echo(r, w):
    try:
        while data := await r.read(65536): w.write(data)
    except OSError: pass
    w.close()
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Proxy:
    """The process under attack."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def memory_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def events(self, **wanted: object) -> list[dict[str, Any]]:
        """What it logged that has these values."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
        return [event for event in found if all(event.get(key) == value for key, value in wanted.items())]

    def counted(self, reason: str) -> int:
        return sum(event.get("count", 1) for event in self.events(reason=reason))

    async def client(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def get(self, url: str) -> str:
        """A page on a connection of its own."""
        client = await self.client()
        try:
            head, body = await client.get(url)
        finally:
            await gone(client)
        return f"{head.splitlines()[0]} {body.decode()}"


async def gone(client: Client) -> None:
    client.writer.close()
    with contextlib.suppress(ConnectionError):
        await client.writer.wait_closed()


@asynccontextmanager
async def proxy(
    tmp_path: Path, *targets: tuple[str, int], nofile: int = 0, stdout: int | None = None, **limits: float
) -> AsyncIterator[Proxy]:
    """`python -m egress.serve` that allows the targets on 127.0.0.1, `db.example` as opaque TCP."""
    kinds = {TCP: {"protocol": "tcp"}, WEB: {}}
    rules = [{"host": host, "port": port, **kinds[host]} for host, port in targets]
    (tmp_path / "policy.json").write_text(json.dumps({"allowed_hosts": rules, "limits": limits}))
    command = [sys.executable, "-m", "egress.serve", "--policy", str(tmp_path / "policy.json")]
    command += ["--listen", "127.0.0.1:0"]
    for host, number in targets:
        command += ["--resolve", f"{host}:{number}:127.0.0.1"]
    limit = ["sh", "-c", f'ulimit -n {nofile}; exec "$@"', "sh"] if nofile else []
    log, errors = tmp_path / "log", tmp_path / "errors"
    process = started([*limit, *command], log, errors, stdout)
    try:
        await until(lambda: process.poll() is not None or "\n" in errors.read_text())
        assert "listening on 127.0.0.1:" in errors.read_text()
        running = Proxy(process, int(errors.read_text().split("127.0.0.1:")[1].split()[0]), log)
        await running.get("http://evil.example/")  # it listens before all of it is there
        yield running
        assert process.poll() is None, "the proxy is gone"
    finally:
        process.kill()
        process.wait()


def started(command: list[str], log: Path, errors: Path, stdout: int | None) -> subprocess.Popen[bytes]:
    with log.open("wb") as out, errors.open("wb") as said:
        return subprocess.Popen(command, stdout=out if stdout is None else stdout, stderr=said)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.05)


@contextmanager
def raw(port: int) -> Iterator[socket.socket]:
    """A connection whose owner reads what and when it likes; the least of it is buffered."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", port))
        sock.setblocking(False)
        yield sock


async def push(sock: socket.socket, data: bytes) -> int:
    """Send it again and again until nobody takes more for two seconds; bytes sent."""
    loop, sent = asyncio.get_running_loop(), 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < 64 * 1024 * 1024:
            async with asyncio.timeout(2):
                await loop.sock_sendall(sock, data)
            sent += len(data)
    return sent


# --- who never reads

DENIED = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
NOTHING = b"HTTP/1.1 204 No Content\r\nX-Long: " + b"x" * 8000 + b"\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Long: " + b"x" * 8000 + b"\r\n\r\n"
INTERIM = b"HTTP/1.1 102 Processing\r\nX-Long: " + b"x" * 8000 + b"\r\n\r\n"


@pytest.mark.parametrize("response", [NOTHING, EMPTY, INTERIM * 15 + NOTHING], ids=["204", "empty", "interim"])
async def test_answers_that_nobody_reads_are_not_piled_up(tmp_path: Path, response: bytes) -> None:
    """Requests without end, inside a CONNECT, where no request rate holds them up."""
    async with upstream(http_server(response, times=10**9)) as port, proxy(tmp_path, (WEB, port)) as attacked:
        before = attacked.memory_mib
        with raw(attacked.port) as sock:
            authority = f"{WEB}:{port}"
            sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
            await push(sock, f"GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode() * 50)
            assert attacked.memory_mib < before + 20
            assert "200 OK" not in await attacked.get("http://evil.example/")


async def test_refusals_that_nobody_reads_are_not_piled_up(tmp_path: Path) -> None:
    async with proxy(tmp_path) as attacked:
        before = attacked.memory_mib
        with raw(attacked.port) as sock:
            await push(sock, DENIED * 100)
            assert attacked.memory_mib < before + 20


async def test_who_leaves_answers_unread_keeps_its_place_and_is_cut_in_the_end(tmp_path: Path) -> None:
    """Its descriptor was closed, its place given back, and the kernel kept the rest for ever."""
    async with proxy(tmp_path, connections=20, idle_timeout_s=2) as attacked:
        base = attacked.descriptors
        with contextlib.ExitStack() as stack:
            held = [stack.enter_context(raw(attacked.port)) for _ in range(10)]
            async with asyncio.TaskGroup() as tasks:
                for sock in held:
                    tasks.create_task(push(sock, DENIED * 1000))
            await until(lambda: attacked.descriptors <= base)
        assert "403" in await attacked.get("http://evil.example/")


async def test_a_thousand_tunnels_that_nobody_reads_cost_bounded_memory(tmp_path: Path) -> None:
    """Each direction holds one read at most; what is more waits in the kernel, which bounds it for itself."""

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # it never reads either
        for _ in range(64):
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(floods) as port, upstream(http_server(EMPTY)) as web:
        async with proxy(tmp_path, (TCP, port), (WEB, web)) as attacked:
            head = f"CONNECT {TCP}:{port} HTTP/1.1\r\nHost: {TCP}:{port}\r\n\r\n".encode()
            highest = attacked.memory_mib
            with contextlib.ExitStack() as stack:
                for _ in range(40):
                    held = [stack.enter_context(raw(attacked.port)) for _ in range(25)]
                    async with asyncio.TaskGroup() as tasks:
                        for sock in held:
                            tasks.create_task(push_some(sock, head + bytes(1 << 20)))
                    highest = max(highest, attacked.memory_mib)
                assert "200 OK" in await attacked.get(f"http://{WEB}:{web}/")
            print(f"resident at most: {highest:.0f} MiB")
            assert highest < 300


async def push_some(sock: socket.socket, data: bytes) -> None:
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(1):
            await asyncio.get_running_loop().sock_sendall(sock, data)


async def test_bodies_in_chunks_of_one_byte_leave_others_their_turns(tmp_path: Path) -> None:
    """What waits of thirty of them took the loop for twenty seconds, again and again."""

    async def swallows(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 18):
            pass

    async with upstream(swallows) as port, upstream(http_server(EMPTY)) as web:
        async with proxy(tmp_path, (WEB, port), (WEB, web)) as attacked:
            head = f"POST http://{WEB}:{port}/ HTTP/1.1\r\nHost: {WEB}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
            with contextlib.ExitStack() as stack:
                greedy = [stack.enter_context(raw(attacked.port)) for _ in range(30)]
                async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
                    pushing = []
                    for sock in greedy:
                        sock.sendall(head.encode())
                        pushing.append(tasks.create_task(push(sock, b"1\r\na\r\n" * 10_000)))
                    await until(lambda: len(attacked.events(decision="allow", port=port)) == 30)
                    for _ in range(5):
                        assert "200 OK" in await attacked.get(f"http://{WEB}:{web}/")
                    for task in pushing:
                        task.cancel()


# --- very many


@contextmanager
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_fd_limit()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.slow
async def test_ten_thousand_connections_at_once_are_carried_or_counted_and_leave_nothing(tmp_path: Path) -> None:
    """A tunnel takes two descriptors: where the system gives fewer, the rest is turned away, and told."""
    with many_descriptors(), far_echo() as port:
        async with proxy(tmp_path, (TCP, port)) as attacked:
            await hold_ten_thousand(attacked, port)


@contextmanager
def far_echo() -> Iterator[int]:
    """An upstream with descriptors of its own; its port."""
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def hold_ten_thousand(attacked: Proxy, port: int) -> None:
    first = await attacked.client()
    assert "403" in (await first.get("http://evil.example/"))[0]
    base, before = attacked.descriptors, attacked.memory_mib
    room = (resource.prlimit(attacked.process.pid, resource.RLIMIT_NOFILE)[0] - RESERVED_FDS) // 2
    carried, refused = await open_tunnels(attacked.port, port, 10_000)
    print(f"\n{len(carried)} tunnels, {refused} refused; {attacked.memory_mib - before:.0f} MiB more")
    try:
        assert len(carried) == min(10_000, room - 1)
        await until(lambda: attacked.counted("limit_connections") == refused)
        assert attacked.memory_mib < before + 200
        for sock in carried[::100]:
            await exchange_bytes(sock)
        assert "403" in (await first.get("http://evil.example/"))[0], "who is there is served"
    finally:
        for sock in carried:
            sock.close()
    await until(lambda: attacked.descriptors <= base)
    assert "403" in (await first.get("http://evil.example/"))[0]
    assert "403" in await attacked.get("http://evil.example/")
    await gone(first)


async def open_tunnels(proxy_port: int, port: int, count: int) -> tuple[list[socket.socket], int]:
    """(the tunnels that stand, how many were refused)."""
    carried: list[socket.socket] = []
    refused = 0
    gate = asyncio.Semaphore(200)

    async def open_one() -> None:
        nonlocal refused
        async with gate, asyncio.timeout(WAIT_S):
            sock = await connected(proxy_port)
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(sock, f"CONNECT {TCP}:{port} HTTP/1.1\r\nHost: {TCP}:{port}\r\n\r\n".encode())
            answer = await loop.sock_recv(sock, 200)
        if answer.startswith(b"HTTP/1.1 200"):
            carried.append(sock)
        else:
            assert b" limit_connections" in answer
            refused += 1
            sock.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(open_one())
    return carried, refused


async def connected(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def exchange_bytes(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(WAIT_S):
        await loop.sock_sendall(sock, b"ping")
        assert await loop.sock_recv(sock, 4) == b"ping"


async def test_with_few_descriptors_left_it_turns_away_counts_and_comes_back(tmp_path: Path) -> None:
    async with upstream(echo) as port, proxy(tmp_path, (TCP, port), nofile=300) as attacked:
        base = attacked.descriptors
        room = (300 - RESERVED_FDS) // 2
        carried, refused = await open_tunnels(attacked.port, port, 250)
        assert (len(carried), refused) == (room, 250 - room)
        await until(lambda: attacked.counted("limit_connections") == refused)
        for sock in carried:
            await exchange_bytes(sock)
            sock.close()
        await until(lambda: attacked.descriptors <= base)
        again, _ = await open_tunnels(attacked.port, port, 10)
        assert len(again) == 10
        for sock in again:
            sock.close()


async def test_busy_tunnels_take_no_descriptor_that_another_connection_needs(tmp_path: Path) -> None:
    """One that the kernel moves has four descriptors more; a hundred of them were more than there are."""

    async def gives(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(bytes(MUCH))
        await reader.read()

    async with upstream(gives) as port, upstream(http_server(EMPTY)) as web:
        async with proxy(tmp_path, (TCP, port), (WEB, web), nofile=600) as attacked:
            base = attacked.descriptors
            carried, _ = await open_tunnels(attacked.port, port, 120)
            for sock in carried:
                await take_much(sock)
            clients = [await attacked.client() for _ in range(20)]
            for client in clients:
                assert "200 OK" in (await client.get(f"http://{WEB}:{web}/"))[0]
            for client in clients:
                await gone(client)
            assert attacked.descriptors > base + 120 * 2 + 50, "none was handed to the kernel"
            for sock in carried:
                sock.close()
            await until(lambda: attacked.descriptors <= base)
            await exchange_much(attacked, port)


MUCH = 5 * 1024 * 1024


async def take_much(sock: socket.socket) -> None:
    loop, left = asyncio.get_running_loop(), MUCH
    async with asyncio.timeout(WAIT_S):
        await loop.sock_sendall(sock, b"x")
        while left:
            piece = await loop.sock_recv(sock, 1 << 18)
            assert piece
            left -= len(piece)


async def exchange_much(attacked: Proxy, port: int) -> None:
    (sock,), _ = await open_tunnels(attacked.port, port, 1)
    with sock:
        await take_much(sock)


# --- slow ones


async def test_slow_heads_are_ended_and_hold_nobody_up(tmp_path: Path) -> None:
    async with upstream(http_server(EMPTY)) as port, proxy(tmp_path, (WEB, port), head_timeout_s=2) as attacked:
        base = attacked.descriptors
        slow = [await connected(attacked.port) for _ in range(500)]
        for number, sock in enumerate(slow):
            sock.send([b"GET http://web.exa", b"C", DENIED[:-2] + b"X: ", b"\r\n"][number % 4])
        for _ in range(10):
            for sock in slow:
                with contextlib.suppress(OSError):
                    sock.send(b"a")
            assert "200 OK" in await attacked.get(f"http://{WEB}:{port}/")
        await until(lambda: attacked.descriptors <= base)
        await until(lambda: attacked.counted("head_timeout") + attacked.counted("bad_request") == 500)
        assert attacked.counted("head_timeout") >= 375
        for sock in slow:
            sock.close()


@pytest.mark.parametrize(
    "show", [b"", b"\x16", client_hello(WEB)[:60], b"GET / HT"], ids=["nothing", "type", "hello", "head"]
)
async def test_tunnels_that_never_show_what_is_inside_are_ended(tmp_path: Path, show: bytes) -> None:
    async with upstream(echo) as port, proxy(tmp_path, (WEB, port), head_timeout_s=1) as attacked:
        base = attacked.descriptors
        socks = [await connected(attacked.port) for _ in range(50)]
        for sock in socks:
            sock.send(f"CONNECT {WEB}:{port} HTTP/1.1\r\nHost: {WEB}:{port}\r\n\r\n".encode() + show)
        await until(lambda: attacked.counted("head_timeout") == 50)
        await until(lambda: attacked.descriptors <= base)
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("end", ["client", "server"])
async def test_half_open_tunnels_are_ended_when_nothing_moves(tmp_path: Path, end: str) -> None:
    """One side has ended, the other never does."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if end == "server":
            writer.write_eof()
        await asyncio.Event().wait()

    async with upstream(half) as port, proxy(tmp_path, (TCP, port), idle_timeout_s=2) as attacked:
        base = attacked.descriptors
        carried, _ = await open_tunnels(attacked.port, port, 100)
        for sock in carried if end == "client" else ():
            sock.shutdown(socket.SHUT_WR)
        await until(lambda: attacked.counted("idle_timeout") == 100)
        await until(lambda: attacked.descriptors <= base)
        for sock in carried:
            sock.close()


# --- nobody hears it


async def test_a_log_that_nobody_reads_or_that_is_gone_holds_nobody_up(tmp_path: Path) -> None:
    """The reader of its events stands still, then reads on, then goes away."""
    reading, writing = os.pipe()
    try:
        async with proxy(tmp_path, stdout=writing) as attacked:
            os.close(writing)
            for _ in range(12_000 // 400):
                client = await attacked.client()
                await client.send(DENIED * 400)
                for _ in range(400):
                    assert "403" in (await client.response())[0]
                await gone(client)
            before = attacked.memory_mib
            lines = await asyncio.to_thread(read_until_dropped, reading)
            assert len(lines) < 12_000
            assert json.loads(lines[-1])["dropped"] > 1000
            os.close(reading)
            for _ in range(100):
                assert "403" in await attacked.get("http://evil.example/")
            assert attacked.memory_mib < before + 20
    finally:
        with contextlib.suppress(OSError):
            os.close(reading)


def read_until_dropped(fd: int) -> list[bytes]:
    data = b""
    while b'"dropped"' not in data or not data.endswith(b"\n"):
        data += os.read(fd, 1 << 20)
    lines = data.splitlines()
    return lines[: next(n for n, line in enumerate(lines) if b'"dropped"' in line) + 1]


async def test_a_connect_after_a_kept_request_leaves_no_connection_behind(tmp_path: Path) -> None:
    """Each time it once lost sight of the connection that the request had left open, for ever."""
    async with upstream(http_server(EMPTY)) as port, proxy(tmp_path, (WEB, port)) as attacked:
        base = attacked.descriptors
        for _ in range(20):
            client = await attacked.client()
            assert "200 OK" in (await client.get(f"http://{WEB}:{port}/"))[0]
            assert "200" in await client.connect(f"{WEB}:{port}")
            await gone(client)
        await until(lambda: attacked.descriptors <= base)


async def test_malformed_everything_is_answered_and_it_goes_on(tmp_path: Path) -> None:
    async with upstream(http_server(EMPTY)) as port, proxy(tmp_path, (WEB, port)) as attacked:
        base = attacked.descriptors
        for data in (
            b"\0" * 70000,
            b"\x16\x03\x01" + bytes(3000),
            b"GET " + b"a" * 70000,
            os.urandom(50000),
            b"\r\n" * 999,
        ):
            for end in (socket.SHUT_WR, socket.SHUT_RDWR):
                sock = await connected(attacked.port)
                with sock:
                    await push_some(sock, data)
                    with contextlib.suppress(OSError):
                        sock.shutdown(end)
        assert "200 OK" in await attacked.get(f"http://{WEB}:{port}/")
        await until(lambda: attacked.descriptors <= base)


async def test_stopped_and_continued_it_serves_on(tmp_path: Path) -> None:
    async with upstream(http_server(EMPTY)) as port, proxy(tmp_path, (WEB, port)) as attacked:
        attacked.process.send_signal(signal.SIGSTOP)
        waiting = [await connected(attacked.port) for _ in range(50)]
        attacked.process.send_signal(signal.SIGCONT)
        assert "200 OK" in await attacked.get(f"http://{WEB}:{port}/")
        for sock in waiting:
            sock.close()


async def test_a_server_that_resets_before_the_first_bytes_costs_its_own_tunnel_only(tmp_path: Path) -> None:
    """It once ended the whole process: the tunnel was half made, and the sweep fell over it."""

    now = asyncio.Semaphore(0)

    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await now.acquire()
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with upstream(resets) as port, upstream(http_server(EMPTY)) as web:
        async with proxy(tmp_path, (WEB, port), (WEB, web)) as attacked:
            base = attacked.descriptors
            for _ in range(5):
                client = await attacked.client()
                assert "200" in await client.connect(f"{WEB}:{port}")
                now.release()
                assert "200 OK" in await attacked.get(f"http://{WEB}:{web}/"), "the reset has come by now"
                await client.send(client_hello(WEB))
                assert await client.rest() == b""
                await gone(client)
            await until(lambda: len(attacked.events(decision="allow", port=port)) == 5)
            await asyncio.sleep(1.5)  # a sweep has been over them
            assert "200 OK" in await attacked.get(f"http://{WEB}:{web}/")
            await until(lambda: attacked.descriptors <= base)

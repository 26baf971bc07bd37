"""The egress's part of `bench/neighbour.py`: one backend floods its proxy or its name server, another one asks for a page.

Without containers: an egress with two backends in a process of its own, each with its listening sockets, and a web server
for each. The egress has one CPU for itself; everything else shares the other, where the neighbour and its web server
come first (SCHED_RR, as root) and the flood last (SCHED_IDLE): what is measured is the egress's loop, and not how a full
machine schedules processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from egress.__main__ import run_loop
from tests.attack.egress_world import CALM, LOUD, NAME, world
from tests.egress.harness import client_hello

CONNECTIONS: Final = 300
PUT: Final = f"PUT http://{NAME}:%d/ HTTP/1.1\r\nHost: {NAME}:%d\r\n%s\r\n\r\n"
CONNECT: Final = f"CONNECT {NAME}:%d HTTP/1.1\r\nHost: {NAME}:%d\r\n\r\n"
PAGE: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

FIRST: Final[dict[str, Callable[[int], bytes]]] = {
    "egress-tunnels": lambda port: (CONNECT % (port, port)).encode(),
    "egress-bodies": lambda port: (PUT % (port, port, "Content-Length: 100000000")).encode(),
    "egress-chunks": lambda port: (PUT % (port, port, "Transfer-Encoding: chunked")).encode(),
    "egress-heads": lambda port: (PUT % (port, port, "X: ")).encode().rstrip(),
}
"""What is sent first on each flooding connection; after it come single pieces."""
PIECE: Final = {"egress-chunks": b"1\r\nx\r\n"}
CHANNELS: Final = (*FIRST, "egress-connects", "egress-lookups")


def serve_upstream() -> None:
    """A web server that answers GET and reads everything else for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer_or_swallow, args=(connection,), daemon=True).start()


def answer_or_swallow(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        while data := connection.recv(65536):
            if data.startswith(b"GET "):
                connection.sendall(PAGE)


def pin(cpu: int, *, first: bool = False) -> None:
    """Run on that CPU only, where there are two; `first`: before everything else there, where that is allowed."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[cpu % len(cpus)]})
    if first:
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))


def pin_last(cpu: int) -> None:
    """Run on that CPU only, after everything else there."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    pin(cpu)


def serve_egress(ports: list[int]) -> None:
    """The real egress over two backends."""

    async def main() -> None:
        async with world(*ports, limits={"connections": 4000, "dns_rate": 100_000}) as running:
            print(json.dumps([running.ports, running.dns_ports]), flush=True)
            await asyncio.Event().wait()

    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    run_loop(main())


def serve_flood(channel: str, proxy: int, names: int, port: int) -> None:
    """Floods until it is ended."""
    if channel == "egress-lookups":
        flood_lookups(names)
    elif channel == "egress-connects":
        flood_connects(proxy)
    else:
        flood_pieces(channel, proxy, port)


def flood_pieces(channel: str, proxy: int, port: int) -> None:
    """Single pieces over many connections, as fast as they are taken."""
    ready = selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(("127.0.0.1", proxy))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(FIRST[channel](port))
        if channel == "egress-tunnels":
            sock.recv(1000)
            sock.sendall(client_hello(NAME))
        sock.setblocking(False)
        ready.register(sock, selectors.EVENT_WRITE)
    print("flooding", flush=True)
    piece = PIECE.get(channel, b"x")
    while ready.get_map():
        for key, _ in ready.select():
            try:
                key.fileobj.send(piece)  # type: ignore[union-attr]
            except BlockingIOError:
                pass
            except OSError:  # a head that became too large is refused; the others go on
                ready.unregister(key.fileobj)


def flood_connects(proxy: int) -> None:
    print("flooding", flush=True)
    while True:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.connect(("127.0.0.1", proxy))
            sock.send(b"x")


def flood_lookups(names: int) -> None:
    print("flooding", flush=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", names))
        for number in itertools.count():
            label = f"n{number % 100_000}".encode()
            question = bytes([len(label)]) + label + b"\x07example\x00\x00\x01\x00\x01"
            with contextlib.suppress(OSError):
                sock.send(number.to_bytes(4, "big")[2:] + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + question)


def ask(proxy: int, port: int) -> None:
    """One page, from the connection to the end of the answer."""
    with socket.create_connection(("127.0.0.1", proxy), 30) as sock:
        sock.sendall(f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
        answer = b""
        while not answer.endswith(b"hello"):
            data = sock.recv(65536)
            if not data:
                raise OSError(f"no page came, but {answer!r}")
            answer += data


def times_of(proxy: int, port: int, seconds: float) -> list[float]:
    times, until = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < until or len(times) < 10:
        ask(proxy, port)
        times.append(time.perf_counter() - began)
    return times


@contextlib.contextmanager
def first_in_line() -> Iterator[None]:
    """This process measures; what it starts meanwhile is not to inherit that."""
    cpus = os.sched_getaffinity(0)
    pin(1, first=True)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cpus)


@contextlib.contextmanager
def process(*arguments: Any) -> Any:
    """A process of this file; its standard output."""
    running = subprocess.Popen(
        [sys.executable, "-m", "bench.neighbour_egress", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield running.stdout
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """Both CPUs have work meanwhile, as under a flood, that gives way to everything: an idle CPU wakes up slowly."""
    with process("spin", 0), process("spin", 1):
        yield


def measured(channel: str, seconds: float) -> tuple[list[float], list[float]]:
    """Seconds that each of the neighbour's pages took, calm and flooded."""
    with process("upstream", "first") as said, process("upstream", "") as loud_said:
        port, loud_port = int(said.readline()), int(loud_said.readline())
        with process("egress", port, loud_port) as told, first_in_line():
            ports, dns_ports = json.loads(told.readline())
            with busy():
                times_of(ports[CALM], port, seconds / 4)
                before = times_of(ports[CALM], port, seconds)
            with process("flood", channel, ports[LOUD], dns_ports[LOUD], loud_port) as begun:
                begun.readline()
                times_of(ports[CALM], port, seconds / 4)
                return before, times_of(ports[CALM], port, seconds)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["upstream", first_]:
            pin(1, first=bool(first_))
            serve_upstream()
        case ["egress", *ports_]:
            pin(0)
            serve_egress([int(port) for port in ports_])
        case ["spin", cpu_]:
            pin_last(int(cpu_))
            while True:
                pass
        case ["flood", channel_, proxy_, names_, port_]:
            pin_last(1)
            serve_flood(channel_, int(proxy_), int(names_), int(port_))
        case _:
            sys.exit("run bench/neighbour.py")

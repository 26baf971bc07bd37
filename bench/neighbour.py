"""What a calm server's calls take while another one floods: `python bench/neighbour.py [--quick] [--check] [CHANNEL …]`.

Without containers: the flooding server is a process that speaks the engine's attach protocol itself (or HTTP), so its bytes
take the way that a container's take, through the real endpoint in a process of its own. For each channel the neighbour's
calls are measured calm (both CPUs are busy with something that gives way), then flooded with the smallest pieces, and that
three times, each with new processes; printed is the median of the three. A round in which the hypervisor took more than
`STOLEN` of the machine's time is measured again: its pauses of some milliseconds say nothing about the gateway. The egress
has a part of its own (`bench/neighbour_egress.py`). With `--check`, exits 1 where a ratio is above the bar.

The gateway has one CPU for itself; on the other one the calm server and its client come first (SCHED_RR, as root): what is
measured is the gateway's loop, and not how a full machine schedules processes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)

from bench import neighbour_egress  # noqa: E402
from bench.gateway import TOKEN, answer, serve_endpoint  # noqa: E402

BAR = 3.0
STOLEN = 0.002
AGAIN = 2
"""How often a round is measured again for that."""
GATEWAY = Path(__file__).parent / "gateway.py"


def notification(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}).encode() + b"\n"


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
ROOTS = b'{"jsonrpc":"2.0","id":1,"method":"roots/list"}\n'
PIPE = {
    "stdout-empty": (1, b"\n"),
    "stdout-garbage": (1, b"x\n"),
    "stdout-braces": (1, b"x{\n"),
    "stdout-json": (1, b"{}\n"),
    "stderr-empty": (2, b"\n"),
    "stderr-short": (2, b"x\n"),
    "stderr-100": (2, b"y" * 99 + b"\n"),
    "list-changed": (1, notification("tools/list_changed")),
    "log": (1, notification("message", level="info", data="x")),
    "progress": (1, notification("progress", progressToken=1, progress=1)),
    "updated": (1, notification("resources/updated", uri="x:y")),
    "requests": (1, PING),
    "questions": (1, ROOTS),
}
"""(stream, the piece) by channel; each comes in frames of 16 KB, and once more with a frame for each piece."""
STREAM = {
    "sse-empty": b"\n",
    "sse-comment": b":\n",
    "sse-data": b"data:1\n\n",
    "sse-news": b"data:" + PIPE["list-changed"][1] + b"\n",
}


# the flooding server


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def serve_evil(channel: str, path: str) -> None:
    """Answers as a server does; from SIGUSR1 on it floods as well."""
    neighbour_egress.pin(1)
    begin = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: begin.set())
    Path(path + ".pid").write_text(str(os.getpid()))
    if channel in STREAM:
        threading.Thread(target=evil_http, args=(STREAM[channel], begin), daemon=True).start()
    else:
        threading.Thread(target=evil_pipe, args=(channel, path, begin), daemon=True).start()
    while True:
        signal.pause()


def evil_pipe(channel: str, path: str, begin: threading.Event) -> None:
    stream, piece = PIPE[channel.removesuffix("/tiny")]
    count = max(1, 16_384 // len(piece))
    burst = frame(stream, piece) * count if channel.endswith("/tiny") else frame(stream, piece * count)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    connection, _ = listener.accept()
    lock = threading.Lock()
    input_ = connection.makefile("rb")
    while input_.readline() != b"\r\n":
        pass
    connection.sendall(b"HTTP/1.1 101 UPGRADED\r\n\r\n")

    def flood() -> None:
        begin.wait()
        while True:
            with lock:
                connection.sendall(burst)

    threading.Thread(target=flood, daemon=True).start()
    for line in input_:
        message = json.loads(line)
        said = answer(message, 1) if "method" in message else None
        if said is not None:
            with lock:
                connection.sendall(frame(1, json.dumps(said).encode() + b"\n"))


def evil_http(piece: bytes, begin: threading.Event) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"listening {listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=evil_connection, args=(connection, piece, begin), daemon=True).start()


def evil_connection(connection: socket.socket, piece: bytes, begin: threading.Event) -> None:
    """Answers to POST; a GET is the standing stream, on which the flood comes."""
    file = connection.makefile("rb")
    while head := file.readline():
        length = 0
        while (line := file.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        if head.startswith(b"GET"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: open\n\n")
            begin.wait()
            burst = piece * max(1, 16_384 // len(piece))
            while True:
                connection.sendall(burst)
        said = answer(json.loads(file.read(length)), 1)
        body = json.dumps(said).encode() if said is not None else b""
        kind = b"200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: evil" if body else b"202 Accepted"
        connection.sendall(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body))


# the gateway


def serve_gateway(channel: str, path: str) -> None:
    """The real endpoint over the flooding server and a calm one."""
    import hashlib

    import uvloop

    from gateway.runtime.docker.attach import Endpoint, attach
    from gateway.runtime.sandbox.log_ring import LogRing
    from tests.gateway.mcp.fakes import FakeBarrier, FakeSupervisor, config, server

    ring = LogRing()

    class Supervisor(FakeSupervisor):
        """The flooding server's streams come through the engine's protocol."""

        streams: Any = None

        async def instance(self, backend: str, session: str = "") -> Any:
            found = await super().instance(backend, session)
            if backend == "evil" and channel not in STREAM:
                while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240  # the process makes it in a moment
                    await asyncio.sleep(0.01)
                if self.streams is None:
                    self.streams = await attach(
                        Endpoint(unix=Path(path)), "/x", ring.add, stdout_lines=False, pace=ring.pace
                    )
                found.attach = self._attached
            return found

        async def _attached(self) -> Any:
            return self.streams.reader, self.streams.writer

    http = frozenset({"evil"} if channel in STREAM else ())
    names = ["calm", "evil"]
    settings = config(
        {"calm": server(), "evil": server(http=bool(http), sessions="shared") if not http else server(http=True)},
        clients={"bench": {"token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}},
    )
    calm = (sys.executable, __file__, "--calm")
    evil = (sys.executable, __file__, "--evil", channel, path)

    async def main() -> None:
        supervisor = Supervisor({"calm": calm, "evil": evil}, http)
        await serve_endpoint(settings, supervisor, FakeBarrier(), names)
        await supervisor.stop()

    uvloop.run(main())


# the neighbour


class Client:
    """One kept connection in one session."""

    def __init__(self, port: int, route: str) -> None:
        self.head = (
            f"POST /servers/{route}/mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
        )
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.sock.makefile("rb")
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "b", "version": "1"}}
        headers, _ = self.ask("initialize", hello)
        self.head += f"Mcp-Session-Id: {headers['mcp-session-id']}\r\n"

    def ask(self, method: str, params: dict[str, Any]) -> tuple[dict[str, str], bytes]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        self.sock.sendall(f"{self.head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        status = self.file.readline()
        headers = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        if b" 200 " not in status:
            raise OSError(f"{method}: {status!r}")
        if "content-length" in headers:
            return headers, self.file.read(int(headers["content-length"]))
        parts = b""
        while size := int(self.file.readline(), 16):
            parts += self.file.read(size)
            self.file.readline()
        self.file.readline()
        return headers, parts

    def measure(self, seconds: float) -> list[float]:
        """Seconds that each of the calls took."""
        times, until = [], time.perf_counter() + seconds
        while (began := time.perf_counter()) < until or len(times) < 10:
            self.ask("tools/call", {"name": "echo", "arguments": {}})
            times.append(time.perf_counter() - began)
        return times


def measured(channel: str, seconds: float) -> tuple[list[float], list[float]]:
    """The neighbour's calls, calm and flooded."""
    with tempfile.TemporaryDirectory(prefix="skn") as directory:
        path = f"{directory}/evil"
        gateway = subprocess.Popen(
            [sys.executable, __file__, "--gateway", channel, path], stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        try:
            assert gateway.stderr is not None
            port = next(int(line.split()[1]) for line in gateway.stderr if line.startswith("listening "))
            threading.Thread(target=gateway.stderr.read, daemon=True).start()
            evil, calm = Client(port, "evil"), Client(port, "calm")
            evil.ask("tools/call", {"name": "echo", "arguments": {}})
            with neighbour_egress.first_in_line():
                with neighbour_egress.busy():
                    calm.measure(seconds / 4)
                    before = calm.measure(seconds)
                os.kill(int(Path(path + ".pid").read_text()), signal.SIGUSR1)
                calm.measure(seconds / 4)
                return before, calm.measure(seconds)
        finally:
            gateway.terminate()
            try:
                gateway.wait(10)
            except subprocess.TimeoutExpired:
                gateway.kill()
                gateway.wait()


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def stolen_s() -> float:
    """Seconds that the hypervisor took from this machine's CPUs since it started: /proc/stat, proc(5)."""
    return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")


def undisturbed(channel: str, seconds: float) -> tuple[list[float], list[float]]:
    """The neighbour's calls, calm and flooded, of a round in which next to nothing was stolen, else of the last one."""
    measure = neighbour_egress.measured if channel in neighbour_egress.CHANNELS else measured
    for _ in range(AGAIN):
        began, before = time.perf_counter(), stolen_s()
        found = measure(channel, seconds)
        if stolen_s() - before <= STOLEN * (time.perf_counter() - began) * (os.cpu_count() or 1):
            return found
        print(f"{channel}: the machine was disturbed; measured again", file=sys.stderr)
    return measure(channel, seconds)


def summary(channel: str, seconds: float, rounds: int) -> list[float]:
    """Median and 99th percentile of the neighbour's calls, calm and flooded, in seconds."""
    seen = [
        [of(times) for times in undisturbed(channel, seconds) for of in (statistics.median, p99)]
        for _ in range(rounds)
    ]
    return [statistics.median(values) for values in zip(*seen, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("channels", nargs="*", metavar="CHANNEL")
    parser.add_argument("--quick", action="store_true", help="one round of half a second")
    parser.add_argument("--check", action="store_true", help=f"fail where a ratio is above {BAR:g}")
    parser.add_argument("--calm", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--evil", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--gateway", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.calm:
        neighbour_egress.pin(1, first=True)
        os.execv(sys.executable, [sys.executable, str(GATEWAY), "--serve", "bare-stdio", "--tools", "1"])
    if chosen.evil:
        serve_evil(*chosen.evil)
    if chosen.gateway:
        neighbour_egress.pin(0)
        serve_gateway(*chosen.gateway)
        return
    every = [
        *PIPE,
        *(f"{channel}/tiny" for channel in ("stdout-empty", "stdout-json", "stderr-empty", "stderr-short")),
    ]
    bad = []
    print(f"{'channel':22} {'calm ms':>8} {'p99':>8} {'flooded':>8} {'p99':>8} {'ratio':>6} {'p99':>6}")
    for channel in chosen.channels or [*every, *STREAM, *neighbour_egress.CHANNELS]:
        values = summary(channel, 0.5 if chosen.quick else 1.0, 1 if chosen.quick else 3)
        ratios = values[2] / values[0], values[3] / values[1]
        print(
            f"{channel:22}",
            *(f"{value * 1e3:8.2f}" for value in values),
            *(f"{ratio:6.1f}" for ratio in ratios),
            flush=True,
        )
        if max(ratios) > BAR:
            bad.append(channel)
    if chosen.check and bad:
        sys.exit(f"above {BAR:g}: {', '.join(bad)}")


if __name__ == "__main__":
    main()

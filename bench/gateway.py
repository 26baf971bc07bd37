"""What the gateway adds to a call: `python bench/gateway.py [--quick] [--rivals] [--json FILE]`.

Three kinds of process, all on this machine and on loopback: backends (a bare HTTP server and a bare stdio server that
answer at once, so that what is measured is not theirs), the gateway (its real endpoint under uvicorn, with a token,
filters and the real instruments; no containers), and the load (raw bytes over kept connections, one at a time on
each). Prints a table, and with `--check` exits 1 where the bar of the project is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TOKEN = "bench-token"
CALL = {"name": "echo", "arguments": {"text": "hello", "n": 1}}
RESULT = {"content": [{"type": "text", "text": "hello"}], "isError": False}
TOOL = {
    "name": "echo",
    "description": "Echo",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
}


# the backends


def answer(message: dict[str, Any], tools: int) -> dict[str, Any] | None:
    """What a bare server says."""
    match message.get("method"):
        case "tools/call":
            result: dict[str, Any] = RESULT
        case "initialize":
            info = {"name": "bare", "version": "1"}
            capabilities = {"tools": {"listChanged": True}}
            result = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
        case "tools/list":
            result = {"tools": [{**TOOL, "name": f"tool_{n}" if n else "echo"} for n in range(tools)]}
        case _ if "id" in message:
            error = {"code": -32601, "message": "Method not found"}
            return {"jsonrpc": "2.0", "id": message["id"], "error": error}
        case _:
            return None
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


def serve_http(tools: int) -> None:
    """A bare streamable HTTP server: httptools on asyncio, a session id, JSON answers."""
    import httptools
    import uvloop

    class Bare(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.parser = httptools.HttpRequestParser(self)
            self.body = b""

        def data_received(self, data: bytes) -> None:
            self.parser.feed_data(data)

        def on_message_begin(self) -> None:
            self.body = b""

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            if self.parser.get_method() != b"POST":
                self.transport.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
                return
            said = answer(json.loads(self.body), tools)
            if said is None:
                self.transport.write(b"HTTP/1.1 202 OK\r\nContent-Length: 0\r\n\r\n")
                return
            text = json.dumps(said, separators=(",", ":")).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: bare\r\nContent-Length: %d\r\n\r\n"
            self.transport.write(head % len(text) + text)

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
        print(f"listening {server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
        await server.serve_forever()

    uvloop.run(main())


def serve_stdio(tools: int) -> None:
    """A bare stdio server."""
    for line in sys.stdin.buffer:
        said = answer(json.loads(line), tools)
        if said is not None:
            sys.stdout.buffer.write(json.dumps(said, separators=(",", ":")).encode() + b"\n")
            sys.stdout.buffer.flush()


# the gateway


def serve_gateway(kind: str, backends: int, tools: int) -> None:
    """The real endpoint over bare backends, one process."""
    import uvicorn
    import uvloop

    from gateway.mcp.endpoint import Endpoint
    from gateway.mcp.serving import listener
    from observability.hub import Hub
    from observability.instruments import Instruments
    from tests.gateway.mcp.fakes import FakeFence, FakeSupervisor, config, server

    names = [f"b{number}" for number in range(backends)]
    http = frozenset(names if kind == "http" else ())
    command = (sys.executable, __file__, "--serve", f"bare-{kind}", "--tools", str(tools))
    settings = config(
        {name: server(http=kind == "http", tools={"deny": ["secret_*"]}) for name in names},
        clients={
            "bench": {
                "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
                "tools": {"allow": ["b*__*"], "deny": ["*delete*"]},
            }
        },
    )

    async def main() -> None:
        supervisor = FakeSupervisor(dict.fromkeys(names, command), http)
        instruments = Instruments()
        instruments.known(backends=names, rules={}, clients=["bench"])
        hub = Hub()
        hub.attach(instruments.on_sequenced)
        endpoint = Endpoint(supervisor=supervisor, fence=FakeFence(), emit=hub.publish, meters=instruments)
        endpoint.on_tools = instruments.known_tools
        endpoint.apply(settings)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        running = uvicorn.Server(listener(endpoint.app))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(endpoint.run())
            serving = tasks.create_task(running.serve(sockets=[sock]))
            while not running.started:  # noqa: ASYNC110  # uvicorn has no event for it
                await asyncio.sleep(0.01)
            print(f"listening {sock.getsockname()[1]}", file=sys.stderr, flush=True)
            await serving
            await endpoint.close(1)
            await supervisor.stop()

    uvloop.run(main())


# the load


class Line(asyncio.Protocol):
    """One kept connection: a request, its whole response, the next."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[bytes] | None = None
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self._waiter is None or self._waiter.done():
            return
        lower = self._buffer[:head].lower()
        at = lower.find(b"content-length:")
        if at >= 0:
            size = int(lower[at + 15 : lower.find(b"\r", at) if lower.find(b"\r", at) > 0 else head])
            if len(self._buffer) < head + 4 + size:
                return
        elif not self._buffer.endswith(b"0\r\n\r\n"):
            return
        message, self._buffer = self._buffer, b""
        self._waiter.set_result(message)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(ConnectionError("closed"))

    async def ask(self, data: bytes) -> bytes:
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return await self._waiter


def post(path: str, message: Any, headers: dict[str, str]) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


@dataclass
class Target:
    """Something that takes tools/call over HTTP."""

    port: int
    path: str = "/mcp"
    tool: str = "echo"
    token: str = ""

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    async def session(self) -> tuple[Line, dict[str, str]]:
        """A connection with a session of its own."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(Line, "127.0.0.1", self.port)
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
        first = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
        said = await line.ask(post(self.path, first, self.headers()))
        headers = {**self.headers(), "MCP-Protocol-Version": "2025-11-25"}
        for text in said.split(b"\r\n\r\n")[0].split(b"\r\n"):
            name, _, value = text.partition(b":")
            if name.lower() == b"mcp-session-id":
                headers["Mcp-Session-Id"] = value.strip().decode()
        await line.ask(post(self.path, {"jsonrpc": "2.0", "method": "notifications/initialized"}, headers))
        return line, headers

    def call(self, headers: dict[str, str]) -> bytes:
        params = {**CALL, "name": self.tool}
        return post(self.path, {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}, headers)


async def latency(target: Target, count: int) -> list[float]:
    """Milliseconds of each of `count` calls, one after the other."""
    line, headers = await target.session()
    data = target.call(headers)
    for _ in range(200):
        said = await line.ask(data)
    assert b"hello" in said, said
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        await line.ask(data)
        taken.append((time.perf_counter() - start) * 1000)
    line.transport.close()
    return taken


async def throughput(target: Target, sessions: int, seconds: float) -> tuple[float, int]:
    """(calls per second, calls) over so many sessions at once."""
    lines = [await target.session() for _ in range(sessions)]
    for line, headers in lines:
        await line.ask(target.call(headers))
    done = 0
    end = time.perf_counter() + seconds

    async def one(line: Line, data: bytes) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await line.ask(data)
            done += 1

    start = time.perf_counter()
    await asyncio.gather(*(one(line, target.call(headers)) for line, headers in lines))
    taken = time.perf_counter() - start
    for line, _ in lines:
        line.transport.close()
    return done / taken, done


# measuring


def spawn(*arguments: str, command: list[str] | None = None) -> tuple[subprocess.Popen[bytes], int]:
    """A process of this file that says `listening PORT`."""
    process = subprocess.Popen(
        command or [sys.executable, __file__, *arguments], stderr=subprocess.PIPE, stdin=subprocess.PIPE, cwd=ROOT
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"listening "):
            return process, int(line.split()[1])
    raise RuntimeError(f"{arguments} did not start")


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[tuple[int, int]]:
    """(pid, port)."""
    process, port = spawn(*arguments)
    try:
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass
class Row:
    """One line of the table."""

    what: str
    direct_p50_ms: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    added_p50_ms: float = 0.0
    added_p99_ms: float = 0.0
    calls_s_32: float = 0.0
    calls_s_256: float = 0.0
    cpu_ms: float = 0.0
    rss_mib: float = 0.0


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def measure_pair(direct: Target | None, via: Target, pid: int, name: str, quick: bool) -> Row:
    """Direct and through the gateway, in turns, so that what else the machine does falls on both."""
    count, rounds, seconds = (300, 3, 1.5) if quick else (1000, 5, 4.0)
    direct_ms: list[float] = []
    via_ms: list[float] = []
    for _ in range(rounds):
        if direct is not None:
            direct_ms += await latency(direct, count)
        via_ms += await latency(via, count)
    row = Row(name)
    row.direct_p50_ms = statistics.median(direct_ms) if direct_ms else 0.0
    row.p50_ms, row.p99_ms = statistics.median(via_ms), percentile(via_ms, 0.99)
    row.added_p50_ms = row.p50_ms - row.direct_p50_ms
    row.added_p99_ms = row.p99_ms - (percentile(direct_ms, 0.99) if direct_ms else 0.0)
    before = cpu_s(pid)
    row.calls_s_32, calls = await throughput(via, 32, seconds)
    row.cpu_ms = (cpu_s(pid) - before) * 1000 / calls
    row.calls_s_256, _ = await throughput(via, 256, seconds)
    row.rss_mib = rss_mib(pid)
    return row


async def pipe_latency(count: int) -> float:
    """Median milliseconds of a direct call over a pipe."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", "bare-stdio", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    data = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": CALL}).encode() + b"\n"
    taken = []
    for number in range(count + 100):
        start = time.perf_counter()
        process.stdin.write(data)
        await process.stdout.readline()
        if number >= 100:
            taken.append((time.perf_counter() - start) * 1000)
    process.stdin.close()
    await process.wait()
    return statistics.median(taken)


async def idle_sessions(target: Target, pid: int, count: int) -> float:
    """KiB of the gateway for each idle session."""
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(Line, "127.0.0.1", target.port)
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
    first = post(target.path, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}, target.headers())
    await line.ask(first)
    before = rss_mib(pid)
    for _ in range(count):
        await line.ask(first)
    line.transport.close()
    return (rss_mib(pid) - before) * 1024 / count


async def list_ms(target: Target, count: int) -> tuple[float, float, int]:
    """(first, median) milliseconds of tools/list, and how many tools it has."""
    line, headers = await target.session()
    data = post(target.path, {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}, headers)
    start = time.perf_counter()
    said = await line.ask(data)
    first = (time.perf_counter() - start) * 1000
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        await line.ask(data)
        taken.append((time.perf_counter() - start) * 1000)
    tools = len(json.loads(said.partition(b"\r\n\r\n")[2])["result"]["tools"])
    return first, statistics.median(taken), tools


BAR = {"added_p50_ms": (0.45, "<="), "calls_s_32": (3000, ">="), "cpu_ms": (0.35, "<="), "rss_mib": (120, "<=")}


def missed(row: Row) -> list[str]:
    """Where the row misses the project's bar."""
    found = []
    for key, (bar, sign) in BAR.items():
        value = getattr(row, key)
        if (value > bar) if sign == "<=" else (value < bar):
            found.append(f"{row.what}: {key} is {value:.2f}, the bar is {sign} {bar}")
    return found


@contextlib.asynccontextmanager
async def http_pair() -> AsyncIterator[tuple[Target, Target, int]]:
    with (
        running("--serve", "bare-http") as (_, backend),
        running("--serve", "gateway", "--kind", "http") as (pid, port),
    ):
        await asyncio.sleep(0.5)
        yield Target(backend), Target(port, "/mcp", "b0__echo", TOKEN), pid


async def bench(quick: bool) -> list[Row]:
    rows = []
    async with http_pair() as (direct, via, pid):
        rows.append(await measure_pair(direct, via, pid, "HTTP backend, /mcp", quick))
        per_backend = Target(via.port, "/servers/b0/mcp", "echo", TOKEN)
        rows.append(await measure_pair(direct, per_backend, pid, "HTTP backend, /servers/b0/mcp", quick))
        print(f"memory: {await idle_sessions(via, pid, 1000):.1f} KiB for each of 1,000 idle sessions")
    with running("--serve", "gateway", "--kind", "stdio") as (pid, port):
        await asyncio.sleep(0.5)
        via = Target(port, "/mcp", "b0__echo", TOKEN)
        row = await measure_pair(None, via, pid, "stdio backend, /mcp", quick)
        row.direct_p50_ms = await pipe_latency(500 if quick else 3000)
        row.added_p50_ms = row.p50_ms - row.direct_p50_ms
        row.added_p99_ms = row.p99_ms - row.direct_p50_ms
        rows.append(row)
    start = time.perf_counter()
    with running("--serve", "gateway", "--kind", "stdio", "--backends", "20", "--tools", "25") as (pid, port):
        print(f"start-up: {(time.perf_counter() - start) * 1000:.0f} ms until the endpoint listens (20 backends)")
        first, median, tools = await list_ms(Target(port, "/mcp", "b0__echo", TOKEN), 100)
        print(
            f"tools/list of {tools} tools over 20 backends: first {first:.0f} ms (backends starting), then {median:.2f} ms"
        )
    return rows


def print_table(rows: list[Row]) -> None:
    print(
        f"{'':42}{'direct':>8}{'p50':>8}{'p99':>8}{'+p50':>8}{'+p99':>8}{'/s @32':>8}{'/s @256':>8}{'cpu ms':>8}{'MiB':>7}"
    )
    for row in rows:
        print(
            f"{row.what:42}{row.direct_p50_ms:8.3f}{row.p50_ms:8.3f}{row.p99_ms:8.3f}{row.added_p50_ms:8.3f}"
            f"{row.added_p99_ms:8.3f}{row.calls_s_32:8.0f}{row.calls_s_256:8.0f}{row.cpu_ms:8.3f}{row.rss_mib:7.0f}"
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--check", action="store_true", help="exit 1 where the bar is missed")
    options.add_argument("--json", type=Path)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    options.add_argument("--kind", default="http", help=argparse.SUPPRESS)
    options.add_argument("--backends", type=int, default=1, help=argparse.SUPPRESS)
    options.add_argument("--tools", type=int, default=5, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    match chosen.serve:
        case "bare-http":
            serve_http(chosen.tools)
        case "bare-stdio":
            serve_stdio(chosen.tools)
        case "gateway":
            serve_gateway(chosen.kind, chosen.backends, chosen.tools)
        case _:
            rows = asyncio.run(bench(chosen.quick))
            print_table(rows)
            if chosen.json:
                chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
            problems = [problem for row in rows for problem in missed(row)]
            print("\n".join(problems) or "the bar is met")
            return 1 if chosen.check and problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

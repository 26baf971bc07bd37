"""What the gateway adds to a call: `python bench/gateway.py [--quick] [--rivals] [--containers] [--json FILE]`.

Three kinds of process, all on this machine and on loopback: backends (a bare HTTP server and a bare stdio server that
answer at once, so that what is measured is not theirs), the gateway (its real endpoint under its own server, with a token,
filters, metrics, history and log, as `stockade up -d` has them), and the load (raw bytes over kept connections, one at a
time on each). Beside the gateway, in the same run, stands a relay on the same stack that does nothing else
(`bench/relay.py`). Prints a table and the ratios; with `--check` exits 1 where the bar of the project is missed. `--rivals`
measures other gateways in the same run, `--containers` the same bare HTTP server in a container behind its door, against
the one on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
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


def serve_http(tools: int, port: int = 0) -> None:
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
        server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", port)
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
    import uvloop

    from tests.gateway.mcp.fakes import FakeBarrier, FakeSupervisor, config, server

    names = [f"b{number}" for number in range(backends)]
    entry = contained_server() if kind == "container" else server(http=kind == "http")
    settings = config(
        {name: {**entry, "tools": {"deny": ["secret_*"]}} for name in names},
        clients={
            "bench": {
                "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
                "tools": {"allow": ["b*__*"], "deny": ["*delete*"]},
            }
        },
    )

    async def main() -> None:
        if kind == "container":
            async with contained(settings) as (supervisor, link):
                await serve_endpoint(settings, supervisor, link, names)
            return
        command = (sys.executable, __file__, "--serve", f"bare-{kind}", "--tools", str(tools))
        processes = FakeSupervisor(dict.fromkeys(names, command), frozenset(names if kind == "http" else ()))
        await serve_endpoint(settings, processes, FakeBarrier(), names)
        await processes.stop()

    uvloop.run(main())


async def serve_endpoint(settings: Any, supervisor: Any, barrier: Any, names: list[str]) -> None:
    """The endpoint on a port of its own, until it is told to end; logs, history and metrics as `stockade up -d` has them."""
    from gateway.connections import Limits, client_connections, raise_descriptor_limit
    from gateway.control.listen import HttpServer, bind_tcp
    from gateway.mcp.endpoint import Endpoint
    from gateway.recorders import Recorders
    from observability.log_file import RotatingLog
    from observability.logs import configure

    directory = tempfile.TemporaryDirectory(prefix="skb")
    configure(as_json=False, handler=RotatingLog(Path(directory.name) / "gateway.log", captured=()))
    recorders = Recorders(Path(directory.name), "bench", settings.gateway.history)
    recorders.name_labels(settings)
    endpoint = Endpoint(
        supervisor=supervisor,
        barrier=barrier,
        emit=recorders.hub.publish,
        meters=recorders.instruments,
        tracer=recorders.telemetry.tracer,
        cache_dir=Path(directory.name),
    )
    endpoint.on_tools = recorders.instruments.known_tools
    endpoint.apply(settings)
    sock = bind_tcp("127.0.0.1:0", "gateway.listen")
    port = sock.getsockname()[1]
    running = HttpServer(endpoint.app, grace_s=10, limits=Limits(client_connections(raise_descriptor_limit())))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.stop)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(endpoint.run())
        serving = tasks.create_task(running.run_on(sock))
        await running.up.wait()
        for name in names if settings.servers[names[0]].image != "fixture" else ():
            await supervisor.instance(name)
        print(f"listening {port}", file=sys.stderr, flush=True)
        await serving
        await endpoint.close(1)
    recorders.close()
    directory.cleanup()


def contained_server() -> dict[str, Any]:
    """The bare HTTP server's entry: this very file, in the egress's image, which has a Python with httptools."""
    return {
        "image": os.environ["BENCH_IMAGE"],
        "entrypoint": ["python3", "/bench/gateway.py", "--serve", "bare-http", "--port", "8000"],
        "mounts": [f"{Path(__file__).parent}:/bench:ro"],
        "port": 8000,
        "resources": {"cpus": 2},
    }


@contextlib.asynccontextmanager
async def contained(settings: Any) -> AsyncIterator[tuple[Any, Any]]:
    """A real supervisor and link: egress, doors, containers, and all of it removed at the end."""
    from gateway.runtime.containers.sandbox import ContainerSandbox
    from gateway.runtime.docker.engine import DockerEngine
    from gateway.runtime.images.build_settings import gather
    from gateway.runtime.images.images import Images
    from gateway.runtime.inventory.egress_link import EgressLink
    from gateway.runtime.inventory.host import host_listeners
    from gateway.runtime.inventory.rundir import RunDirectory
    from gateway.runtime.supervise.supervisor import Supervisor
    from registry.secrets import SecretStore

    with tempfile.TemporaryDirectory(prefix="skb") as name:
        directory = RunDirectory(path=Path(name) / "r", persistent=Path(name) / "p")
        engine = DockerEngine()
        link = EgressLink(directory.control, on_event=lambda _: None, host_listeners=host_listeners)
        sandbox = ContainerSandbox(
            engine, link, project=f"bench{os.getpid()}", run_directory=directory, images=Images(engine, gather),
            secrets=SecretStore(), on_event=lambda _: None, probe=False,
        )  # fmt: skip
        supervisor = Supervisor(sandbox, lambda _: None)
        await supervisor.apply(settings)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervisor.run())
            try:
                await supervisor.wait_begun()
                yield supervisor, link
            finally:
                await supervisor.stop()
        await engine.close()


def egress_image() -> str:
    """The image of the egress, built if it is not there."""
    from gateway.runtime.docker.engine import DockerEngine
    from gateway.runtime.images.build_settings import gather
    from gateway.runtime.images.images import Images

    async def ready() -> str:
        engine = DockerEngine()
        try:
            return await Images(engine, gather).egress()
        finally:
            await engine.close()

    return asyncio.run(ready())


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
    body = message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode()
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
    for _ in range(min(200, count)):
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
def running(*arguments: str, command: list[str] | None = None) -> Iterator[tuple[int, int]]:
    """(pid, port) of a process of this file, or of `command`."""
    process, port = spawn(*arguments, command=command)
    try:
        yield process.pid, port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
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
    relay: Row | None = None
    """The bare relay in the same place, where the project's bar is for this row."""


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


async def measure_pair(
    direct: Target | None, via: Target, pid: int, name: str, quick: bool, *, rival: bool = False
) -> Row:
    """Direct and through the gateway, in turns, so that what else the machine does falls on both."""
    count, rounds, seconds = (300, 3, 1.5) if quick else (1000, 5, 4.0)
    if rival:
        count //= 5  # some take 50 ms a call
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
    row.cpu_ms = (cpu_s(pid) - before) * 1000 / max(1, calls)
    if not rival:  # some start a process for each session
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
    await asyncio.sleep(1)
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


CONTAINER_BAR_MS = 0.1
RATIO_BAR = {"cpu_ms": 2.0, "added_p50_ms": 2.0, "calls_s_32": 0.5}
"""At most so many times the relay's; of the calls per second at least."""
MEMORY_BAR_MIB = 120


def missed(row: Row) -> list[str]:
    """Where the row misses the project's bar."""
    if row.relay is None:
        return []
    found = (
        [] if row.rss_mib <= MEMORY_BAR_MIB else [f"{row.what}: {row.rss_mib:.0f} MiB, the bar is {MEMORY_BAR_MIB}"]
    )
    for key, ratio in ratios(row, row.relay).items():
        bar = RATIO_BAR[key]
        if ratio < bar if key == "calls_s_32" else ratio > bar:
            found.append(f"{row.what}: {key} is {ratio:.2f} times the relay's, the bar is {bar}")
    return found


def ratios(row: Row, relay: Row) -> dict[str, float]:
    return {key: getattr(row, key) / max(getattr(relay, key), 1e-6) for key in RATIO_BAR}


@contextlib.asynccontextmanager
async def http_pair() -> AsyncIterator[tuple[Target, Target, int]]:
    with (
        running("--serve", "bare-http") as (_, backend),
        running("--serve", "gateway", "--kind", "http") as (pid, port),
    ):
        await asyncio.sleep(0.5)
        yield Target(backend), Target(port, "/mcp", "b0__echo", TOKEN), pid


def relay(*arguments: str) -> contextlib.AbstractContextManager[tuple[int, int]]:
    """(pid, port) of a relay that does nothing else."""
    return running(command=[sys.executable, str(ROOT / "bench" / "relay.py"), *arguments])


async def bench(quick: bool) -> list[Row]:
    rows = []
    async with http_pair() as (direct, via, pid):
        with relay("http", str(direct.port)) as (relay_pid, relay_port):
            bare = await measure_pair(direct, Target(relay_port), relay_pid, "bare relay, HTTP backend", quick)
            row = await measure_pair(direct, via, pid, "HTTP backend, /mcp", quick)
            per_backend = Target(via.port, "/servers/b0/mcp", "echo", TOKEN)
            other = await measure_pair(direct, per_backend, pid, "HTTP backend, /servers/b0/mcp", quick)
        row.relay = other.relay = bare
        rows += [row, other, bare]
    async with http_pair() as (_, via, pid):
        each = await idle_sessions(via, pid, 1000)
        print(f"memory: {each:.1f} KiB for each of 1,000 idle sessions, {each * 1000 / 1024:.1f} MiB for all of them")
    with running("--serve", "gateway", "--kind", "stdio") as (pid, port):
        await asyncio.sleep(0.5)
        via = Target(port, "/mcp", "b0__echo", TOKEN)
        with relay("stdio", sys.executable, __file__, "--serve", "bare-stdio") as (relay_pid, relay_port):
            bare = await measure_pair(None, Target(relay_port), relay_pid, "bare relay, stdio backend", quick)
            row = await measure_pair(None, via, pid, "stdio backend, /mcp", quick)
        pipe_ms = await pipe_latency(500 if quick else 3000)
        for one in (row, bare):
            one.direct_p50_ms = pipe_ms
            one.added_p50_ms, one.added_p99_ms = one.p50_ms - pipe_ms, one.p99_ms - pipe_ms
        row.relay = bare
        rows += [row, bare]
    start = time.perf_counter()
    with running("--serve", "gateway", "--kind", "stdio", "--backends", "20", "--tools", "25") as (pid, port):
        print(f"start-up: {(time.perf_counter() - start) * 1000:.0f} ms until the endpoint listens (20 backends)")
        first, median, tools = await list_ms(Target(port, "/mcp", "b0__echo", TOKEN), 100)
        print(
            f"tools/list of {tools} tools over 20 backends: first {first:.0f} ms (backends starting), then {median:.2f} ms"
        )
    return rows


async def bench_containers(quick: bool) -> Row:
    """The bare server behind its door, in turns with the one on loopback, both through a gateway."""
    os.environ["BENCH_IMAGE"] = await asyncio.to_thread(egress_image)
    count, rounds = (300, 3) if quick else (1000, 5)
    async with http_pair() as (direct, plain, _):
        with running("--serve", "gateway", "--kind", "container") as (pid, port):
            via = Target(port, "/mcp", "b0__echo", TOKEN)
            row = await measure_pair(direct, via, pid, "HTTP backend in a container, /mcp", quick)
            taken: dict[int, list[float]] = {plain.port: [], port: []}
            for _ in range(rounds):
                for target in (plain, via):
                    taken[target.port] += await latency(target, count)
    boxed, bare = statistics.median(taken[port]), statistics.median(taken[plain.port])
    print(
        f"in a container: p50 {boxed:.3f} ms, on loopback {bare:.3f} ms; the container adds {boxed - bare:.3f} ms "
        f"(the bar: at most {CONTAINER_BAR_MS})"
    )
    return row


async def bench_rivals(quick: bool) -> list[Row]:
    """Other gateways over the same backends."""
    from bench import rivals

    rows = []
    for rival in rivals.RIVALS:
        if why := await asyncio.to_thread(rivals.install, rival.package):
            print(f"{rival.name}: not installed: {why}")
            continue
        name = f"{rival.name} {rivals.version(rival.package)}, {rival.kind} backend"
        try:
            with running("--serve", "bare-http") as (_, backend):
                url = [f"http://127.0.0.1:{backend}/mcp"]
                pipe = [sys.executable, __file__, "--serve", "bare-stdio"]
                with rivals.running(rival, url if rival.kind == "http" else pipe) as (pid, port):
                    direct = Target(backend) if rival.kind == "http" else None
                    async with asyncio.timeout(300):
                        row = await measure_pair(direct, Target(port), pid, name, quick, rival=True)
        except (RuntimeError, OSError, AssertionError, TimeoutError) as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:200]}")
            continue
        if rival.kind == "stdio":
            row.direct_p50_ms = await pipe_latency(500)
            row.added_p50_ms, row.added_p99_ms = row.p50_ms - row.direct_p50_ms, row.p99_ms - row.direct_p50_ms
        rows.append(row)
    return rows


def print_ratios(rows: list[Row], rivals: list[Row]) -> None:
    """How many times ours each rival is: its own kind of backend, in the same run."""
    for row in rivals:
        ours = rows[0] if "http" in row.what else rows[3]
        print(
            f"{row.what}: {row.added_p50_ms / ours.added_p50_ms:.1f} times the added p50, "
            f"{ours.calls_s_32 / max(row.calls_s_32, 0.01):.1f} times fewer calls a second, "
            f"{row.cpu_ms / ours.cpu_ms:.1f} times the CPU"
        )


def print_relay_ratios(rows: list[Row]) -> None:
    """The gateway's cost beside that of a relay that does nothing else."""
    for row in rows:
        if row.relay is not None:
            found = ratios(row, row.relay)
            print(
                f"{row.what}: {found['cpu_ms']:.2f} times the bare relay's CPU per call, "
                f"{found['added_p50_ms']:.2f} times its added p50, {found['calls_s_32']:.2f} times its calls a second"
            )


def print_table(rows: list[Row]) -> None:
    print(
        f"{'':42}{'direct':>8}{'p50':>8}{'p99':>8}{'+p50':>8}{'+p99':>8}{'/s @32':>8}{'/s @256':>8}{'cpu ms':>8}{'MiB':>7}"
    )
    for row in rows:
        many = f"{row.calls_s_256:.0f}" if row.calls_s_256 else "-"
        print(
            f"{row.what:42}{row.direct_p50_ms:8.3f}{row.p50_ms:8.3f}{row.p99_ms:8.3f}{row.added_p50_ms:8.3f}"
            f"{row.added_p99_ms:8.3f}{row.calls_s_32:8.0f}{many:>8}{row.cpu_ms:8.3f}{row.rss_mib:7.0f}"
        )


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--quick", action="store_true")
    options.add_argument("--check", action="store_true", help="exit 1 where the bar is missed")
    options.add_argument("--rivals", action="store_true", help="measure other gateways too (installs them)")
    options.add_argument(
        "--containers", action="store_true", help="measure a backend in a container (needs an engine)"
    )
    options.add_argument("--json", type=Path)
    options.add_argument("--serve", help=argparse.SUPPRESS)
    options.add_argument("--kind", default="http", help=argparse.SUPPRESS)
    options.add_argument("--backends", type=int, default=1, help=argparse.SUPPRESS)
    options.add_argument("--tools", type=int, default=5, help=argparse.SUPPRESS)
    options.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    match chosen.serve:
        case "bare-http":
            serve_http(chosen.tools, chosen.port)
        case "bare-stdio":
            serve_stdio(chosen.tools)
        case "gateway":
            serve_gateway(chosen.kind, chosen.backends, chosen.tools)
        case _:
            print(f"load average before: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
            rows = asyncio.run(bench(chosen.quick))
            rivals = asyncio.run(bench_rivals(chosen.quick)) if chosen.rivals else []
            boxed = [asyncio.run(bench_containers(chosen.quick))] if chosen.containers else []
            print(f"load average after: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")
            print_ratios(rows, rivals)
            rows += boxed + rivals
            print_table(rows)
            if chosen.json:
                chosen.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
            print_relay_ratios(rows)
            problems = [problem for row in rows for problem in missed(row)]
            print("\n".join(problems) or "the bar is met")
            return 1 if chosen.check and problems else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

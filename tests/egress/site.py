"""A whole site without Docker: real egress, door and connector processes in network namespaces of our own.

Our internet is a namespace with one address (of TEST-NET-3) and servers of ours, joined by a veth pair to the namespace
in which the egress runs. Each door gets an empty namespace. Needs root.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egress.doors.ticket import Ticket
from gateway.runtime.inventory.egress_link import EgressLink
from observability.events import EgressEvent, NoticeEvent

ROOT = Path(__file__).parents[2]
OUTSIDE = "203.0.113.10"
EGRESS = "203.0.113.2"
NONCE = "0123456789abcdef0123456789abcdef"
WAIT_S = 60.0

SERVERS = f"""
import asyncio
async def http(r, w):
    try:
        while True:
            await r.readuntil(b"\\r\\n\\r\\n")
            w.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello")
    except Exception:
        w.close()
async def echo(r, w):
    while data := await r.read(65536):
        w.write(data)
    w.close()
async def greet(r, w):
    w.write(b"greetings")
    await echo(r, w)
async def main():
    for port, serve in ((80, http), (443, echo), (5432, greet)):
        await asyncio.start_server(serve, "{OUTSIDE}", port)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def enter(process: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", f"--net=/proc/{process.pid}/ns/net"]


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, killed in the end."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@dataclass
class Site:
    """What runs, and how to ask it."""

    directory: Path
    stack: contextlib.ExitStack
    home: subprocess.Popen[bytes]
    """Holds the egress's namespace."""
    link: EgressLink
    events: list[EgressEvent | NoticeEvent]
    states: list[tuple[str, str, str]]
    egress: subprocess.Popen[bytes] | None = None
    doors: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "STOCKADE_CONTROL_DIR": str(self.directory / "control"),
            "STOCKADE_DOORS_DIR": str(self.directory / "doors"),
            "PYTHONPATH": str(ROOT),
        }

    def start_egress(self) -> subprocess.Popen[bytes]:
        """Start the egress; how many there are at once is the caller's business."""
        command = [*enter(self.home), sys.executable, "-m", "egress"]
        self.egress = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)
        self.stack.enter_context(ended(self.egress))
        return self.egress

    def spawn(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A process that ends with the site."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment or self.environment, stdin=pipe, stdout=pipe)
        return self.stack.enter_context(ended(process))

    async def start_door(
        self,
        name: str,
        *,
        backend: str = "",
        ports: str = "80,443",
        wrap: tuple[str, ...] = ("unshare", "-n"),
        container: str = "",
    ) -> subprocess.Popen[bytes]:
        """A door in a namespace of its own, ready."""
        await self.link.expect_door(Ticket(door=name, backend=backend or name, nonce=NONCE, container=container))
        environment = {**self.environment, "STOCKADE_DOOR": name, "STOCKADE_NONCE": NONCE, "STOCKADE_PORTS": ports}
        command = [*wrap, sys.executable, "-m", "egress.door.door"]
        door = self.spawn(command, environment)
        self.doors[name] = door
        await self.link.wait_door(name, WAIT_S)
        return door

    async def inside(self, door: str, code: str, *, check: bool = True) -> str:
        """Run Python in that door's namespace, as the backend would; what it printed."""
        command = [*enter(self.doors[door]), sys.executable, "-c", PRELUDE + code]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate()
        assert process.returncode == 0 or not check, err.decode()
        return out.decode().strip()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.02)

    async def event(self, matches: Callable[[EgressEvent], bool]) -> EgressEvent:
        def found() -> list[EgressEvent]:
            return [event for event in self.events if isinstance(event, EgressEvent) and matches(event)]

        await self.until(lambda: bool(found()))
        return found()[0]

    async def notice(self, code: str) -> NoticeEvent:
        def found() -> list[NoticeEvent]:
            return [event for event in self.events if isinstance(event, NoticeEvent) and event.code == code]

        await self.until(lambda: bool(found()))
        return found()[-1]

    async def push(self, backends: Mapping[str, Mapping[str, object]]) -> None:
        names = ("web.example", "db.example", "host.docker.internal")
        resolve = [f"{name}:{port}:{OUTSIDE}" for name in names for port in (80, 443, 5432)]
        await self.link.push_policies(backends, {"resolve": resolve})


PRELUDE = """
import socket, struct, sys
def dial(address, port):
    s = socket.socket(); s.settimeout(10); s.connect((address, port)); return s
def http(url_host, port=3128, address="127.0.0.1", head=None):
    s = dial(address, port)
    s.sendall((head or f"GET http://{url_host}/ HTTP/1.1\\r\\nHost: {url_host}\\r\\nConnection: close\\r\\n\\r\\n").encode())
    data = b""
    try:
        while piece := s.recv(65536): data += piece
    except ConnectionError: pass
    return data.decode("latin-1")
def query(name, kind=1):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", kind, 1)
def lookup(name, server="8.8.8.8", kind=1):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10); s.connect((server, 53))
    s.send(query(name, kind)); data = s.recv(512)
    count = struct.unpack_from("!H", data, 6)[0]
    return data[3] & 15, [socket.inet_ntoa(data[len(data) - 4 - 16 * i:][:4]) for i in range(count)]
"""


@contextlib.asynccontextmanager
async def site(backends: Mapping[str, Mapping[str, object]]) -> AsyncIterator[Site]:
    """An egress with these policies, up and connected."""
    events: list[EgressEvent | NoticeEvent] = []
    states: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="sk") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        os.chmod(directory, 0o755)
        for part in ("control", "doors"):
            (directory / part).mkdir()
            os.chmod(directory / part, 0o777)
        home = stack.enter_context(ended(start_home()))
        stack.enter_context(ended(await asyncio.to_thread(start_servers, home.pid)))
        link = EgressLink(directory / "control", on_event=events.append, on_door=lambda *state: states.append(state))
        running = Site(directory, stack, home, link, events, states)
        running.start_egress()
        task = asyncio.ensure_future(link.run())
        try:
            await link.wait_connected(WAIT_S)
            await running.push(backends)
            yield running
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def start_home() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["unshare", "-n", "sleep", "3600"])


def start_servers(home: int) -> subprocess.Popen[bytes]:
    """Our internet: a namespace with one address, joined by a cable to the egress's namespace."""
    script = f"""
ip link set lo up
ip link add v0 type veth peer name v1 netns {home}
ip addr add {OUTSIDE}/24 dev v0; ip link set v0 up
nsenter --net=/proc/{home}/ns/net sh -c 'ip link set lo up; ip addr add {EGRESS}/24 dev v1; ip link set v1 up'
exec "$0" -c "$1"
"""
    process = subprocess.Popen(
        ["unshare", "-n", "sh", "-ec", script, sys.executable, SERVERS], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process

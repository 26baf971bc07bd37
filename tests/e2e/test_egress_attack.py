"""A hostile backend uses all that it is given against the egress: its neighbour keeps its service, nothing leaks."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.demo import stage
from gateway.runtime.sandbox import backoff
from gateway.runtime.sandbox.errors import BackendUnavailable
from observability.events import NoticeEvent, Reason, Via
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

SOAK = bool(os.environ.get("STOCKADE_SOAK"))
HOSTS = {"allowed_hosts": ["direct.example"]}
LIMITS = {"hostile": {"connections": 300}, "calm": {"rate": 5000}}
"""The calm one asks in a tight loop, more than the usual 200 times a second: what it lacks must be the other's doing."""
GET = """
import socket
def get():
    with socket.create_connection(("127.0.0.1", 3128), timeout=20) as sock:
        sock.sendall(b"GET http://direct.example/ HTTP/1.1\\r\\nHost: direct.example\\r\\nConnection: close\\r\\n\\r\\n")
        return sock.makefile("rb").read().decode()
"""
FIRST = """
import socket
taken = []
for port in (80, 443, 53, 3128, 5432):
    for address in ("0.0.0.0", "127.0.0.1", "203.0.113.7"):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                sock.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    sock.listen()
                taken.append((kind, port, sock))
            except OSError:
                sock.close()
"""
"""What the hostile image runs before it does anything else."""
TAKEN = "import __main__; answer = [(kind, port) for kind, port, _ in __main__.taken]"

CONNECTIONS = """
import os, resource, socket
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held = []
try:
    while True:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", 3128))
        held.append(sock)
except OSError as error:
    answer = len(held), error.errno
del held
"""
FORKS = """
import os, signal, socket, time
children = []
try:
    while len(children) < 2000:
        pid = os.fork()
        if pid == 0:
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", 3128), timeout=5) as sock:
                        sock.sendall(b"GET http://x.evil.example/ HTTP/1.1\\r\\nHost: x.evil.example\\r\\n\\r\\n")
                        sock.recv(100)
                except OSError:
                    pass
        children.append(pid)
except OSError:
    pass
time.sleep(3)
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
answer = len(children)
"""
SLOW = """
import socket, time
held = []
for number in range(900):
    sock = socket.create_connection(("127.0.0.1", 3128), timeout=5)
    sock.sendall(b"GET http://direct.example/ HTTP/1.1\\r\\nHost: dir")
    held.append(sock)
for sock in held[:200]:
    sock.close()
answer = len(held)
del held
"""
DNS = """
import socket, struct
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setblocking(False)
answer = 0
for number in range(5000):
    label = f"n{number}".encode()
    query = struct.pack(">6H", number, 0x100, 1, 0, 0, 0) + bytes([len(label)]) + label + b"\\x04evil\\x07example\\0"
    try:
        sock.sendto(query + struct.pack(">2H", 1, 1), ("203.0.113.9", 53))
        answer += 1
    except OSError:
        pass
"""
ATTACKS = {"connections": CONNECTIONS, "forks": FORKS, "slow heads": SLOW, "lookups": DNS}


@pytest.fixture(scope="module")
def site(internet: stage.Internet) -> Iterator[Yard]:
    with yard() as found:
        servers = {name: found.rogue(network={**HOSTS, "limits": limits}) for name, limits in LIMITS.items()}
        servers["hostile"]["args"] = ["-u", "-c", FIRST + servers["hostile"]["args"][-1]]
        found.up(servers, egress={"resolve": resolve(internet)})
        for backend in servers:
            found.ask(GET, backend)
        yield found


def resolve(internet: stage.Internet) -> list[str]:
    return [f"direct.example:{port}:{internet.address}" for port in (80, 443, 5432)]


def works(site: Yard, backend: str = "calm") -> bool:
    """Whether a call of that backend gets its page."""
    return "hello from direct.example" in site.ask(GET + "answer = get()", backend)


@contextlib.contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Runs `work` beside the block; its result is in the list afterwards."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    try:
        yield found
    finally:
        thread.join()


def egress_memory_mib(site: Yard) -> float:
    """Resident, of the egress's own process."""
    info = site.portal.call(site.engine.inspect, site.sandbox.egress.container)
    assert info is not None
    resident = 0
    for pid in processes(info.pid):
        status = Path(f"/proc/{pid}/status").read_text()
        resident += int(status.partition("VmRSS:")[2].split()[0])
    return resident / 1024


def processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def test_whoever_binds_first_finds_the_doors_ports_taken(site: Yard) -> None:
    """TCP 80, 443, 53, 3128 and UDP 53 are the door's from before the backend's first instruction."""
    taken = {(kind, port) for kind, port in site.ask(TAKEN, "hostile")}
    assert not taken & {(1, 80), (1, 443), (1, 53), (2, 53)}
    assert (1, 5432) in taken, "a port that nobody named is its own"
    assert works(site, "hostile")


def test_a_port_that_the_policy_names_later_and_the_backend_holds_is_told_and_fails_closed(
    site: Yard, internet: stage.Internet
) -> None:
    hosts = ["direct.example", {"host": "direct.example", "port": 5432, "protocol": "tcp"}]
    servers = {name: entry_with(site, name, {"allowed_hosts": hosts, "limits": LIMITS[name]}) for name in LIMITS}
    containers = site.pair("hostile").containers
    site.portal.call(site.supervisor.apply, site.config(servers, egress={"resolve": resolve(internet)}))

    def told() -> list[NoticeEvent]:
        return [e for e in site.events if isinstance(e, NoticeEvent) and "5432" in e.message]

    site.until(lambda: bool(told()))
    assert {event.backend for event in told()} == {"hostile"}, "the calm one's door listens"
    code = "import socket; s = socket.create_connection(('203.0.113.7', 5432), 5); answer = s.getpeername()[0]"
    before = len(site.egress_events("hostile"))
    assert site.ask(code, "hostile") == "203.0.113.7", "it spoke with itself"
    assert [e for e in site.egress_events("hostile")[before:] if e.via is Via.TCP] == []
    assert works(site, "hostile")
    assert site.pair("hostile").containers == containers


def entry_with(site: Yard, backend: str, network: dict[str, Any]) -> dict[str, Any]:
    server = site.supervisor.config.servers[backend]
    return site.rogue(network=network, args=list(server.args))


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_neighbours_calls_succeed_while_a_backend_attacks(site: Yard, attack: str) -> None:
    before = egress_memory_mib(site)
    with meanwhile(lambda: site.ask(ATTACKS[attack], "hostile", 90)) as found:
        served = 0
        while not found:
            assert works(site)
            served += 1
    assert served >= 1
    assert egress_memory_mib(site) < before + 100
    site.until(lambda: works(site, "hostile"), 40)


def test_what_the_limits_dropped_is_counted(site: Yard) -> None:
    """After the attacks above."""
    limits = {Reason.LIMIT_CONNECTIONS, Reason.LIMIT_RATE, Reason.LIMIT_DNS}
    site.until(lambda: limits <= {event.reason for event in site.egress_events("hostile")})
    assert max(event.count for event in site.egress_events("hostile") if event.reason is Reason.LIMIT_DNS) > 100
    assert not limits & {event.reason for event in site.egress_events("calm")}


# --- killed under load

AWAY = (BackendUnavailable, RuntimeError, TimeoutError, OSError)
"""What a call meets while its backend, its door or the egress is down."""
CYCLES = int(os.environ.get("STOCKADE_TEST_CYCLES", "200" if SOAK else "10"))


@pytest.mark.slow
@pytest.mark.timeout(3600 if SOAK else 300)
def test_killed_under_load_it_comes_back_and_leaves_nothing(site: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Egress and door in turn, by SIGKILL, while both backends ask for pages (`STOCKADE_SOAK=1`: 200 cycles)."""
    monkeypatch.setattr(backoff, "BREAKS_AFTER", 10**6)  # as if the kills were hours apart
    monkeypatch.setattr(backoff, "LONGEST_S", backoff.FIRST_S)
    started = time.monotonic()
    stop = threading.Event()
    with meanwhile(lambda: load(site, stop)):
        try:
            kill_both(site)
            before = leftovers(site)
            for _ in range(CYCLES):
                kill_both(site)
            site.until(lambda: all(now <= then + 4 for now, then in zip(leftovers(site), before, strict=True)), 30)
            print(f"\n{CYCLES} cycles in {time.monotonic() - started:.0f} s; containers, namespaces, descriptors:")
            print(before, leftovers(site))
        finally:
            stop.set()


def load(site: Yard, stop: threading.Event) -> None:
    """The hostile one asks without end, 50 at a time; its container never ends meanwhile, its door does."""
    code = GET + "import threading\nts = [threading.Thread(target=get) for _ in range(50)]\n"
    code += "threading.excepthook = lambda _: None\n[t.start() for t in ts]; [t.join() for t in ts]"
    while not stop.is_set():
        with contextlib.suppress(*AWAY):
            site.ask(code, "hostile", 60)


def kill_both(site: Yard) -> None:
    """The egress, then the calm one's door; after each its calls succeed again."""
    site.kill(site.sandbox.egress.container)
    site.until(lambda: recovered(site), 30)
    site.kill(site.pair("calm").containers[1])
    site.until(lambda: recovered(site), 30)


def recovered(site: Yard) -> bool:
    """Whether the calm one is served; while it is away, no."""
    try:
        return works(site)
    except AWAY:
        return False


def leftovers(site: Yard) -> tuple[int, int, int, int]:
    """Containers, network namespaces of ours, descriptors of this process and of the egress.

    Ours are those of the processes that see our rendezvous: the egress and every door.
    """
    gc.collect()
    namespaces = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/{site.directory.name}/" in (path / "mountinfo").read_text():
                namespaces.add((path / "ns" / "net").readlink())
    info = site.portal.call(site.engine.inspect, site.sandbox.egress.container)
    egress = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes(info.pid)) if info and info.pid else 0
    return len(site.containers()), len(namespaces), len(os.listdir("/proc/self/fd")), egress

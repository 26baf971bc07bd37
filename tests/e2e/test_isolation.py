"""A hostile backend on the real engine tries to get out. What counts is what arrives at listeners of ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from egress.net.interfaces import interface_addresses
from gateway.runtime.containers import backend_instance
from gateway.runtime.containers.probe import ProbeListeners, listening
from observability.events import Decision, Phase, Reason, Via
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

NOWHERE = "198.51.100.7"
"""TEST-NET-2: nobody's address."""
PROBE = files("gateway.runtime.containers").joinpath("probe_script.py").read_text()


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    """A rogue that may reach nothing, and a neighbour that is not isolated and listens."""
    with yard() as found:
        listener = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"
        neighbour = {"image": found.image, "entrypoint": ["python3"], "args": ["-u", "-c", listener], "port": 8000}
        found.up(
            {
                "rogue": found.rogue(),
                "neighbour": {**neighbour, "network": {"isolated": False}},
            }
        )
        yield found


@pytest.fixture
def ears(site: Yard) -> Iterator[ProbeListeners]:
    """Listeners on every address of this machine."""
    with site.portal.wrap_async_context_manager(listening()) as found:
        yield found


def order(ears: ProbeListeners, targets: list[str]) -> dict[str, Any]:
    """What the probe's script is told."""
    return {
        "nonce": ears.nonce, "tcp": ears.tcp_port, "udp": ears.udp_port, "limit_s": 1.0,
        "targets": [t for t in targets if not t.startswith("fe80")],
        "link_local": [t for t in targets if t.startswith("fe80")],
    }  # fmt: skip


def run_probe(site: Yard, ears: ProbeListeners, targets: list[str], backend: str = "rogue") -> dict[str, Any]:
    """Runs the probe's script inside a backend; its own report."""
    report: dict[str, Any] = site.ask(
        f"""
        import contextlib, io, json, os
        os.environ["STOCKADE_PROBE"] = {order(ears, targets)!r}.__repr__().replace("'", '"')
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec({PROBE!r}, {{"__name__": "__main__"}})
        answer = json.loads(out.getvalue())
        """,
        backend,
        60,
    )
    return report


def all_targets(site: Yard) -> list[str]:
    """Every address of this machine, of the egress, of the neighbour, and nobody's."""
    addresses = [str(address) for address in interface_addresses()]
    return sorted({*addresses, *site.sandbox.egress.addresses, site.pair("neighbour").address, NOWHERE})


def test_the_namespace_holds_loopback_and_nothing_else(site: Yard) -> None:
    assert site.ask("import socket; answer = [n for _, n in socket.if_nameindex()]") == ["lo"]
    assert site.ask("answer = open('/proc/net/arp').read().count(chr(10))") == 1, "no neighbour, only the heading"
    assert site.ask("answer = open('/proc/net/if_inet6').read()") == "", "no IPv6 address"


def test_nothing_a_backend_sends_arrives_anywhere(site: Yard, ears: ProbeListeners) -> None:
    report = run_probe(site, ears, all_targets(site))
    assert ears.heard == set()
    assert report["interfaces"] == ["lo"]
    assert set(report["raw"].values()) == {"Operation not permitted"}, "no raw and no packet socket"


def test_the_same_program_on_an_ordinary_network_does_arrive(site: Yard, ears: ProbeListeners) -> None:
    """The positive control: without it, silence would prove nothing."""
    servers = dict(site.supervisor.config.servers)
    site.portal.call(site.supervisor.apply, site.config({**servers, "free": site.rogue(network={"isolated": False})}))
    run_probe(site, ears, all_targets(site), "free")
    site.portal.call(site.supervisor.apply, site.config(servers))
    assert {heard.split()[0] for heard in ears.heard} == {"tcp", "udp"}


def test_a_neighbours_service_is_not_reached_though_it_is_there(site: Yard) -> None:
    address = site.pair("neighbour").address
    with socket.create_connection((address, 8000), timeout=5):
        pass  # this machine reaches it
    outcome = site.ask(
        f"""
        import socket
        try:
            socket.create_connection(("{address}", 8000), timeout=2)
            answer = "connected"
        except OSError as error:
            answer = error.errno
        """
    )
    assert outcome == 111


def test_a_direct_connection_on_a_listened_port_ends_at_the_egress_and_is_seen(site: Yard) -> None:
    outcome = site.ask(
        f"""
        import socket
        with socket.create_connection(("{NOWHERE}", 443), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n")
            try:
                answer = sock.recv(100).decode()
            except ConnectionResetError:
                answer = ""
        """
    )
    assert "200" not in outcome
    site.until(lambda: any(e.destination == f"{NOWHERE}:443" for e in site.egress_events()))
    event = next(e for e in site.egress_events() if e.destination == f"{NOWHERE}:443")
    assert (event.via, event.decision, event.reason) == (Via.DIRECT, Decision.DENY, Reason.DIRECT_ATTEMPT)


def test_a_direct_connection_elsewhere_is_refused_at_once_and_counted(site: Yard) -> None:
    before = sum(e.count for e in site.egress_events() if e.phase is Phase.COUNTED)
    assert site.ask(f"import socket; answer = socket.socket().connect_ex(('{NOWHERE}', 8443))") == 111
    site.until(lambda: sum(e.count for e in site.egress_events() if e.phase is Phase.COUNTED) > before)


@pytest.mark.parametrize(
    ("family", "name"),
    [(17, "packet"), (40, "vsock"), (38, "alg"), (30, "tipc"), (44, "xdp"), (31, "bluetooth"), (15, "key")],
)
def test_sockets_that_a_network_namespace_does_not_cover_cannot_be_made(site: Yard, family: int, name: str) -> None:
    """Made and closed, never connected."""
    outcome = site.ask(
        f"""
        import socket
        answer = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                socket.socket({family}, kind).close()
                answer.append("made")
            except OSError as error:
                answer.append(error.errno)
        """
    )
    assert outcome == [1, 1, 1], name


@pytest.mark.parametrize("protocol", [4, 9, 12, 15, 16])
def test_of_netlink_only_routing_is_there(site: Yard, protocol: int) -> None:
    code = "import socket\ntry:\n    socket.socket(16, socket.SOCK_RAW, {}).close(); answer = 0\n"
    code += "except OSError as error:\n    answer = error.errno"
    assert site.ask(code.format(protocol)) == 1
    assert site.ask(code.format(0)) == 0


def test_io_uring_is_denied(site: Yard) -> None:
    assert site.ask(
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        answer = []
        for number in (425, 426, 427):
            libc.syscall(number, 1, 0)
            answer.append(ctypes.get_errno())
        """
    ) == [1, 1, 1]


FOREIGN = """
import ctypes, mmap, os
def attempt(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(99)
    status = os.waitpid(pid, 0)[1]
    return ["signal", os.WTERMSIG(status)] if os.WIFSIGNALED(status) else ["exit", os.WEXITSTATUS(status)]
def x32():
    result = ctypes.CDLL(None).syscall(0x40000000 | 41, 2, 1, 0)
    os._exit(0 if result < 0 else 99)
def i386():
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
answer = [attempt(x32), attempt(i386)]
"""


def test_foreign_calling_conventions_end_the_caller(site: Yard) -> None:
    for kind, value in site.ask(FOREIGN):
        assert (kind, value) in {("signal", 31), ("signal", 11), ("exit", 0)}, "denied or killed, never done"


def test_an_abstract_socket_of_this_machine_is_not_there(site: Yard) -> None:
    name = f"\0stockade-test-{site.project}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
        assert site.ask(f"import socket; answer = socket.socket(socket.AF_UNIX).connect_ex({name!r})") == 111
    assert site.ask("answer = open('/proc/net/unix').read().count('@')") == 0, "nor one of the door's"


def test_ipv6_and_multicast_go_nowhere(site: Yard) -> None:
    outcome = site.ask(
        """
        import socket
        answer = []
        for address in ("2001:db8::1", "fe80::1", "ff02::1", "::1"):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                try:
                    sock.sendto(b"x", (address, 9))
                    answer.append(0)
                except OSError as error:
                    answer.append(error.errno)
        """
    )
    assert all(outcome), outcome


TAKE = """
import socket
answer = {}
for kind, name in ((socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp")):
    for address in ("0.0.0.0", "127.0.0.1", "198.51.100.7"):
        for port in (80, 443, 53, 3128):
            for reuse in ([], [socket.SO_REUSEADDR], [socket.SO_REUSEPORT], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]):
                sock = socket.socket(socket.AF_INET, kind)
                try:
                    for option in reuse:
                        sock.setsockopt(socket.SOL_SOCKET, option, 1)
                    sock.bind((address, port))
                    if kind == socket.SOCK_STREAM:
                        sock.listen()
                    answer[f"{name} {address}:{port}"] = "taken"
                except OSError:
                    pass
                sock.close()
"""


def test_a_backend_cannot_take_a_port_from_its_door(site: Yard) -> None:
    taken = set(site.ask(TAKE))
    harmless = {"tcp 198.51.100.7:3128"} | {
        f"udp {a}:{p}" for a in ("0.0.0.0", "127.0.0.1", NOWHERE) for p in (80, 443, 3128)
    }
    assert taken <= harmless, "ports nobody of ours listens on may be bound"


def test_a_backend_may_listen_on_a_port_of_its_own(site: Yard) -> None:
    assert (
        site.ask("import socket; s = socket.create_server(('127.0.0.1', 8080)); answer = s.getsockname()[1]") == 8080
    )


def test_a_backend_has_no_privilege_and_nothing_to_write_but_temporary_files(site: Yard) -> None:
    status = site.ask("answer = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines())")
    assert {status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Uid"].split() == ["65532"] * 4
    assert (
        site.ask(
            """
        import os
        answer = []
        for path in ("/", "/etc", "/opt/stockade", "/usr/bin", "/run"):
            try:
                open(os.path.join(path, "x"), "w").close()
                answer.append(path)
            except OSError:
                pass
        """
        )
        == []
    )
    assert site.ask("open('/tmp/x', 'w').write('y'); answer = open('/tmp/x').read()") == "y"
    assert (
        site.ask("import os; answer = [p for p in ('/run/stockade', '/var/run/docker.sock') if os.path.exists(p)]")
        == []
    )


def test_a_fork_bomb_meets_its_limit_and_the_backend_lives(site: Yard) -> None:
    made = site.ask(
        """
        import os, signal
        children = []
        try:
            while len(children) < 2000:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        except OSError:
            pass
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        answer = len(children)
        """
    )
    assert made < 256


@pytest.fixture
def mighty(site: Yard, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A backend that was given NET_ADMIN and NET_RAW, and root, on purpose."""
    plan_backend = site.sandbox.planner.plan_backend

    async def with_capabilities(instance: str, *rest: Any) -> Any:
        plan = await plan_backend(instance, *rest)
        if instance != "mighty":
            return plan
        return replace(plan, capabilities=("NET_ADMIN", "NET_RAW"), user="0:0")

    monkeypatch.setattr(site.sandbox.planner, "plan_backend", with_capabilities)
    monkeypatch.setattr(backend_instance, "check_hardening", lambda plan: None)
    servers = dict(site.supervisor.config.servers)
    site.portal.call(site.supervisor.apply, site.config({**servers, "mighty": site.rogue()}))
    yield "mighty"
    site.portal.call(site.supervisor.apply, site.config(servers))


ROUTES = """
import fcntl, socket, struct
answer = []
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for target in TARGETS:
        request = struct.pack("16sH2s4s8s", b"lo", socket.AF_INET, b"\\0\\0", socket.inet_aton(target), b"\\0" * 8)
        try:
            fcntl.ioctl(sock, 0x8916, request)  # SIOCSIFADDR: an address of somebody else
            answer.append(target)
        except OSError as error:
            answer.append(error.errno)
try:
    open("/proc/sys/net/ipv4/ip_forward", "w").write("1")
    answer.append("forward")
except OSError:
    pass
"""


def test_every_capability_over_its_own_network_still_reaches_nothing(
    site: Yard, mighty: str, ears: ProbeListeners
) -> None:
    assert int(site.ask("answer = open('/proc/self/status').read().split('CapEff:')[1].split()[0]", mighty), 16)
    targets = all_targets(site)
    report = run_probe(site, ears, targets, mighty)
    assert report["raw"]["raw-udp"] == "made", "it has what it takes to forge"
    assert report["raw"]["packet"] != "made", "but no family beyond the four"
    four = [target for target in targets if ":" not in target]
    site.ask(f"TARGETS = {four!r}\n{ROUTES}", mighty)
    run_probe(site, ears, targets, mighty)
    assert ears.heard == set()


def test_what_it_does_to_its_own_door_harms_nobody_else(site: Yard, mighty: str) -> None:
    """It takes `lo` down: its own door is cut off, the rogue's goes on."""
    site.ask(
        """
        import fcntl, socket, struct
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, 0x8914, struct.pack("16sH22s", b"lo", 0, b""))
        """,
        mighty,
    )
    assert site.ask("import socket; answer = socket.socket().connect_ex(('127.0.0.1', 3128))") == 0


def test_a_flood_of_connections_leaves_the_neighbour_its_service(site: Yard) -> None:
    """A backend that opens thousands of connections to the egress is bounded; another backend is still served."""
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            site.ask(
                """
                import socket
                held = []
                for _ in range(1500):
                    s = socket.socket(); s.setblocking(False); s.connect_ex(("127.0.0.1", 3128)); held.append(s)
                answer = len(held)
                """,
                timeout_s=60,
            )

    servers = dict(site.supervisor.config.servers)
    site.portal.call(site.supervisor.apply, site.config({**servers, "calm": site.rogue()}))
    site.pair("calm")
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(5):
            reply = site.ask(
                """
                import socket
                with socket.create_connection(("127.0.0.1", 3128), timeout=10) as sock:
                    sock.sendall(b"CONNECT evil.example:443 HTTP/1.1\\r\\nHost: evil.example:443\\r\\n\\r\\n")
                    answer = sock.recv(200).decode()
                """,
                "calm",
            )
            assert reply.startswith("HTTP/1.1 403")
    finally:
        stop.set()
        thread.join()
        site.portal.call(site.supervisor.apply, site.config(servers))

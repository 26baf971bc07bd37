"""Processes die at any moment: nothing gets out meanwhile, everything comes back, nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.runtime.containers.probe import listening
from observability.events import BackendState
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

CYCLES = int(os.environ.get("STOCKADE_TEST_CYCLES", "8"))


class Service:
    """A service on this machine that greets everybody who comes."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("0.0.0.0", 0))
        self.port = self.sock.getsockname()[1]
        self.served = 0
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                self.served += 1
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    found = Service()
    yield found
    found.close()


@pytest.fixture
def site(service: Service) -> Iterator[Yard]:
    """A rogue that may reach that service and nothing else."""
    with yard() as found:
        network = {"allowed_hosts": ["host.docker.internal"], "allowed_ports": [service.port]}
        found.up({"rogue": found.rogue(network=network)})
        yield found


def fetch(site: Yard, port: int) -> str:
    """What the rogue gets from the service through the proxy; the error's name when it gets nothing."""
    answer: str = site.ask(
        f"""
        import socket
        try:
            with socket.create_connection(("127.0.0.1", 3128), timeout=3) as sock:
                name = "host.docker.internal:{port}"
                head = f"GET http://{{name}}/ HTTP/1.1\\r\\nHost: {{name}}\\r\\nConnection: close\\r\\n\\r\\n"
                sock.sendall(head.encode())
                answer = sock.makefile("rb").read(4000).decode()
        except OSError as error:
            answer = type(error).__name__
        """
    )
    return answer


def works(site: Yard, service: Service) -> bool:
    """Whether the allowed service is reached; a backend that is away meanwhile counts as no."""
    try:
        return fetch(site, service.port).endswith("hi")
    except RuntimeError:
        return False


LOAD = """
import socket, threading
stop, counts = threading.Event(), {{"good": 0, "bad": 0, "leaked": 0}}
def load(port, allowed):
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", 3128), timeout=2) as sock:
                name = f"host.docker.internal:{{port}}"
                head = f"GET http://{{name}}/ HTTP/1.1\\r\\nHost: {{name}}\\r\\nConnection: close\\r\\n\\r\\n"
                sock.sendall(head.encode())
                good = sock.makefile("rb").read(4000).endswith(b"hi")
        except OSError:
            good = False
        counts["good" if good and allowed else "leaked" if good else "bad"] += 1
for port, allowed in (({port}, True), ({port}, True), ({denied}, False)):
    threading.Thread(target=load, args=(port, allowed), daemon=True).start()
"""


@contextlib.contextmanager
def load(site: Yard, service: Service, denied: Service) -> Iterator[None]:
    """The rogue asks for the allowed and for a denied service all the time."""
    site.ask(LOAD.format(port=service.port, denied=denied.port))
    site.until(lambda: site.ask("answer = counts['good']") > 5)
    yield
    site.ask("stop.set()")


def test_the_egress_killed_under_load_lets_nothing_out_and_comes_back(site: Yard, service: Service) -> None:
    denied = Service()
    identity = site.pair().container
    with load(site, service, denied):
        for number in range(1, 4):
            site.kill(site.sandbox.egress.container)
            site.until(lambda: site.sandbox.egress.restarts == number)  # noqa: B023
            before = site.ask("answer = counts['good']")
            site.until(lambda: site.ask("answer = counts['good']") > before + 5)  # noqa: B023
    assert denied.served == 0
    assert site.ask("answer = counts['leaked']") == 0
    assert site.pair().container == identity, "the backend was never touched"
    assert site.sandbox.egress.restarts == 3
    denied.close()


def test_a_door_killed_under_load_lets_nothing_out_and_comes_back(site: Yard, service: Service) -> None:
    denied = Service()
    for _ in range(2):
        restarts = site.supervisor.status()[0].restarts
        with contextlib.suppress(RuntimeError), load(site, service, denied):
            site.kill(site.pair().containers[1])
        site.until(lambda: site.supervisor.status()[0].restarts == restarts + 1)  # noqa: B023
        site.until(lambda: works(site, service))
    assert denied.served == 0
    denied.close()


def test_while_the_egress_is_away_nothing_arrives(site: Yard, service: Service) -> None:
    assert works(site, service)
    with site.portal.wrap_async_context_manager(listening()) as ears:
        site.portal.call(site.engine.call, "pause", lambda api: api.pause(site.sandbox.egress.container))
        served = service.served
        assert fetch(site, service.port) in {"TimeoutError", ""}
        assert service.served == served
        assert ears.heard == set()
        site.portal.call(site.engine.call, "go on", lambda api: api.unpause(site.sandbox.egress.container))
    site.until(lambda: works(site, service))


def test_a_killed_door_takes_its_backend_with_it_and_both_come_back(site: Yard, service: Service) -> None:
    first = site.pair()
    assert works(site, service)
    site.kill(first.containers[1])
    site.until(lambda: site.supervisor.status()[0].restarts == 1)
    site.until(lambda: works(site, service))
    second = site.pair()
    assert not set(first.containers) & set(second.containers)
    assert len(site.containers()) == 3


def test_a_killed_backend_comes_back_behind_the_same_door(site: Yard, service: Service) -> None:
    first = site.pair()
    door = first.containers[1]
    site.kill(first.container)
    site.until(lambda: works(site, service))
    assert site.pair().containers[1] == door


def test_a_killed_process_of_the_host_is_noticed_too(site: Yard, service: Service) -> None:
    """Not through the engine's API: SIGKILL to the door's own process."""
    info = site.portal.call(site.engine.inspect, site.pair().containers[1])
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    site.until(lambda: site.supervisor.status()[0].restarts == 1)
    site.until(lambda: works(site, service))


def test_a_policy_takes_effect_at_once_and_touches_no_container(site: Yard, service: Service) -> None:
    containers = site.pair().containers
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue()}))
    assert fetch(site, service.port).startswith("HTTP/1.1 403")
    network = {"allowed_hosts": ["host.docker.internal"], "allowed_ports": [service.port]}
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue(network=network)}))
    assert works(site, service)
    assert site.pair().containers == containers


def test_down_leaves_no_container_and_no_network(site: Yard) -> None:
    site.pair()
    assert len(site.containers()) == 3
    assert len(site.networks()) == 1
    site.down()
    assert site.containers() == []
    assert site.networks() == []


def network_namespaces() -> int:
    """Namespaces that a process is in. (The engine holds an empty one for up to a minute more: libnetwork's
    `gpmCleanupPeriod`.)"""
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found.add(path.readlink())
    return len(found)


def processes(pid: int) -> list[int]:
    """A process and its children (the engine's init is the first of a container)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def descriptors(*pids: int) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


def test_many_lives_leave_no_container_namespace_or_descriptor_behind(site: Yard, service: Service) -> None:
    assert works(site, service)
    egress = site.portal.call(site.engine.inspect, site.sandbox.egress.container)
    assert egress is not None
    site.portal.call(site.supervisor.restart, "rogue")
    assert works(site, service)
    before = look(site, egress.pid)
    for _ in range(CYCLES):
        site.portal.call(site.supervisor.restart, "rogue")
        assert works(site, service)
    site.until(lambda: all(now <= then + 3 for now, then in zip(look(site, egress.pid), before, strict=True)))


def look(site: Yard, egress: int) -> tuple[int, int, int, int]:
    """Containers, namespaces, descriptors of this process, descriptors of the egress."""
    gc.collect()
    return (
        len(site.containers()),
        network_namespaces(),
        descriptors(os.getpid()),
        descriptors(*processes(egress)),
    )


GATEWAY = """
import json, os, signal, sys, threading
from pathlib import Path
from anyio.from_thread import start_blocking_portal
from tests.gateway.runtime.real import Yard
with start_blocking_portal("asyncio") as portal:
    site = Yard(portal, sys.argv[1], Path(sys.argv[2]))
    site.prepare()
    web = {"image": site.image, "entrypoint": ["python3"], "port": 8000, "args": ["-u", "-m", "http.server", "8000"]}
    site.up({"rogue": site.rogue(), "web": web, "gone": site.rogue()})
    site.ask("mine = 1")
    site.pair("gone")
    print(json.dumps({n: site.pair(n).containers for n in ("rogue", "web")}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_killed_gateway_the_next_one_takes_over_and_cleans(site: Yard) -> None:
    """Same containers; the http backend was never interrupted, the stdio conversation began anew."""
    site.down()
    child = subprocess.run(
        [sys.executable, "-c", GATEWAY, site.project, str(site.directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    before = json.loads(child.stdout)
    assert len(site.containers()) == 7
    running = {c for pair in before.values() for c in pair}
    started = {c: info.started_at for c in running if (info := site.portal.call(site.engine.inspect, c))}
    web = {"image": site.image, "entrypoint": ["python3"], "port": 8000, "args": ["-u", "-m", "http.server", "8000"]}
    site.up({"rogue": site.rogue(), "web": web})
    assert {n: list(site.pair(n).containers) for n in ("rogue", "web")} == before
    with pytest.raises(RuntimeError, match="mine"):
        site.ask("answer = mine")
    now = {c: info.started_at for c in running if (info := site.portal.call(site.engine.inspect, c))}
    assert {c for c in running if now[c] != started[c]} == {before["rogue"][0]}, "only the stdio backend began anew"
    assert len(site.containers()) == 5, "the one that is not wanted any more is gone"
    sock = site.portal.call(site.pair("web").connect)
    sock.close()
    site.down()
    assert site.containers() == []


def test_two_projects_on_one_engine_do_not_touch_each_other(site: Yard) -> None:
    with yard() as other:
        other.up({"rogue": other.rogue()})
        assert site.pair().containers != other.pair().containers
        other.down()
        assert other.containers() == []
    assert site.ask("answer = 1") == 1


def test_a_backend_that_ends_at_once_says_what_it_printed(site: Yard) -> None:
    broken = {"image": site.image, "entrypoint": ["python3"], "args": ["-c", "import sys; sys.exit('no key given')"]}
    site.portal.call(site.supervisor.apply, site.config({"broken": broken}))
    site.until(lambda: site.supervisor.status()[0].state in {BackendState.BACKOFF, BackendState.FAILED})
    assert "no key given" in site.supervisor.status()[0].detail
    assert "exited with code 1" in site.supervisor.status()[0].detail

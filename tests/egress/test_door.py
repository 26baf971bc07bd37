"""The door, as a real process in an empty network namespace, with a real egress process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from egress.door.netns import Refusals, acknowledgement, parse_snmp, route_request
from egress.doors.ticket import Ticket
from observability.events import Decision, EgressEvent, Phase, Reason, Via
from tests.egress.site import NONCE, OUTSIDE, enter, site

pytestmark = [pytest.mark.anyio, pytest.mark.netns, pytest.mark.skipif(os.getuid() != 0, reason="needs root")]

FETCH = {"fetch": {"allowed_hosts": ["web.example"]}}


async def test_the_proxy_inside_an_empty_namespace_carries_what_is_allowed() -> None:
    async with site(FETCH) as running:
        await running.start_door("fetch")
        assert (await running.inside("fetch", "print(http('web.example'))")).endswith("hello")
        refused = await running.inside("fetch", "print(http('evil.example'))")
        assert refused.startswith("HTTP/1.1 403 host_not_allowed")
        assert "ask the user to allow evil.example (server fetch)" in refused
        event = await running.event(lambda event: event.decision is Decision.DENY)
        assert (event.backend, event.door, event.host, event.port) == ("fetch", "fetch", "evil.example", 80)


async def test_a_direct_connection_is_closed_and_seen_with_where_it_went_and_the_name_it_showed() -> None:
    code = """
import ssl
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="evil.example")
try: tls.do_handshake()
except ssl.SSLWantReadError: pass
s = dial("198.51.100.7", 443); s.sendall(outgoing.read())
try: print(s.recv(10))
except ConnectionError: print("reset")
print(repr(http(None, 80, "198.51.100.8", "GET / HTTP/1.1\\r\\nHost: shown.example\\r\\n\\r\\n")))
"""
    async with site(FETCH) as running:
        await running.start_door("fetch")
        assert "hello" not in await running.inside("fetch", code)
        tls = await running.event(lambda event: event.destination == "198.51.100.7:443")
        assert (tls.reason, tls.via, tls.host, tls.decision) == (
            Reason.DIRECT_ATTEMPT,
            Via.DIRECT,
            "evil.example",
            Decision.DENY,
        )
        plain = await running.event(lambda event: event.destination == "198.51.100.8:80")
        assert plain.host == "shown.example"


async def test_attempts_on_other_ports_are_refused_at_once_and_counted() -> None:
    code = """
for port in (22, 8080):
    try: dial("198.51.100.7", port)
    except ConnectionRefusedError: print("refused")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b"x", ("198.51.100.7", 123))
"""
    async with site(FETCH) as running:
        await running.start_door("fetch")
        assert await running.inside("fetch", code) == "refused\nrefused"
        tcp = await running.event(lambda event: event.phase is Phase.COUNTED and event.method == "TCP")
        udp = await running.event(lambda event: event.phase is Phase.COUNTED and event.method == "UDP")
        assert (tcp.count, udp.count, tcp.reason) == (2, 1, Reason.DIRECT_ATTEMPT)


async def test_names_do_not_resolve_and_a_lookup_is_told_only_when_no_request_follows() -> None:
    code = """
print(lookup("only-asked.example")[0], lookup("web.example", "1.1.1.1")[0], lookup("web.example", kind=28)[0])
http("web.example")
"""
    async with site(FETCH) as running:
        await running.start_door("fetch")
        assert await running.inside("fetch", code) == "3 3 3"
        event = await running.event(lambda event: event.via is Via.DNS)
        assert (event.host, event.method, event.destination) == ("only-asked.example", "A", "8.8.8.8:53")
        assert [e.host for e in running.events if getattr(e, "via", None) is Via.DNS] == ["only-asked.example"]


async def test_dns_over_tcp_is_answered_too() -> None:
    code = """
s = dial("9.9.9.9", 53); q = query("a.example"); s.sendall(struct.pack("!H", len(q)) + q)
print(s.recv(512)[5] & 15)
"""
    async with site(FETCH) as running:
        await running.start_door("fetch")
        assert await running.inside("fetch", code) == "3"


async def test_malformed_dns_is_answered_and_counted() -> None:
    """Red team m7: it left no trace at all. Over UDP, and over TCP, where what is no query ends the connection."""
    code = """
good = query("a.example")
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.settimeout(10); u.connect(("8.8.8.8", 53))
def code(data): u.send(data); return u.recv(512)[3] & 15
chaos = good[:-2] + struct.pack("!H", 3)
print(code(chaos), code(good + b"x"), code(good[:2] + bytes([0x20]) + good[3:]), code(good[:5] + bytes([2]) + good[6:]))
for silent in (b"", b"x", good[:2] + bytes([0x80]) + good[3:]): u.send(silent)
print(code(good))
t = dial("9.9.9.9", 53); t.sendall(struct.pack("!H", len(chaos)) + chaos); print(t.recv(512)[5] & 15)
t.sendall(b"GET / HTTP/1.1" + bytes(0x4745 - 12)); print(t.recv(512)[5] & 15)
t = dial("9.9.9.9", 53); t.sendall(bytes(2)); print(t.recv(512))
"""
    async with site(FETCH) as running:
        await running.start_door("fetch")
        answers = (await running.inside("fetch", code)).splitlines()
        assert answers == ["5 1 4 1", "3", "5", "4", "b''"]

        def counted() -> list[EgressEvent]:
            return [
                event for event in running.events if isinstance(event, EgressEvent) and event.phase is Phase.COUNTED
            ]

        await running.until(lambda: sum(event.count for event in counted()) >= 10)
        assert {(event.via, event.reason, event.decision) for event in counted()} == {
            (Via.DNS, Reason.BAD_REQUEST, Decision.DENY)
        }
        assert sum(event.count for event in counted()) == 10
        assert all(event.detail.startswith("DNS: ") for event in counted())


async def test_a_server_that_looks_up_its_own_machine_is_no_alarm() -> None:
    """Red team m12: the name of a container without a network stands in no /etc/hosts."""
    code = """
own = "6b4718fe36eb"
print(lookup(own), lookup(own, kind=28), lookup("localhost"), lookup("1.0.0.127.in-addr.arpa", kind=12)[0])
print(lookup("last.example")[0])
"""
    async with site(FETCH) as running:
        await running.start_door("fetch", container="6b4718fe36eb" + "0" * 52)
        own, last = (await running.inside("fetch", code)).splitlines()
        assert own == "(0, ['127.0.0.1']) (0, []) (0, ['127.0.0.1']) 3"
        assert last == "3"
        await running.event(lambda event: event.host == "last.example")
        assert [e.host for e in running.events if getattr(e, "via", None) is Via.DNS] == ["last.example"]


async def test_direct_allow_carries_what_fits_the_address_that_was_answered() -> None:
    code = """
code, addresses = lookup("web.example")
print(code, addresses, lookup("web.example", kind=28), lookup("evil.example")[0])
get = "GET / HTTP/1.1\\r\\nHost: web.example\\r\\nConnection: close\\r\\n\\r\\n"
print(http(None, 80, addresses[0], get)[-5:])
print(repr(http(None, 80, "198.51.100.9", get)))
print(repr(http(None, 80, addresses[0], get.replace("web", "evil"))))
"""
    async with site({"fetch": {"allowed_hosts": ["web.example"], "direct": "allow"}}) as running:
        await running.start_door("fetch")
        answered, carried, elsewhere, other = (await running.inside("fetch", code)).splitlines()
        assert answered == f"0 ['{OUTSIDE}'] (0, []) 3"
        assert (carried, elsewhere, other) == ("hello", "''", "''")
        event = await running.event(lambda event: event.decision is Decision.ALLOW)
        assert (event.via, event.host, event.address) == (Via.DIRECT, "web.example", OUTSIDE)
        assert (await running.event(lambda e: e.destination == "198.51.100.9:80")).reason is Reason.DIRECT_ATTEMPT


async def test_a_tcp_rule_gives_its_name_an_address_of_its_own() -> None:
    code = """
code, addresses = lookup("db.example")
s = dial(addresses[0], 5432); print(code, addresses, s.recv(20)); s.sendall(b"q"); print(s.recv(5))
"""
    rule = {"host": "db.example", "port": 5432, "protocol": "tcp"}
    async with site({"fetch": {"allowed_hosts": [rule]}}) as running:
        await running.start_door("fetch", ports="80,443,5432")
        assert await running.inside("fetch", code) == "0 ['198.18.0.1'] b'greetings'\nb'q'"
        event = await running.event(lambda event: event.decision is Decision.ALLOW)
        assert (event.via, event.host, event.port, event.address) == (Via.TCP, "db.example", 5432, OUTSIDE)


async def test_a_door_gives_up_every_privilege() -> None:
    async with site(FETCH) as running:
        door = await running.start_door("fetch", wrap=("env", "STOCKADE_USER=70001", "unshare", "-n"))
        status = dict(line.split(":\t", 1) for line in read_status(door.pid))
        assert status["Uid"].split() == ["70001"] * 4
        assert status["Gid"].split() == ["70001"] * 4
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NoNewPrivs"] == "1"


async def test_without_net_admin_the_door_works_and_says_what_is_missing() -> None:
    wrap = ("unshare", "-n", "sh", "-c", 'ip link set lo up; exec setpriv --bounding-set=-net_admin "$@"', "sh")
    async with site(FETCH) as running:
        await running.start_door("fetch", wrap=wrap)
        assert (await running.inside("fetch", "print(http('web.example'))")).endswith("hello")
        assert "no AnyIP route" in (await running.notice("door_note")).message
        code = "try: dial('198.51.100.7', 443)\nexcept OSError as e: print(e.strerror)"
        assert await running.inside("fetch", code) == "Network is unreachable"


async def test_a_killed_egress_leaves_no_gap_and_comes_back_with_everything() -> None:
    async with site(FETCH) as running:
        await running.start_door("fetch")
        for _ in range(3):
            assert running.egress is not None
            running.egress.kill()
            running.egress.wait()
            code = "try: socket.socket().bind(('0.0.0.0', 443))\nexcept OSError as e: print(e.strerror)"
            assert await running.inside("fetch", code) == "Address already in use"
            running.start_egress()
            await running.until(lambda: "fetch" not in running.link.ready or running.link.connected)
            await running.link.wait_connected(15)
            await running.link.wait_door("fetch", 15)
            assert (await running.inside("fetch", "print(http('web.example'))")).endswith("hello")


async def test_a_killed_door_takes_its_tunnels_and_listeners_with_it() -> None:
    code = """
s = dial("127.0.0.1", 3128); s.sendall(b"CONNECT db.example:5432 HTTP/1.1\\r\\nHost: db.example:5432\\r\\n\\r\\n")
data = b""
while b"greetings" not in data: data += s.recv(100)
print("up", flush=True)
try: print(s.recv(10))
except ConnectionError: print("reset")
try: dial("127.0.0.1", 3128)
except ConnectionRefusedError: print("refused")
"""
    rule = {"host": "db.example", "port": 5432, "protocol": "tcp"}
    async with site({"fetch": {"allowed_hosts": [rule]}}) as running:
        door = await running.start_door("fetch")
        inside = asyncio.ensure_future(running.inside("fetch", code))
        await running.event(lambda event: event.decision is Decision.ALLOW)
        door.kill()
        assert (await inside).splitlines()[1:] in (["b''", "refused"], ["reset", "refused"])
        assert (await running.event(lambda event: event.phase is Phase.CLOSED)).reason is Reason.DOOR_CLOSED
        await running.until(lambda: ("fetch", "closed", "") in running.states)


async def test_a_new_port_of_the_policy_is_listened_on_at_once_and_a_taken_one_is_an_error() -> None:
    take = (
        "s = socket.socket(); s.bind(('127.0.0.1', 6000)); s.listen(); print('taken', flush=True); sys.stdin.read()"
    )
    async with site(FETCH) as running:
        door = await running.start_door("fetch")
        command = [*enter(door), sys.executable, "-c", "import socket, sys\n" + take]
        taker = running.spawn(command)
        assert taker.stdout is not None
        await asyncio.to_thread(taker.stdout.readline)
        await running.push({"fetch": {"allowed_hosts": ["web.example:7000", "web.example:6000"]}})
        assert "6000" in (await running.notice("listener_taken")).message
        code = "s = dial('198.51.100.7', 7000); s.sendall(b'x\\n'); s.recv(1)"
        await running.inside("fetch", code, check=False)
        assert (await running.event(lambda event: event.port == 7000)).reason is Reason.DIRECT_ATTEMPT
        await running.push(FETCH)
        code = "try: dial('198.51.100.7', 7000)\nexcept ConnectionRefusedError: print('refused')"
        async with asyncio.timeout(60):
            while await running.inside("fetch", code, check=False) != "refused":
                await asyncio.sleep(0.05)


async def test_of_many_policies_in_a_row_the_last_one_says_where_the_door_listens() -> None:
    """Pushed faster than a door answers: no listener of an earlier policy is left."""
    code = """
def there(port):
    s = socket.socket(); s.settimeout(5)
    return s.connect_ex(("198.51.100.9", port)) == 0
print([port for port in range(7000, 7012) if there(port)])
"""
    async with site({"fetch": {"allowed_hosts": ["web.example"]}}) as running:
        await running.start_door("fetch")
        for number in range(12):
            await running.push({"fetch": {"allowed_hosts": [f"web.example:{7000 + number}"]}})
        async with asyncio.timeout(60):
            while await running.inside("fetch", code) != "[7011]":
                await asyncio.sleep(0.1)


async def test_the_gateway_connects_to_a_loopback_port_inside() -> None:
    code = "s = socket.socket(); s.bind(('127.0.0.1', 8000)); s.listen(); print('up', flush=True); s.accept()[0].send(b'hi')"
    async with site(FETCH) as running:
        door = await running.start_door("fetch")
        with pytest.raises(ConnectionRefusedError, match="Connection refused"):
            await running.link.connect_inside("fetch", 8000)
        with pytest.raises(ConnectionRefusedError, match="not there"):
            await running.link.connect_inside("other", 8000)
        command = [*enter(door), sys.executable, "-c", "import socket\n" + code]
        server = running.spawn(command)
        assert server.stdout is not None
        await asyncio.to_thread(server.stdout.readline)
        sock = await running.link.connect_inside("fetch", 8000)
        reader, writer = await asyncio.open_connection(sock=sock)
        assert await reader.readexactly(2) == b"hi"
        writer.close()
        await writer.wait_closed()
        assert not [e for e in running.events if getattr(e, "phase", None) is Phase.COUNTED]


async def test_a_door_with_another_nonce_never_gets_in() -> None:
    async with site(FETCH) as running:
        await running.start_door("fetch")
        environment = {
            **running.environment,
            "STOCKADE_DOOR": "fetch",
            "STOCKADE_NONCE": NONCE.replace("0", "1"),
            "STOCKADE_PORTS": "80",
        }
        command = ["unshare", "-n", sys.executable, "-m", "egress.door.door"]
        impostor = running.spawn(command, environment)
        for _ in range(3):
            assert (await running.inside("fetch", "print(http('web.example'))")).endswith("hello")
        assert impostor.poll() is None
        assert running.states == [("fetch", "ready", "")]


async def test_a_dropped_door_has_nothing_any_more() -> None:
    async with site(FETCH) as running:
        await running.start_door("fetch")
        await running.link.drop_door("fetch")
        assert (await running.link.status())["doors"] == {}


NEIGHBOURS = """
import socket, threading
def serve(address):
    s = socket.socket(); s.bind((address, 5432)); s.listen(); print("up", flush=True)
    while True: s.accept()[0].send(address.encode())
threading.Thread(target=serve, args=("10.77.0.3",), daemon=True).start()
serve("10.77.0.2")
"""


async def test_a_connector_dials_the_allowed_names_of_its_network() -> None:
    hosts = "127.0.0.1 localhost\n10.77.0.2 app.internal\n10.77.0.3 other.internal\n"
    code = """
s = dial("127.0.0.1", 3128); s.sendall(b"CONNECT app.internal:5432 HTTP/1.1\\r\\nHost: app.internal:5432\\r\\n\\r\\n")
data = b""
while piece := s.recv(100): data += piece
print(data.split(b"\\r\\n\\r\\n")[1])
print(http("other.internal:5432").splitlines()[0])
"""
    rule = {"host": "app.internal", "port": 5432, "protocol": "tcp", "private": True}
    async with site({"fetch": {"allowed_hosts": [rule], "join": ["app_default"]}}) as running:
        ticket = Ticket(door="join/app", backend="", nonce=NONCE, role="connector", network="app_default")
        await running.link.expect_door(ticket)
        (running.directory / "hosts").write_text(hosts)
        script = (
            f"mount --bind {running.directory}/hosts /etc/hosts; ip link set lo up; "
            "ip addr add 10.77.0.2/32 dev lo; ip addr add 10.77.0.3/32 dev lo; "
            'exec "$0" -m egress.door.connector'
        )
        environment = {**running.environment, "STOCKADE_DOOR": "join/app", "STOCKADE_NONCE": NONCE}
        connector = running.spawn(["unshare", "-nm", "sh", "-c", script, sys.executable], environment)
        await running.link.wait_door("join/app", 15)
        neighbours = running.spawn([*enter(connector), sys.executable, "-c", NEIGHBOURS])
        assert neighbours.stdout is not None
        for _ in range(2):
            await asyncio.to_thread(neighbours.stdout.readline)
        await running.start_door("fetch")
        carried, denied = (await running.inside("fetch", code)).splitlines()
        assert carried == "b'10.77.0.2'"
        assert denied == "HTTP/1.1 403 host_not_allowed"


def read_status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()


def test_the_kernels_counts_are_read() -> None:
    text = "Tcp: A AttemptFails B\nTcp: 1 22 3\nUdp: In NoPorts\nUdp: 5 6\nUdpLite: NoPorts\nUdpLite: 9\n"
    assert parse_snmp(text) == Refusals(22, 6)
    assert parse_snmp("") == Refusals()


def test_netlink_messages_are_read_and_written() -> None:
    message = route_request(1)
    assert len(message) == int.from_bytes(message[:4], "little") == 36
    refused = (
        (36).to_bytes(4, "little") + (2).to_bytes(2, "little") + bytes(10) + (-1).to_bytes(4, "little", signed=True)
    )
    assert acknowledgement(refused) == 1

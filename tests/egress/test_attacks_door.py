"""What a hostile backend may try from inside its namespace: at the name server, the direct ports, the door's rendezvous."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from egress.passing import receive_packet, send_packet
from gateway.runtime.egress_link import DoorTicket
from observability.events import Decision, Reason, Via

from .harness import client_hello
from .site import NONCE, OUTSIDE, site

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
        await running.link.expect_door(DoorTicket(door="two", backend="two", nonce="2" * 32))
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

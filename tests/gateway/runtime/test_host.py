"""The machine's addresses and listeners, from /proc as the kernel writes it."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest

from egress.net.interfaces import addresses_of_fib_trie, addresses_of_if_inet6, interface_addresses
from gateway.runtime.inventory.host import host_listeners

FIB = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
Local:
  +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 192.0.2.2
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""


def test_local_addresses_are_read_from_the_routing_trie() -> None:
    assert addresses_of_fib_trie(FIB) == {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("192.0.2.2")}


def test_ipv6_addresses_are_read() -> None:
    text = "fe800000000000000042aefffe1a2b3c 05 40 20 80  docker0\n00000000000000000000000000000001 01 80 10 80 lo\n"
    assert ipaddress.ip_address("fe80::42:aeff:fe1a:2b3c") in addresses_of_if_inet6(text)


def test_this_machine_has_addresses_and_loopback_is_none_of_them() -> None:
    assert not [address for address in interface_addresses() if address.is_loopback]


def test_a_machine_without_proc_has_none(tmp_path: Path) -> None:
    assert interface_addresses(tmp_path) == frozenset()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("family", "address", "answer"),
    [
        pytest.param(socket.AF_INET, "127.0.0.1", "loopback", id="loopback"),
        pytest.param(socket.AF_INET, "0.0.0.0", "all", id="every address"),
        pytest.param(socket.AF_INET6, "::1", "loopback", id="IPv6 loopback"),
        pytest.param(socket.AF_INET6, "::ffff:127.0.0.1", "loopback", id="mapped loopback"),
        pytest.param(socket.AF_INET6, "::", "all", id="every IPv6 address"),
    ],
)
async def test_who_listens_on_a_port(family: int, address: str, answer: str) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))
        port = sock.getsockname()[1]
        assert await host_listeners(port) == "none"
        sock.listen()
        assert await host_listeners(port) == answer

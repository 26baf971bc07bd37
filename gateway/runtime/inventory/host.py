"""The machine that the gateway runs on: changes of its addresses, listeners on a port. Linux only; else empty."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from pathlib import Path
from typing import Literal

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
ADDRESS_GROUPS = 0x10 | 0x100
"""RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR (rtnetlink(7))."""
LISTEN = "0A"
"""`TCP_LISTEN` as /proc/net/tcp writes it."""


class AddressChanges:
    """Waits for this machine to get or lose an address, so that a new one is closed to backends at once.

    Where the kernel does not report it (not Linux), `wait` always times out.
    """

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        with contextlib.suppress(OSError, AttributeError):
            self.sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
            self.sock.bind((0, ADDRESS_GROUPS))

    async def wait(self, timeout_s: float) -> None:
        """Until something changed, at most that long."""
        if self.sock is None:
            await asyncio.sleep(timeout_s)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.heard(self.sock)

    async def heard(self, sock: socket.socket) -> None:
        """Reads all pending messages, at least one. A lost one (ENOBUFS) counts as a change too."""
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_recv(sock, 65536)
        with contextlib.suppress(OSError):
            while sock.recv(65536):
                pass

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()


def listener_addresses(text: str, port: int) -> list[IP]:
    """The local addresses of sockets that listen on `port` in /proc/net/tcp or tcp6."""
    found: list[IP] = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        address, _, hex_port = fields[1].partition(":")
        if fields[3] == LISTEN and int(hex_port, 16) == port:
            found.append(decode_address(address))
    return found


def decode_address(text: str) -> IP:
    """An address as /proc/net/tcp writes it: 32-bit words in the machine's (little-endian) byte order."""
    raw = bytes.fromhex(text)
    words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    return ipaddress.ip_address(words)


def is_loopback(address: IP) -> bool:
    """Whether only this machine reaches it (also when it is mapped into IPv6)."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


async def host_listeners(port: int, proc: Path = Path("/proc/net")) -> Literal["none", "loopback", "all"]:
    """Whether something on this machine listens on a TCP port, and whether only on loopback addresses."""
    found: list[IP] = []
    for name in ("tcp", "tcp6"):
        try:
            found += listener_addresses((proc / name).read_text(), port)
        except OSError:
            continue
    if not found:
        return "none"
    return "loopback" if all(is_loopback(address) for address in found) else "all"

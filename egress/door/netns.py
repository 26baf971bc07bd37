"""The network namespace of a door: its one route, and what its kernel counted.

Theory of operation
-------------------
The namespace holds `lo` and nothing else. One route, `local default dev lo` in table `local` (Linux "AnyIP"),
makes *every* IPv4 address local: a connection to 93.184.216.34:443 arrives at a listener on 0.0.0.0:443 of
the same namespace, and `getsockname` of the accepted socket says what was dialled. Where nothing listens the
kernel answers at once with RST or port unreachable, and counts it in `/proc/net/snmp`.

Standard library only: the door runs on it. rtnetlink(7), netlink(7), netdevice(7).
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

NETLINK_ROUTE = 0
RTM_NEWROUTE = 24
NLMSG_ERROR = 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE = 0x1, 0x4, 0x100, 0x400
RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL = 255, 4, 254, 2
RTA_OIF = 4
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x1


def raise_loopback() -> None:
    """Bring `lo` up. Raises OSError (EPERM without NET_ADMIN)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0]
        if not flags & IFF_UP:
            fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))


def add_anyip_route() -> None:
    """`ip route replace local default dev lo`. Raises OSError (EPERM without NET_ADMIN)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE) as sock:
        sock.bind((0, 0))
        sock.send(route_request(socket.if_nametoindex("lo")))
        code = acknowledgement(sock.recv(4096))
    if code:
        raise OSError(code, os.strerror(code))


def route_request(interface: int) -> bytes:
    """The netlink message that adds the route on the interface with that index."""
    route = struct.pack(
        "=BBBBBBBBI", socket.AF_INET, 0, 0, 0, RT_TABLE_LOCAL, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, 0
    )
    body = route + struct.pack("=HHI", 8, RTA_OIF, interface)
    flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return struct.pack("=IHHII", 16 + len(body), RTM_NEWROUTE, flags, 1, 0) + body


def acknowledgement(data: bytes) -> int:
    """The errno of a netlink acknowledgement, 0 for success."""
    kind = struct.unpack_from("=H", data, 4)[0]
    return -int(struct.unpack_from("=i", data, 16)[0]) if kind == NLMSG_ERROR else 0


@dataclass(frozen=True, slots=True)
class Refusals:
    """Attempts that this namespace's kernel refused, since the namespace was made."""

    attempt_fails: int = 0
    """TCP connections that were refused (`Tcp: AttemptFails`)."""
    no_ports: int = 0
    """UDP datagrams to a port where nothing listens (`Udp: NoPorts`)."""


def parse_snmp(text: str) -> Refusals:
    """Read `/proc/net/snmp`; what is not there counts 0."""
    names: dict[str, list[str]] = {}
    values: dict[tuple[str, str], int] = {}
    for line in text.splitlines():
        group, _, rest = line.partition(":")
        if group in names:
            values.update(
                ((group, name), int(value)) for name, value in zip(names[group], rest.split(), strict=False)
            )
        names[group] = rest.split()
    return Refusals(values.get(("Tcp", "AttemptFails"), 0), values.get(("Udp", "NoPorts"), 0))

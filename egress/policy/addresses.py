"""What an IP address is: one class each, from a table of our own.

`ipaddress.is_global` is not used: on Python 3.11.7 it calls 224.0.0.1, 64:ff9b::a00:5, 2002:a00:5::1, fec0::1 and
168.63.129.16 global. The table follows the IANA special-purpose registries (RFC 6890 and its successors), plus the
addresses at which clouds serve metadata.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import StrEnum
from functools import lru_cache
from typing import Final, TypeAlias

from observability.events import Reason

IP: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Net: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class AddressClass(StrEnum):
    """What an address leads to."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    UNSPECIFIED = "unspecified"
    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    METADATA = "metadata"
    CGNAT = "cgnat"
    MULTICAST = "multicast"
    RESERVED = "reserved"
    EMBEDDED = "embedded"


_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        (
            "169.254.169.254",  # AWS, GCP, Azure, OpenStack, DigitalOcean, Oracle
            "169.254.170.2",  # AWS ECS task credentials
            "169.254.170.23",  # AWS EKS pod identity
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure's wire server: a public address that leads to the host
            "192.0.0.192",  # Oracle Cloud
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # AWS EKS pod identity
            "fd20:ce::254",  # GCP
        ),
    )
)

METADATA_NAMES: Final = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
    }
)
"""The names of the same services."""

_TABLE: Final[tuple[tuple[str, AddressClass], ...]] = (
    ("0.0.0.0/32", AddressClass.UNSPECIFIED),
    ("0.0.0.0/8", AddressClass.RESERVED),
    ("10.0.0.0/8", AddressClass.PRIVATE),
    ("100.64.0.0/10", AddressClass.CGNAT),
    ("127.0.0.0/8", AddressClass.LOOPBACK),
    ("169.254.0.0/16", AddressClass.LINK_LOCAL),
    ("172.16.0.0/12", AddressClass.PRIVATE),
    ("192.0.0.0/24", AddressClass.RESERVED),
    ("192.0.2.0/24", AddressClass.RESERVED),
    ("192.31.196.0/24", AddressClass.RESERVED),
    ("192.52.193.0/24", AddressClass.RESERVED),
    ("192.88.99.0/24", AddressClass.RESERVED),
    ("192.168.0.0/16", AddressClass.PRIVATE),
    ("192.175.48.0/24", AddressClass.RESERVED),
    ("198.18.0.0/15", AddressClass.RESERVED),
    ("198.51.100.0/24", AddressClass.RESERVED),
    ("203.0.113.0/24", AddressClass.RESERVED),
    ("224.0.0.0/4", AddressClass.MULTICAST),
    ("240.0.0.0/4", AddressClass.RESERVED),
    ("::/128", AddressClass.UNSPECIFIED),
    ("::1/128", AddressClass.LOOPBACK),
    ("::/96", AddressClass.EMBEDDED),  # IPv4-compatible
    ("::ffff:0:0/96", AddressClass.EMBEDDED),  # IPv4-mapped
    ("::ffff:0:0:0/96", AddressClass.EMBEDDED),  # IPv4-translated (SIIT)
    ("64:ff9b::/96", AddressClass.EMBEDDED),  # NAT64
    ("64:ff9b:1::/48", AddressClass.EMBEDDED),  # local-use NAT64
    ("100::/64", AddressClass.RESERVED),
    ("2001::/32", AddressClass.EMBEDDED),  # Teredo
    ("2001::/23", AddressClass.RESERVED),
    ("2001:db8::/32", AddressClass.RESERVED),
    ("2002::/16", AddressClass.EMBEDDED),  # 6to4
    ("3fff::/20", AddressClass.RESERVED),
    ("5f00::/16", AddressClass.RESERVED),
    ("fc00::/7", AddressClass.PRIVATE),
    ("fe80::/10", AddressClass.LINK_LOCAL),
    ("fec0::/10", AddressClass.PRIVATE),
    ("ff00::/8", AddressClass.MULTICAST),
)
_GLOBAL_UNICAST_6: Final = ipaddress.IPv6Network("2000::/3")
_ISATAP: Final = frozenset((0x00005EFE, 0x02005EFE))


def _by_length(version: int) -> tuple[tuple[int, int, AddressClass], ...]:
    nets = [(ipaddress.ip_network(text), kind) for text, kind in _TABLE]
    mine = sorted((n for n in nets if n[0].version == version), key=lambda n: -n[0].prefixlen)
    return tuple((int(net.network_address), int(net.netmask), kind) for net, kind in mine)


_V4: Final = _by_length(4)
_V6: Final = _by_length(6)


@lru_cache(maxsize=4096)
def classify(address: IP) -> AddressClass:
    """The class of an address. IPv6 outside 2000::/3 that the table does not name is reserved (RFC 4291 2.4)."""
    if address in _METADATA:
        return AddressClass.METADATA
    number = int(address)
    for network, mask, kind in _V4 if address.version == 4 else _V6:
        if number & mask == network:
            return kind
    if address.version == 6:
        if (number >> 32) & 0xFFFFFFFF in _ISATAP:
            return AddressClass.EMBEDDED
        if address not in _GLOBAL_UNICAST_6:
            return AddressClass.RESERVED
    return AddressClass.PUBLIC


def embedded_ipv4(address: IP) -> tuple[ipaddress.IPv4Address, ...]:
    """Every IPv4 address that an IPv6 address could be delivered to by translation; empty for any other."""
    if address.version == 4 or classify(address) is not AddressClass.EMBEDDED:
        return ()
    number = int(address)
    low = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    if number >> 112 == 0x2002:
        return (ipaddress.IPv4Address((number >> 80) & 0xFFFFFFFF),)
    if number >> 96 == 0x20010000:
        return (ipaddress.IPv4Address((number >> 64) & 0xFFFFFFFF), ipaddress.IPv4Address(int(low) ^ 0xFFFFFFFF))
    return (low,)


def plain(address: IP) -> IP:
    """An IPv4-mapped IPv6 address as the IPv4 address that a socket would really reach; any other as it is."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def in_any(address: IP, networks: Iterable[Net]) -> bool:
    """Whether an address lies in one of the networks (of its own version)."""
    return any(address.version == network.version and address in network for network in networks)


_REASONS: Final[dict[AddressClass, Reason | None]] = {
    AddressClass.PUBLIC: None,
    AddressClass.LOOPBACK: Reason.ADDRESS_LOOPBACK,
    AddressClass.UNSPECIFIED: Reason.ADDRESS_LOOPBACK,
    AddressClass.PRIVATE: Reason.ADDRESS_PRIVATE,
    AddressClass.LINK_LOCAL: Reason.ADDRESS_LINK_LOCAL,
    AddressClass.METADATA: Reason.ADDRESS_METADATA,
    AddressClass.CGNAT: Reason.ADDRESS_CGNAT,
    AddressClass.MULTICAST: Reason.ADDRESS_MULTICAST,
    AddressClass.RESERVED: Reason.ADDRESS_RESERVED,
    AddressClass.EMBEDDED: Reason.ADDRESS_EMBEDDED,
}


def reason_for(kind: AddressClass) -> Reason | None:
    """The deny reason of a class; None for public."""
    return _REASONS[kind]

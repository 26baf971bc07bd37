"""Every address on this machine's interfaces, from /proc/net. Linux only; elsewhere there is none to see.

Both sides need it and must agree: the gateway for the addresses of the host, the egress for its own.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from egress.policy.names import IP

LOCAL_LINE = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


def addresses_of_fib_trie(text: str) -> frozenset[IP]:
    """The local IPv4 addresses in /proc/net/fib_trie."""
    return frozenset(ipaddress.IPv4Address(found) for found in LOCAL_LINE.findall(text))


def addresses_of_if_inet6(text: str) -> frozenset[IP]:
    """The IPv6 addresses in /proc/net/if_inet6."""
    rows = (line.split() for line in text.splitlines())
    return frozenset(ipaddress.IPv6Address(int(row[0], 16)) for row in rows if len(row) == 6)


def interface_addresses(proc: Path = Path("/proc/net")) -> frozenset[IP]:
    """Every address on any interface, loopback left out."""
    found: frozenset[IP] = frozenset()
    for name, parse in (("fib_trie", addresses_of_fib_trie), ("if_inet6", addresses_of_if_inet6)):
        try:
            found |= parse((proc / name).read_text())
        except OSError:
            continue
    return frozenset(address for address in found if not address.is_loopback)

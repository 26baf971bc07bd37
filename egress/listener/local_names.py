"""Names that mean the asker's own machine: every resolver answers them itself, and looking them up is no attempt.

Servers ask for the name of the machine that they run on at each start (`socket.getfqdn`, `InetAddress.getLocalHost`), and
for `localhost`. In a container without a network, nothing in /etc/hosts answers the first, so the question comes here.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from egress.listener.dns import Query, build_response

LOOPBACK: Final = ipaddress.ip_address("127.0.0.1")
TTL_S: Final = 86400
_LOCALHOST: Final = re.compile(r"(?:.*\.)?localhost|localhost\.localdomain")
"""RFC 6761 6.3, and what many a /etc/hosts says."""
_REVERSE: Final = re.compile(r"(?:.*\.)?(?:0|127)\.in-addr\.arpa|[01](?:\.0){31}\.ip6\.arpa")
"""Loopback and unspecified addresses, which no resolver asks anybody else about (RFC 6303 4.2, 4.3)."""


def answer_locally(query: Query, hostname: str) -> bytes | None:
    """What a resolver on the machine `hostname` answers by itself; None for every other name.

    A machine that has IPv4 only: it has no IPv6 address, and no records of any other type.
    """
    if (hostname and query.name == hostname.lower()) or _LOCALHOST.fullmatch(query.name):
        return build_response(query, addresses=[LOOPBACK], ttl=TTL_S)
    if _REVERSE.fullmatch(query.name):
        return build_response(query, nxdomain=True)
    return None

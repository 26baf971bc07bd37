"""Which denials one more rule would lift, so that advice is given only where it helps."""

from __future__ import annotations

import ipaddress

from egress.policy.addresses import AddressClass, classify, embedded_ipv4
from observability.events import Reason

NAMED_BY_HOST = frozenset(
    {Reason.EMPTY_POLICY, Reason.HOST_NOT_ALLOWED, Reason.IP_NOT_ALLOWED, Reason.PORT_NOT_ALLOWED}
)
"""Denials that one more rule would lift."""


def liftable(reason: Reason | None, host: str, *, standalone: bool = False) -> bool:
    """Whether one more rule would lift the denial: none opens a container's own loopback, however it is written."""
    if reason not in NAMED_BY_HOST or not host:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    inside = (AddressClass.LOOPBACK, AddressClass.UNSPECIFIED)
    return standalone or not any(classify(one) in inside for one in (address, *embedded_ipv4(address)))

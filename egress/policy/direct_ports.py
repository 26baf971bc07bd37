"""Which ports a door listens on for programs that ignore the proxy."""

from __future__ import annotations

from egress.door.ports import OWN_PORTS
from egress.policy.rules import Policy

MAX_RANGE = 64


def direct_ports(policy: Policy, own_port: int = 0) -> tuple[int, ...]:
    """The TCP ports that a door listens on for programs that ignore the proxy: 80, 443 and what the policy names, but
    for the port that the backend itself listens on.

    A range counts up to 64 ports: behind a wider one, other ports are refused by the kernel and counted.
    """
    ports = {80, 443}
    for named in (*policy.ports, *(named for rule in policy.rules for named in rule.ports)):
        ports.update(range(named.first, min(named.last, named.first + MAX_RANGE - 1) + 1))
    return tuple(sorted(ports - OWN_PORTS - {own_port}))

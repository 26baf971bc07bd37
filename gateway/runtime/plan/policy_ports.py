"""The ports that a policy names, for the door to listen on from its first moment."""

from __future__ import annotations

from collections.abc import Mapping

from egress.policy.decide import parse_policy
from egress.policy.direct_ports import direct_ports


def policy_ports(block: Mapping[str, object], own_port: int | None = None) -> frozenset[int]:
    """The direct ports of a network block, as the egress counts them: never the backend's own. Raises PolicyError."""
    return frozenset(direct_ports(parse_policy(block), own_port or 0))

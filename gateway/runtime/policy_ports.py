"""The ports that a policy names, for the door to listen on from its first moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from egress.policy import parse_policy

from .plans import OUR_PORTS

USUAL: Final = frozenset({80, 443})
WIDEST: Final = 64
"""Ports of one range that are listened on; `egress.server.direct_ports` counts the same way."""


def policy_ports(block: Mapping[str, object]) -> frozenset[int]:
    """The direct ports of a network block: 80, 443 and what it names. Raises PolicyError."""
    policy = parse_policy(block)
    spans = [*policy.ports, *(span for rule in policy.rules for span in rule.ports)]
    named = (port for span in spans for port in range(span.first, min(span.last, span.first + WIDEST - 1) + 1))
    return USUAL.union(named) - OUR_PORTS

"""The ports that a policy names, for the door to listen on."""

from __future__ import annotations

from collections.abc import Mapping

from egress.policy import parse_policy


def policy_ports(block: Mapping[str, object]) -> frozenset[int]:
    """Every port that the block names for all hosts or for one. Raises PolicyError."""
    policy = parse_policy(block)
    ranges = [*policy.ports, *(span for rule in policy.rules for span in rule.ports)]
    return frozenset(port for span in ranges for port in range(span.first, span.last + 1))

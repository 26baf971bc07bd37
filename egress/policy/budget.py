"""What one backend may use at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one backend may use at once. From the policy's `limits`, or these."""

    connections: int = 1024
    """Client connections open at once, over all doors of the backend."""
    rate: float = 200.0
    """New connections and requests a second; twice that in a burst."""
    dns_rate: float = 50.0
    """DNS queries a second; twice that in a burst."""
    lookups: int = 16
    """Lookups under way at once."""
    head_timeout_s: float = 15.0
    """For a whole request head, or the first bytes in a tunnel."""
    idle_timeout_s: float = 600.0
    """For a tunnel or an exchange in which no byte moves, and a kept-alive connection without a request."""

"""What the gateway announces to the egress before a door comes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """A door (or connector) that will connect to the egress, and the nonce that it will present."""

    door: str
    """The door's id: the backend's name, or `NAME/SESSION`."""
    backend: str
    nonce: str
    """At least 16 characters that cannot be guessed."""
    container: str = ""
    generation: int = 0
    role: str = "door"
    """`door`, or `connector` for one that stands on a network that a backend joins."""
    network: str = ""
    """For a connector: the network, as the policy's `join` names it."""

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Ticket:
        """Raises ValueError or TypeError when a field is missing or of a wrong type."""
        values = {name: message[name] for name in cls.__dataclass_fields__ if name in message}
        ticket = cls(**values)
        if not all(isinstance(value, str) for value in (ticket.door, ticket.backend, ticket.nonce)):
            raise ValueError("door, backend and nonce are strings")
        if len(ticket.nonce) < 16:
            raise ValueError("the nonce is too short")
        return ticket

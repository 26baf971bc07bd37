"""Whose process ends where a client session needs one of its own and there are as many as there may be.

A process holds its client's state, so one client's session never ends for another's: the client that wants one more gives
up its own oldest one that is idle, or is refused. Where there are several clients, none may have all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owned:
    """A connection that belongs to one session."""

    owner: str
    principal: str
    used: float
    idle: bool


class Full(Exception):
    """Raised when nothing of the client's own can end for its new session."""


def to_end(owned: Sequence[Owned], principal: str, most: int, *, alone: bool) -> Owned | None:
    """The connection that ends for a new one of this principal; None where there is room. Raises Full."""
    mine = [one for one in owned if one.principal == principal]
    share = most if alone else max(1, most * 3 // 4)
    if len(owned) < most and len(mine) < share:
        return None
    idle = [one for one in mine if one.idle]
    if idle:
        return min(idle, key=lambda one: one.used)
    raise Full(
        f"{len(owned)} client sessions use it already, each with a process of its own ({len(mine)} of them this client's, "
        "none idle), and another client's is not ended for this one. Try again when a session has ended"
    )

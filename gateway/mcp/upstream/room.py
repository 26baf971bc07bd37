"""Whose process ends where a client session needs one of its own and there are as many as there may be.

A process holds its client's state, so one client's session never ends for another's: the client that wants one more gives
up its own oldest one that is idle, or is refused. Where there are several clients, none may have all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.mcp.call.caller import Caller
    from gateway.mcp.upstream.sharing import ConnectionKey, Line

_MAX_FAREWELLS: Final = 4096


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


@dataclass(frozen=True, slots=True)
class Farewell:
    """Why a session's own process ended before the session did."""

    why: str
    refuse: bool
    """Its next call is refused with that, since it may count on what is lost; else the answer says it."""


class Owners:
    """Whose the connections of one backend are that belong to one session each, and what those that ended have to hear."""

    def __init__(self) -> None:
        self._principals: dict[str, str] = {}
        self._farewells: dict[str, Farewell] = {}
        self.may_end: Callable[[str], bool] = lambda _owner: True
        """Whether a session has nothing under way anywhere."""
        self.on_evicted: Callable[[str, str], None] = lambda _owner, _why: None
        """Called when a session lost its process to another one of the same client's, and why."""

    def for_new(
        self,
        owner: str,
        caller: Caller,
        lines: Mapping[ConnectionKey, Line],
        opening: Iterable[ConnectionKey],
        most: int,
    ) -> str | None:
        """Whose connection ends for a new one of this owner's; None where there is room. Raises Full."""
        principal = self._principals[owner] = caller.principal.key
        owned = [
            Owned(key.owner, self._principals.get(key.owner, ""), line.used, line.idle and self.may_end(key.owner))
            for key, line in lines.items()
            if key.owner
        ]
        owned += [Owned(key.owner, self._principals.get(key.owner, ""), 0.0, False) for key in opening if key.owner]
        found = to_end(owned, principal, most, alone=not caller.view.restricted)
        return found.owner if found is not None else None

    def evicted(self, owner: str, why: str) -> None:
        """Its process ended for another session's: it is told, and a session of an older client ends."""
        self._leave_word(owner, Farewell(why, refuse=True))
        self.on_evicted(owner, why)

    def reaped(self, owner: str, why: str) -> None:
        """Its process ended because nobody used it."""
        self._leave_word(owner, Farewell(why, refuse=False))

    def _leave_word(self, owner: str, farewell: Farewell) -> None:
        if len(self._farewells) >= _MAX_FAREWELLS:
            del self._farewells[next(iter(self._farewells))]
        self._farewells[owner] = farewell

    def farewell(self, owner: str) -> Farewell | None:
        """What its next call has to hear; said once."""
        return self._farewells.pop(owner, None)

    def forget(self, owner: str) -> None:
        """It is gone."""
        self._principals.pop(owner, None)
        self._farewells.pop(owner, None)
